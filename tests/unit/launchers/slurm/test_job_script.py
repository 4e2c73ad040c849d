"""The generated scripts: as text, to shellcheck, and executed by bash."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from galley.schema import Cluster
from galley.spec import ClusterFacts
from tests.support import REPO, require_program
from tests.unit.launchers.slurm.bench import Bench, make_spec_on, plan_on

GOLDEN = REPO / "tests" / "golden" / "slurm"
PLAIN = make_spec_on()
FULL = make_spec_on(
    nodes=3,
    ranks=4,
    cluster=Cluster(nodes=3, gpus_per_node=4, cpus_per_node=32, memory_gib_per_node=120.5, time_limit_min=90),
    partition="gpu",
    account="group 7",
    qos="high",
    constraint="a100&nvlink",
    reservation="mine",
    exclusive=True,
    exclude=["node7", "node3"],
    spare_nodes=1,
    container_image="docker://nvcr.io/nvidia/pytorch:26.01-py3",
    container_mounts=["/data:/data"],
    requeue=False,
    directives=["--mail-type=END", "--comment=two words", "--contiguous"],
    setup=["module load cuda/13", 'ulimit -l unlimited; echo "on $(hostname)"'],
)
APPTAINER = make_spec_on(nodes=1, ranks=1, container_image="image.sif", container_runtime="apptainer")
SPARES = make_spec_on(constraint="new", spare_nodes=1, spare_constraint="old")
SPECS = {"plain": PLAIN, "full": FULL, "apptainer": APPTAINER, "spares": SPARES}
FACTS = ClusterFacts("node", 0, 0.0, 1, 0.0, avoid=("node9",), after="77")


@pytest.mark.parametrize("name", SPECS)
def test_scripts_are_as_they_were_reviewed(name: str) -> None:
    spec = SPECS[name]
    files = plan_on(
        Path("/runs/my run"), spec, FACTS if name == "full" else replace(FACTS, avoid=(), after=None)
    ).files
    for path, text in files.items():
        golden = GOLDEN / name / path
        assert text.replace(spec.sha256, "SHA256") == golden.read_text(), f"differs from {golden}"


@pytest.mark.parametrize("name", SPECS)
def test_scripts_please_shellcheck(name: str) -> None:
    shellcheck = require_program("shellcheck", "the check of generated shell")
    for path, text in plan_on(Path('/it\'s "my" $(run)'), SPECS[name], FACTS).files.items():
        # SC2016: a dollar sign in single quotes is not expanded, which is what quoting is for
        argv = (shellcheck, "--shell=bash", "--exclude=SC2016", "-")
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{path}:\n{done.stdout}"


def test_one_agent_a_node_is_started_and_told_where_to_meet(weird_tmp_path: Path) -> None:
    bench = Bench(weird_tmp_path)
    bench.program("srun", 'env -0 >"$BENCH/environment"\n' + bench.leave_result("succeeded"))
    assert bench.run() == (0, "")
    (srun,) = bench.calls("srun")
    assert srun == [
        "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--nodelist=node1,node2", "--kill-on-bad-exit=1",
        "--cpus-per-task=6", "bash", str(bench.folder.plan / "node.sh"),
    ]  # fmt: skip
    environment = bench.environment()
    assert environment["GALLEY_RENDEZVOUS"] == "node1.example:21234"
    assert environment["GALLEY_HEAD"] == "node1"
    assert environment["GALLEY_ATTEMPT"] == "1"
    assert "GALLEY_RESUME" not in environment
    assert environment["PYTHONPATH"] == str(bench.folder.code)


@pytest.mark.parametrize("node", ["node1", "node2"])
def test_the_first_node_hosts_the_rendezvous(weird_tmp_path: Path, node: str) -> None:
    spec = make_spec_on()
    bench = Bench(weird_tmp_path, spec)
    bench.program("python", "")
    text = (bench.folder.plan / "node.sh").read_text().replace("/opt/python", "python")
    (bench.folder.plan / "node.sh").write_text(text)
    rendezvous = {"GALLEY_HEAD": "node1", "GALLEY_RENDEZVOUS": "h:2", "GALLEY_ATTEMPT": "3"}
    assert bench.run("node.sh", SLURMD_NODENAME=node, **rendezvous) == (0, "")
    (arguments,) = bench.calls("python")
    assert arguments == [
        "-P", "-m", "torch.distributed.run", "--rdzv-backend=c10d", "--nnodes=2", "--nproc-per-node=2",
        "--max-restarts=0", "--monitor-interval=0.1", "--no-python",
        *(["--local-addr=h"] if node == "node1" else []), "--rdzv-endpoint=h:2",
        "--rdzv-id=31234-3",
        f"--rdzv-conf=is_host={int(node == 'node1')},join_timeout=300",
        "python", "-P", "-m", "trainer.worker", "--run-dir", str(bench.folder.root), "--sha256", spec.sha256,
    ]  # fmt: skip


HOSTILE = [
    "a b",
    "it's",
    '"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "new\nline",
    "\\",
    "é\t*?[x]",
    "",
]


@pytest.mark.parametrize("value", HOSTILE)
def test_any_value_of_a_variable_arrives_as_it_is(weird_tmp_path: Path, value: str) -> None:
    spec = make_spec_on()
    launcher = replace(spec.recipe.launcher, env={"MINE": value, "_YOURS2": value})
    bench = Bench(weird_tmp_path, replace(spec, recipe=replace(spec.recipe, launcher=launcher)))
    bench.program("srun", 'env -0 >"$BENCH/environment"\n' + bench.leave_result("succeeded"))
    assert bench.run() == (0, "")
    assert bench.environment()["MINE"] == bench.environment()["_YOURS2"] == value
    assert not list(weird_tmp_path.rglob("pwned*"))


def test_only_the_user_may_read_the_environment(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert (bench.folder.plan / "env.sh").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("state", "srun", "code"),
    [
        ("succeeded", 0, 0),
        ("succeeded", 1, 0),  # a rank that falls after the result is written has done its work
        ("cancelled", 0, 5),
        ("preempted", 0, 99),
        ("failed", 4, 4),
        (None, 7, 7),
        (None, 0, 1),
    ],
)
def test_the_result_decides_how_the_job_ends(tmp_path: Path, state: str | None, srun: int, code: int) -> None:
    bench = Bench(tmp_path)
    bench.program("srun", (bench.leave_result(state) if state else "") + f"exit {srun}\n")
    assert bench.run()[0] == code
    requeued = ["requeue", "31234"] in bench.calls("scontrol")
    assert requeued == (state == "preempted")


def test_without_requeue_a_preempted_run_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_spec_on(requeue=False))
    bench.program("srun", bench.leave_result("preempted"))
    assert bench.run()[0] == 4
    assert ["requeue", "31234"] not in bench.calls("scontrol")


def test_the_result_of_an_earlier_attempt_decides_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, attempt=2)
    bench.program(
        "srun", bench.leave_result("succeeded", attempts=1) + 'env -0 >"$BENCH/environment"\nexit 3\n'
    )
    assert bench.run()[0] == 3
    assert bench.environment()["GALLEY_ATTEMPT"] == "2"
    assert bench.environment()["GALLEY_RESUME"] == "1"


def test_each_start_of_the_script_is_a_new_attempt(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for attempt in (1, 2, 3):
        bench.program(
            "srun", 'env -0 >"$BENCH/environment"\n' + bench.leave_result("succeeded", attempts=attempt)
        )
        assert bench.run()[0] == 0
        assert bench.environment()["GALLEY_ATTEMPT"] == str(attempt)
    assert bench.folder.started_attempts() == [1, 2, 3]


def test_the_signal_before_the_time_limit_asks_the_run_to_save(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    request = bench.folder.root / "PREEMPT"
    obey = f'while ! [ -e "{request}" ]; do sleep 0.05; done; rm "{request}"\n'
    bench.program("srun", "touch $BENCH/up\n" + obey + bench.leave_result("preempted"))
    process = bench.start()
    while not (tmp_path / "up").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=20)
    assert process.returncode == 99
    assert not request.exists()


def test_a_signal_that_comes_at_the_very_end_changes_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.program("srun", bench.leave_result("succeeded") + "kill -USR1 $PPID; exit 0\n")
    assert bench.run()[0] == 0
    (bench.folder.root / "PREEMPT").touch()  # left by the signal; a later attempt must not obey it
    bench.program(
        "srun", f'[ -e "{bench.folder.root}/PREEMPT" ] && exit 9\n' + bench.leave_result("succeeded", 2)
    )
    assert bench.run()[0] == 0


def test_a_spare_node_takes_over_once_for_each_node_that_fails(tmp_path: Path) -> None:
    bench = Bench(tmp_path, make_spec_on(spare_nodes=1))
    (tmp_path / "nodes").write_text("node1\nnode2\nnode3\n")
    bench.program("srun", "printf 'node1\\nnode3\\n' >$BENCH/nodes\nexit 137\n")
    assert bench.run()[0] == 137, "the second failure is none of a node"
    first, second = bench.calls("srun")
    assert "--nodelist=node1,node2" in first
    assert "--nodelist=node1,node3" in second
    assert (bench.folder.root / "failed_nodes").read_text() == "node2\n"
    assert bench.folder.started_attempts() == [1, 2]


def test_without_a_spare_node_left_the_job_ends(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.program("srun", "echo node2 >$BENCH/nodes\nexit 137\n")
    assert bench.run()[0] == 137
    assert len(bench.calls("srun")) == 1
    assert (bench.folder.root / "failed_nodes").read_text() == "node1\n"


def test_a_run_folder_that_the_node_cannot_see_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    script = bench.folder.plan / "job.sh"
    (tmp_path / "elsewhere.sh").write_bytes(script.read_bytes())
    bench.folder.root.rename(tmp_path / "gone")
    bench.folder.plan = tmp_path
    code, said = bench.run("elsewhere.sh")
    assert code == 66
    assert "must be on a file system that all nodes share" in said
    assert not bench.calls("srun")
