"""A worker that behaves as STANDIN says; copied into a run's code/ as trainer/worker.py. Needs no torch."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

RUN_DIR = Path(sys.argv[sys.argv.index("--run-dir") + 1])
_RANKS = ("RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
RANK = next((int(os.environ[name]) for name in _RANKS if name in os.environ), 0)
ATTEMPT = int(os.environ["GALLEY_ATTEMPT"])
LOGS = RUN_DIR / "logs" / f"attempt-{ATTEMPT}"
FAILING_RANK = int(os.environ.get("STANDIN_RANK", "0"))


def write(path: Path, value: object) -> None:
    part = path.with_suffix(f".{RANK}.part")
    part.write_text(json.dumps(value))
    part.replace(path)


def progress(phase: str, step: int = 0) -> None:
    if RANK == 0:
        write(
            RUN_DIR / "progress.json",
            {"phase": phase, "step": step, "max_steps": 6, "attempt": ATTEMPT, "time": time.time()},
        )


def metrics(**row: float) -> None:
    if RANK == 0:
        with (RUN_DIR / "metrics.jsonl").open("a") as stream:
            stream.write(json.dumps(row) + "\n")


def fail(failure_class: str, message: str, trace: str, code: int) -> None:
    error = {"rank": RANK, "time": time.time(), "failure_class": failure_class}
    write(LOGS / f"rank-{RANK}.error.json", {**error, "message": message, "traceback": trace})
    os._exit(code)


def succeed() -> None:
    for phase in ("data", "model", "train"):
        progress(phase)
        time.sleep(0.15)
    for step in range(1, 7):
        metrics(step=step, epoch=step / 6, loss=1 / step, lr=1e-4, samples_per_s=12.5)
        if step % 3 == 0:
            metrics(step=step, **{"eval/f1": 0.5 + step / 20, "eval/accuracy": 0.4 + step / 20})
        progress("train", step)
        time.sleep(0.05)
    if RANK == 0:
        result = {"state": "succeeded", "exit_code": 0, "attempts": ATTEMPT, "steps": 6, "world_size": 2}
        write(RUN_DIR / "result.json", {**result, "metrics": {"eval/f1": 0.8, "train/loss": 0.1667}})


def raise_on_one_rank() -> None:
    if RANK != FAILING_RANK:
        hang()
    try:
        raise ValueError("the stand-in is unhappy")
    except ValueError as error:
        fail("user", str(error), traceback.format_exc(), 4)


def ask_for_better_configuration() -> None:
    if RANK == 0:
        fail("data", "data.path: there is no such column", "", 2)
    hang()


def be_killed() -> None:
    """The others report, as the real worker does, that they were ended."""
    if RANK == FAILING_RANK:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    signal.signal(signal.SIGTERM, lambda *_: fail("preempted", "ended by SIGTERM", "", 4))
    hang()


def be_killed_and_missed() -> None:
    """The others notice by themselves, as gloo lets them: nobody tells them."""
    if RANK == FAILING_RANK:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1)
    fail("node", "connection closed by peer", "", 4)


def be_killed_among_the_stubborn() -> None:
    if RANK == FAILING_RANK:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGSEGV)
    be_stubborn()


def hang() -> None:
    progress("train", 3)
    (RUN_DIR / f"pid-{RANK}").write_text(str(os.getpid()))
    time.sleep(600)


def be_stubborn() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang()


def succeed_slowly_apart() -> None:
    """One rank ends seconds after the other, as when it alone writes the model."""
    if RANK == 0:
        time.sleep(4)
    succeed()


def succeed_when_told() -> None:
    while not (RUN_DIR / "go-on").exists():
        time.sleep(0.05)
    succeed()


def say_and_leave() -> None:
    print("I have nothing to do")


def hang_once() -> None:
    hang() if ATTEMPT == 1 else succeed()


def save_and_end_when_asked() -> None:
    """As the real worker does: the request is taken away once it is obeyed."""
    if ATTEMPT > 1:
        succeed()
        return
    while not (RUN_DIR / "PREEMPT").exists():
        time.sleep(0.05)
    write(RUN_DIR / "result.json", {"state": "preempted", "exit_code": 4, "attempts": ATTEMPT})
    (RUN_DIR / "PREEMPT").unlink()


def record() -> None:
    received = {"argv": sys.orig_argv, "env": dict(os.environ), "cpus": sorted(os.sched_getaffinity(0))}
    write(RUN_DIR / f"received-{RANK}.json", received)
    if RANK == 0:
        write(RUN_DIR / "result.json", {"state": "succeeded", "exit_code": 0, "attempts": ATTEMPT})


print(f"rank {RANK} speaks", flush=True)
LOGS.mkdir(parents=True, exist_ok=True)
globals()[os.environ["STANDIN"]]()
