"""What a run leaves behind when it fails, and how fast it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.schema import Checkpoint, Dtype, Launcher, Precision, Train
from tests.integration.train import tiny
from trainer.checkpoints.manifest import latest_complete

QUICK = Launcher(timeout_s=5)


def first_error(root: Path, attempt: int = 1) -> tuple[int, str, str]:
    error = RunFolder(root).read_rank_errors(attempt)[0]
    return error.rank, error.failure_class, error.message


def test_a_rank_that_raises_is_the_cause_and_ends_the_others(tmp_path: Path) -> None:
    started = time.monotonic()
    codes = tiny.run_ranks(tmp_path, tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2), TINY_RAISE="4")
    assert codes == [4, 4]
    assert time.monotonic() - started < 30
    assert first_error(tmp_path) == (1, "user", "this task fails on purpose")
    errors = RunFolder(tmp_path).read_rank_errors(1)
    assert "in _misbehave" in errors[0].traceback
    assert errors[1].failure_class == "node"
    assert not RunFolder(tmp_path).result_file.exists()


def test_a_loss_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    codes = tiny.run_ranks(tmp_path, tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2), TINY_NAN="4")
    assert codes == [4, 4]
    _, failure_class, message = first_error(tmp_path)
    assert failure_class == "nan"
    assert "step 4" in message


def test_diverged_weights_are_never_saved(tmp_path: Path) -> None:
    recipe = tiny.tiny_recipe("zero2", checkpoint=Checkpoint(every_steps=4))
    recipe = replace(recipe, train=replace(recipe.train, log_every_steps=100))
    assert tiny.run_ranks(tmp_path, tiny.tiny_spec(recipe, 2), TINY_NAN="6") == [4, 4]
    assert first_error(tmp_path)[1] == "nan"
    assert latest_complete(tmp_path / "checkpoints").folder == tmp_path / "checkpoints" / "step-000004"


def test_a_silent_rank_fails_the_run_after_the_timeout(tmp_path: Path) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe("ddp", launcher=QUICK), 2)
    processes = tiny.start_ranks(tmp_path, spec, TINY_HANG="4")
    processes[0].join(30)
    assert processes[0].exitcode == 4
    assert first_error(tmp_path)[:2] == (0, "hang")
    assert processes[1].is_alive()
    processes[1].terminate()
    processes[1].join(10)


def test_sigterm_ends_a_rank_within_two_seconds_inside_a_collective(tmp_path: Path) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2)
    processes = tiny.start_ranks(tmp_path, spec, TINY_HANG="4")
    folder = RunFolder(tmp_path)
    deadline = time.monotonic() + 30
    while len(tiny.losses(folder)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # rank 0 waits in the gradient all-reduce now
    os.kill(processes[0].pid or 0, signal.SIGTERM)
    processes[0].join(2)
    assert processes[0].exitcode == 4
    assert first_error(tmp_path)[:2] == (0, "preempted")
    processes[1].terminate()
    processes[1].join(2)
    assert processes[1].exitcode == 4


@pytest.mark.parametrize(
    ("asked", "carried_by"),
    [("ddp", "ddp:SingleEngine"), ("zero2", "ddp:DdpEngine"), ("zero2", "ddp:SingleEngine")],
)
def test_a_strategy_that_does_not_engage_fails_the_run(tmp_path: Path, asked: str, carried_by: str) -> None:
    """The silent traps of launchers and wrappers, put there on purpose."""
    spec = tiny.tiny_spec(tiny.tiny_recipe(asked), 2)
    codes = tiny.run_ranks(tmp_path, spec, TINY_ENGINE=f"trainer.engines.{carried_by}")
    assert codes == [4, 4]
    _, failure_class, message = first_error(tmp_path)
    assert failure_class == "configuration"
    assert f"strategy '{asked}' did not engage" in message
    assert "the model is carried by" in message
    if carried_by == "ddp:SingleEngine":
        assert "1 ranks share the gradients, not 2" in message
    if asked == "zero2":
        assert "optimizer elements, more than its share" in message


def test_replicas_without_a_common_gradient_fail_the_run(tmp_path: Path) -> None:
    """An engine that looks right in every count, but whose ranks train alone."""
    spec = tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2)
    assert tiny.run_ranks(tmp_path, spec, TINY_ENGINE="tests.integration.train.tiny:LonelyEngine") == [4, 4]
    assert "the ranks have different weights" in first_error(tmp_path)[2]


def test_the_wrong_number_of_ranks_is_refused(tmp_path: Path) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2)
    assert tiny.run_ranks(tmp_path, spec, WORLD_SIZE="3") == [2, 2]
    _, failure_class, message = first_error(tmp_path)
    assert failure_class == "configuration"
    assert "3 ranks were started (torchrun), the run has 2" in message


def test_an_edited_run_is_refused(tmp_path: Path) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe("single"), 1)
    RunFolder(tmp_path).write_spec(spec)
    command = [sys.executable, "-P", "-m", "trainer.worker", "--run-dir", str(tmp_path), "--sha256", "0" * 64]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    assert subprocess.run(command, env=environ, timeout=60, check=False).returncode == 2
    assert "changed after the run was sealed" in first_error(tmp_path)[2]


LAUNCHER = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-P", "-c", sys.argv[1]], stdout=subprocess.PIPE)
rank.stdout.readline()
print(rank.pid, flush=True)
time.sleep(60)
"""
RANK = """
import time
from galley.system.pdeathsig import die_with_parent
die_with_parent()
print("up", flush=True)
time.sleep(60)
"""


def test_a_worker_dies_with_its_launcher() -> None:
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", LAUNCHER, RANK]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE) as launcher:
        assert launcher.stdout is not None
        rank = int(launcher.stdout.readline())
        launcher.kill()
    deadline = time.monotonic() + 5
    while _alive(rank) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(rank)


def _alive(pid: int) -> bool:
    """A zombie that nobody waits for is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_full_disk_before_a_checkpoint_keeps_the_last_one(small_disk: Path) -> None:
    recipe = tiny.tiny_recipe("ddp", checkpoint=Checkpoint(every_steps=6))
    spec = tiny.tiny_spec(recipe, 2)
    processes = tiny.start_ranks(small_disk, spec, TINY_HANG="8")
    deadline = time.monotonic() + 30
    while not (small_disk / "checkpoints" / "step-000006").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        process.terminate()
    tiny.wait(processes)
    (small_disk / "ballast").write_bytes(b"x" * (5 * 2**20))
    codes = tiny.run_ranks(small_disk, spec, attempt=2)
    assert codes == [4, 4]
    rank, failure_class, message = first_error(small_disk, attempt=2)
    assert (rank, failure_class) == (0, "disk_full")
    assert str(small_disk / "checkpoints") in message
    assert "bytes free" in message
    found = latest_complete(small_disk / "checkpoints")
    assert found.folder is not None
    assert (found.folder.name, found.rejected) == ("step-000006", [])
    (small_disk / "ballast").unlink()
    assert tiny.train(small_disk, spec, attempt=3).read_result().resumed_from == "step-000006"


@pytest.mark.parametrize(("compute", "code"), [("bf16", 4), ("fp32", 0)])
def test_a_precision_that_did_not_engage_fails_the_run(tmp_path: Path, compute: Dtype, code: int) -> None:
    recipe = tiny.tiny_recipe("single", precision=Precision(compute=compute), train=Train(max_steps=1))
    spec = tiny.tiny_spec(recipe, 1)
    assert tiny.run_ranks(tmp_path, spec, TINY_ENGINE="tests.integration.train.tiny:ForgetfulEngine") == [
        code
    ]
    log = tiny.RunFolder(tmp_path).rank_log(1, 0).read_text()
    assert ("the layers compute in fp32, not in bf16" in log) == (code == 4)
