"""Slurm's states of a job, as tables. Names that are in no table are unknown, never guessed.

The states are those of `squeue --helpstate` and of JOB STATE CODES in squeue(1), 22.05 to 25.05.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from galley.spec import FailureClass, State


@dataclass(frozen=True)
class Meaning:
    """A state of Slurm in Galley's terms.

    Attributes:
        failure_class: why the job failed, if the state tells.
        why: for the message; empty if the state does not tell.
    """

    state: State
    failure_class: FailureClass = "user"
    why: str = ""


UNKNOWN = Meaning("unknown")
STATES = {
    # of jobs that have not started, or will start again
    "PENDING": Meaning("queued"),
    "CONFIGURING": Meaning("queued"),
    "POWER_UP_NODE": Meaning("queued"),
    "REQUEUED": Meaning("queued"),
    "REQUEUE_FED": Meaning("queued"),
    "REQUEUE_HOLD": Meaning("queued"),
    "RESV_DEL_HOLD": Meaning("queued"),
    "SPECIAL_EXIT": Meaning("queued"),
    # of jobs that may have processes
    "RUNNING": Meaning("running"),
    "COMPLETING": Meaning("running"),
    "EXPEDITING": Meaning("running"),
    "RESIZING": Meaning("running"),
    "SIGNALING": Meaning("running"),
    "STAGE_OUT": Meaning("running"),
    "STOPPED": Meaning("running"),
    "SUSPENDED": Meaning("running"),
    # of jobs that have ended
    "COMPLETED": Meaning("succeeded"),
    "CANCELLED": Meaning("cancelled"),
    "PREEMPTED": Meaning("preempted", "preempted", "a job of higher priority took its nodes"),
    "FAILED": Meaning("failed"),
    "TIMEOUT": Meaning("failed", "preempted", "it reached its time limit (cluster.time_limit_min)"),
    "DEADLINE": Meaning("failed", "preempted", "it could not end before its deadline"),
    "OUT_OF_MEMORY": Meaning("failed", "oom", "a node's memory ran out (cluster.memory_gib_per_node)"),
    "NODE_FAIL": Meaning("failed", "node", "one of its nodes failed"),
    "BOOT_FAIL": Meaning("failed", "node", "one of its nodes did not boot"),
    "LAUNCH_FAILED": Meaning("failed", "node", "a node could not start it"),
    "RECONFIG_FAIL": Meaning("failed", "node", "a node could not be reconfigured for it"),
    # of another cluster's copy of the job
    "REVOKED": UNKNOWN,
}

# Exit codes of slurm/job.sh itself.
EXIT_CODES = {
    5: Meaning("cancelled"),
    66: Meaning("failed", "configuration", "a node cannot read the run folder: put it where all nodes can"),
}


@dataclass(frozen=True)
class Seen:
    """A job as Slurm shows it.

    Attributes:
        name: Slurm's own name of the state; empty if Slurm does not know the job.
        reason: Slurm's reason for waiting or failing; empty if it gives none.
        exit_code: of the batch script.
    """

    name: str = ""
    reason: str = ""
    exit_code: int = 0

    @property
    def meaning(self) -> Meaning:
        if self.name == "FAILED" and self.exit_code in EXIT_CODES:
            return EXIT_CODES[self.exit_code]
        return STATES.get(self.name, UNKNOWN)


FORGOTTEN = Seen()

# JobName stands before JobState and is set by Galley; all other text of a user comes after it.
_SCONTROL = re.compile(r" JobState=(\w+) Reason=(.*?) Dependency=.*? ExitCode=(\d+):\d+ ")


def read_scontrol(text: str) -> Seen:
    """Read the first line of `scontrol show job --oneliner`."""
    match = _SCONTROL.search(text)
    if match is None:
        return FORGOTTEN
    reason = "" if match[2] == "None" else match[2].replace("_", " ")
    return Seen(match[1], reason, int(match[3]))


_TASKS = re.compile(r" ArrayTaskId=([\d,-]+)(?:%\d+)? ")


def read_array(text: str) -> dict[int, Seen]:
    """Read `scontrol show job --oneliner ID` of an array: its tasks by index.

    Waiting tasks share one line (`ArrayTaskId=3,5-9%2`).
    """
    by_index: dict[int, Seen] = {}
    for line in text.splitlines():
        tasks = _TASKS.search(line)
        for part in tasks[1].split(",") if tasks else ():
            first, _, last = part.partition("-")
            seen = read_scontrol(line)
            by_index |= dict.fromkeys(range(int(first), int(last or first) + 1), seen)
    return by_index


def read_sacct(text: str) -> Seen:
    """Read `sacct --parsable2 --noheader --format=State,ExitCode`. Its last line is the last start."""
    lines = text.strip().splitlines()
    if not lines:
        return FORGOTTEN
    state, _, code = lines[-1].partition("|")
    name, _, by = state.partition(" ")  # `CANCELLED by 1000`
    number = code.partition(":")[0]
    return Seen(name, by, int(number) if number.isdigit() else 0)
