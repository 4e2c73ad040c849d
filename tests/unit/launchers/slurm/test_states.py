"""What Slurm's answers mean. The outputs were recorded from Slurm 22.05."""

from __future__ import annotations

from typing import get_args

import pytest

from galley.spec import FailureClass, State
from launchers.slurm.recall import read_squeue
from launchers.slurm.states import FORGOTTEN, STATES, Seen, read_array, read_sacct, read_scontrol

RUNNING = (
    "JobId=1 JobName=run UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 Nice=0"
    " Account=(null) QOS=(null) JobState={state} Reason={reason} Dependency=(null) Requeue=1 Restarts=0"
    " BatchFlag=1 Reboot=0 ExitCode={code}:0 RunTime=00:00:02 TimeLimit=365-00:00:00 NodeList=node[1-2]"
    " Command=/a b JobState=FAILED Reason=x Dependency= ExitCode=9:0 /job.sh Power= \n"
)
# squeue(1), JOB STATE CODES of 22.05 and of 25.05
DOCUMENTED = [
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "CONFIGURING",
    "COMPLETING",
    "DEADLINE",
    "EXPEDITING",
    "FAILED",
    "LAUNCH_FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PENDING",
    "POWER_UP_NODE",
    "PREEMPTED",
    "RECONFIG_FAIL",
    "RUNNING",
    "RESV_DEL_HOLD",
    "REQUEUE_FED",
    "REQUEUE_HOLD",
    "REQUEUED",
    "RESIZING",
    "REVOKED",
    "SIGNALING",
    "SPECIAL_EXIT",
    "STAGE_OUT",
    "STOPPED",
    "SUSPENDED",
    "TIMEOUT",
]


ARRAY = """\
JobId=10 ArrayJobId=10 ArrayTaskId={waiting}%2 JobName=a JobState=PENDING Reason=JobArrayTaskLimit{rest}
JobId=12 ArrayJobId=10 ArrayTaskId=1 JobName=a JobState=RUNNING Reason=None{rest}
JobId=11 ArrayJobId=10 ArrayTaskId=0 JobName=a JobState=FAILED Reason=NonZeroExitCode{rest}
"""


def test_the_tasks_of_an_array_are_told_apart() -> None:
    waiting = Seen("PENDING", "JobArrayTaskLimit")
    found = {0: Seen("FAILED", "NonZeroExitCode"), 1: Seen("RUNNING"), 3: waiting, 5: waiting, 6: waiting}
    rest = " Dependency=(null) ExitCode=0:0 RunTime=0"
    assert read_array(ARRAY.format(waiting="3,5-6", rest=rest)) == found
    assert read_array("") == {}


def test_every_documented_state_has_a_meaning() -> None:
    assert sorted(STATES) == sorted(DOCUMENTED)


def test_meanings_are_states_and_classes_of_galley() -> None:
    for meaning in STATES.values():
        assert meaning.state in get_args(State)
        assert meaning.failure_class in get_args(FailureClass)
        assert (meaning.failure_class == "user") == (not meaning.why), "a class of its own has a reason"


@pytest.mark.parametrize(
    ("state", "reason", "code", "seen"),
    [
        ("RUNNING", "None", 0, Seen("RUNNING", "", 0)),
        ("PENDING", "Resources", 0, Seen("PENDING", "Resources", 0)),
        ("PENDING", "Nodes_required_for_job_are_DOWN", 0, Seen("PENDING", "Nodes required for job are DOWN")),
        ("FAILED", "NonZeroExitCode", 4, Seen("FAILED", "NonZeroExitCode", 4)),
    ],
)
def test_scontrol_is_read_before_anything_that_a_user_named(
    state: str, reason: str, code: int, seen: Seen
) -> None:
    assert read_scontrol(RUNNING.format(state=state, reason=reason, code=code)) == seen


def test_a_state_that_no_table_has_is_unknown() -> None:
    assert read_scontrol(RUNNING.format(state="LEVITATING", reason="None", code=0)).meaning.state == "unknown"


@pytest.mark.parametrize("text", ["", "\n", "slurm_load_jobs error: Invalid job id specified\n"])
def test_a_job_that_is_not_shown_is_forgotten(text: str) -> None:
    assert read_scontrol(text) == FORGOTTEN
    assert FORGOTTEN.meaning.state == "unknown"


@pytest.mark.parametrize(
    ("text", "state", "code"),
    [
        ("COMPLETED|0:0\n", "succeeded", 0),
        ("CANCELLED by 1000|0:15\n", "cancelled", 0),
        ("NODE_FAIL|0:0\nCOMPLETED|0:0\n", "succeeded", 0),  # a job that was requeued has a line a start
        ("FAILED|4:0\n", "failed", 4),
        ("OUT_OF_MEMORY|0:125\n", "failed", 0),
        ("", "unknown", 0),
    ],
)
def test_the_accounting_is_read_by_its_last_line(text: str, state: State, code: int) -> None:
    seen = read_sacct(text)
    assert (seen.meaning.state, seen.exit_code) == (state, code)


@pytest.mark.parametrize(("code", "state"), [(5, "cancelled"), (66, "failed"), (4, "failed"), (1, "failed")])
def test_the_scripts_own_exit_codes_tell_more(code: int, state: State) -> None:
    assert Seen("FAILED", "NonZeroExitCode", code).meaning.state == state


def test_jobs_are_found_by_the_script_that_they_run() -> None:
    one = "12|/runs/a b/plan/job.sh\n13|/runs/c/plan/job.sh\n14|(null)\n"
    assert list(read_squeue(one, "/runs/a b/plan/job.sh")) == ["12"]
    assert list(read_squeue(one, "/runs/a")) == []
    several = f"CLUSTER: alpha\n{one}\nCLUSTER: beta\n7|/runs/c/plan/job.sh\n"
    assert list(read_squeue(several, "/runs/c/plan/job.sh")) == ["13;alpha", "7;beta"]
