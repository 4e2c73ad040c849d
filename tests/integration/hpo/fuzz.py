"""Kills controllers and trainers, and looks at what is left: `python -m tests.integration.hpo.fuzz DIR`.

A controller is forked from this process, so that it costs no imports. It is killed by SIGKILL at its k-th
event: before a file is opened for writing, renamed or removed, before a process is started, and in each
write to a journal: before it, in its middle, and after it. Trainers kill themselves, or their controller
and themselves, in a step, in a checkpoint, and before their result. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from galley.config.hydra_bridge import open_loader
from hpo.backends import optuna as _optuna  # noqa: F401  imported once, before the forks
from hpo.study.folder import StudyFolder
from tests.integration.hpo import lab

PARALLEL = 2
EVENTS = ("os.rename", "os.remove", "subprocess.Popen")
# kind -> how many trials, and further words
KINDS = {
    "random": (3, ()),
    "optuna": (3, ()),
    "pbt": (4, ("hpo.pbt.population=2", "hpo.objectives=[eval/f1]")),
}


class Killer:
    """Counts the events of this process, and kills it at one of them."""

    def __init__(self, root: Path, kill_at: int | None) -> None:
        self.count, self._root, self._kill_at = 0, str(root), kill_at
        self._write = os.write

    def install(self) -> None:
        os.write = self._split_write  # type: ignore[assignment]
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open":
            path, mode, _ = arguments
            writes = isinstance(mode, str) and mode[:1] in "wa" and str(path).startswith(self._root)
            if writes and not str(path).endswith(".lock"):
                self._event()
        elif event in EVENTS:
            self._event()

    def _split_write(self, descriptor: int, data: bytes) -> int:
        """Three events: before, in the middle, and after. What was written by half ends there."""
        if descriptor < 3:
            return self._write(descriptor, data)
        self._event()
        if self.count + 1 == self._kill_at:
            self._write(descriptor, data[: len(data) // 2])
        self._event()
        done = self._write(descriptor, data)
        self._event()
        return done

    def _event(self) -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def controller(folder: StudyFolder, kill_at: int | None = None) -> int:
    """Run one controller to its end or its death; returns its exit code, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            killer = Killer(folder.root, kill_at)
            killer.install()
            lab.run(folder)
            (folder.root / "count").write_text(str(killer.count))
            status = 0
        finally:  # whatever was raised: the parent must not see it, and reads the exit code
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fresh(root: Path, templates: dict[str, Path], kind: str) -> StudyFolder:
    """A copy of a study that has only begun."""
    shutil.copytree(templates[kind], root)
    return StudyFolder(root)


def controller_kills(total: int, wanted: int) -> list[int]:
    """Event numbers, spread over the whole life of a controller."""
    return sorted({1 + index * (total - 1) // max(1, wanted - 1) for index in range(wanted)})


def trainer_kills(kind: str) -> list[str]:
    moments = ((1, "training"), (4, "training"), (2, "saving"), (4, "saving"), (6, "result"))
    places = [f"{trial}:{step}:{moment}" for trial in (0, 2) for step, moment in moments]
    if kind == "pbt":  # the first of two intervals has three steps, and so has the second
        places = ["0:1:training", "1:3:saving", "1:3:result", "2:4:training", "3:6:saving", "3:6:result"]
    return [f"{who}@{place}" for who in ("worker", "both") for place in places]


def survive(folder: StudyFolder, count: int, kill_at: int | None, kills: Sequence[str]) -> list[str]:
    """Kill, resume until nobody is killed any more, and check."""
    (folder.root / "kill.json").write_text(json.dumps(list(kills)))
    first = controller(folder, kill_at)
    died = first == -signal.SIGKILL
    codes = [first]
    while codes[-1] == -signal.SIGKILL and len(codes) < 6:
        codes.append(controller(folder))
    if codes[-1] != 0:
        return [f"controllers ended with {codes}"]
    expected = kill_at is not None or any(kill.startswith("both") for kill in kills)
    missed = [] if died == expected else [f"the first controller ended with {first}"]
    return [*missed, *lab.faults(folder, count)]


def main(root: Path, wanted: int) -> None:
    templates = {}
    for kind, (count, more) in KINDS.items():
        words = (f"hpo={kind}", f"hpo.trials={count}", f"hpo.parallel={PARALLEL}", *more)
        templates[kind] = lab.make_study(root / f"template-{kind}" / "study", *words).root
    with open_loader():
        pass  # Hydra is imported before the forks
    failures, points, began = dict[str, list[str]](), 0, time.monotonic()
    trainers = {kind: trainer_kills(kind)[number :: len(KINDS)] for number, kind in enumerate(KINDS)}
    controllers = wanted - sum(map(len, trainers.values()))
    for left, (kind, (count, _)) in zip(range(len(KINDS), 0, -1), KINDS.items(), strict=True):
        reference = fresh(root / f"count-{kind}" / "study", templates, kind)
        failures[f"{kind}, not killed"] = survive(reference, count, None, ())
        total = int((reference.root / "count").read_text())
        kills_at = controller_kills(total, controllers // left)  # fewer, where its life is shorter
        controllers -= len(kills_at)
        cases = [(k, list[str]()) for k in kills_at]
        cases += [(None, [kill]) for kill in trainers[kind]]
        for number, (kill_at, kills) in enumerate(cases):
            folder = fresh(root / f"{kind}-{number}" / "study", templates, kind)
            faults = survive(folder, count, kill_at, kills)
            failures[f"{kind}, killed at {kill_at or kills}"] = faults
            points += 1
            if not faults:
                shutil.rmtree(folder.root.parent)
    found = {name: faults for name, faults in failures.items() if faults}
    print(json.dumps({"points": points, "failures": found, "seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
