"""A trainer of a few milliseconds, copied into a study's code/ as trainer/worker.py. Needs no torch.

As the real worker it reads the sealed run, appends rows to metrics.jsonl, saves checkpoints that are
complete once their manifest is in place, goes on from the last complete one, and writes result.json. It
notes in trace.jsonl what it did, and ends as the study's kill.json says.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

RUN_DIR = Path(sys.argv[sys.argv.index("--run-dir") + 1])
STUDY = RUN_DIR.parent.parent
ATTEMPT = int(os.environ["GALLEY_ATTEMPT"])
RECIPE = json.loads((RUN_DIR / "run.json").read_text())["recipe"]
LR, STEPS, EVERY = RECIPE["optim"]["lr"], RECIPE["train"]["max_steps"], RECIPE["checkpoint"]["every_steps"]
RANK = int(os.environ.get("RANK", "0"))
STOP = RECIPE["train"]["stop_at_step"] or STEPS
STEP_S = float(os.environ.get("STANDIN_STEP_S", "0.004"))


def kills() -> list[str]:
    """Who is to be killed, where: `worker`, `both` at TRIAL:STEP:MOMENT, in the trial's first attempt."""
    path = STUDY / "kill.json"
    return json.loads(path.read_text()) if path.exists() and ATTEMPT == 1 else []


def at(step: int, moment: str) -> None:
    for kill in kills():
        who, _, where = kill.partition("@")
        if where == f"{int(RUN_DIR.name)}:{step}:{moment}":
            if who == "both":
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def write(path: Path, value: object) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(value))
    part.replace(path)


def note(**row: object) -> None:
    with (RUN_DIR / "trace.jsonl").open("a") as stream:
        stream.write(json.dumps({"attempt": ATTEMPT, **row}) + "\n")


def last_checkpoint() -> tuple[int, list[float]]:
    """(step, what was learned at each step): the run's own, else the one that the recipe names."""
    named = RECIPE["checkpoint"]["resume_from"]
    complete = [Path(named) / "manifest.json"] if named else []
    complete += sorted(RUN_DIR.glob("checkpoints/*/manifest.json"))
    if not complete:
        return 0, []
    found = complete[-1].parent
    step: int = json.loads(complete[-1].read_text())["step"]
    return step, json.loads((found / "state.json").read_text())["learned"]


def save(step: int) -> None:
    folder = RUN_DIR / "checkpoints" / f"step-{step:06d}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"learned": learned}))
    at(step, "saving")
    write(folder / "manifest.json", {"step": step})
    note(saved=step)


def fail(failure_class: str, message: str) -> None:
    error = {"rank": 0, "time": time.time(), "failure_class": failure_class, "message": message}
    write(RUN_DIR / "logs" / f"attempt-{ATTEMPT}" / "rank-0.error.json", {**error, "traceback": ""})
    os._exit(4)


def quality() -> float:
    """Best at a learning rate of 1e-4, and better with every step."""
    return sum(learned) / STEPS


if "TORCHELASTIC_RUN_ID" in os.environ:  # as the real one it dies with its agent (PR_SET_PDEATHSIG)
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if RANK > 0:  # one trains for all
    write(RUN_DIR / f"rank-{RANK}.json", {"attempt": ATTEMPT, "world_size": os.environ["WORLD_SIZE"]})
    sys.exit()
first, learned = last_checkpoint()
note(began=first, learned=learned, lr=LR, pid=os.getpid())
(RUN_DIR / "logs" / f"attempt-{ATTEMPT}").mkdir(parents=True, exist_ok=True)
for event in json.loads((STUDY / "events.json").read_text()) if (STUDY / "events.json").exists() else []:
    trial, attempts, failure_class = event
    if trial == int(RUN_DIR.name) and attempts >= ATTEMPT:
        fail(failure_class, f"the stand-in has {failure_class}")
for step in range(first + 1, STOP + 1):
    time.sleep(STEP_S)
    learned.append(1 - abs(LR - 1e-4) / 1e-3)
    at(step, "training")
    with (RUN_DIR / "metrics.jsonl").open("a") as stream:
        row = {"step": step, "epoch": step / STEPS, "time_s": step * STEP_S, "samples_per_s": 1 / LR}
        stream.write(json.dumps(row) + "\n")
        stream.write(json.dumps({"step": step, "eval/f1": quality(), "eval/loss": 1 - quality()}) + "\n")
    progress = {"phase": "train", "step": step, "max_steps": STOP, "attempt": ATTEMPT, "time": time.time()}
    write(RUN_DIR / "progress.json", progress)
    if step % EVERY == 0 or step == RECIPE["train"]["stop_at_step"]:
        save(step)
at(STOP, "result")
metrics = {"eval/f1": quality(), "eval/loss": 1 - quality()}
if (STUDY / "metrics.json").exists():  # trial -> what it reports instead
    metrics |= json.loads((STUDY / "metrics.json").read_text()).get(str(int(RUN_DIR.name)), {})
    metrics = {name: value for name, value in metrics.items() if value is not None}
result = {"state": "succeeded", "exit_code": 0, "attempts": ATTEMPT, "steps": STOP, "world_size": 1}
numbers = {"samples_per_s": 1 / LR, "wall_s": STOP * STEP_S, "peak_memory_gib": 1.0}
write(RUN_DIR / "result.json", {**result, **numbers, "metrics": metrics})
note(done=STOP)
