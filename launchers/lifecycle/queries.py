"""Acting on a run from any process: found by folder, by name or by id; known by what its folder says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from galley.errors import ConfigError, Problem, SubmissionError, valid_values
from galley.rundir import RunFolder
from galley.spec import FINAL_STATES, Progress, RunResult, State
from launchers.lifecycle.attempt_store import last_handle, last_job
from launchers.lifecycle.result import conclude, mark_cancelled, result_of

_FOLLOW_S = 0.2
_CONCLUDE_S = 5.0  # a living supervisor needs some tenths of a second to write the result


@dataclass(frozen=True)
class RunStatus:
    """What is known of a run.

    Attributes:
        attempt: the latest; 0 before the first submission.
        progress: of the latest attempt; null before its first message.
        result: of the latest attempt; null until it has ended.
    """

    name: str
    run_dir: str
    sha256: str
    recipe: str
    strategy: str
    state: State
    attempt: int
    progress: Progress | None
    result: RunResult | None


def list_runs(root: Path) -> list[RunStatus]:
    """All runs below `root`, oldest first. Folders without a run.json are none."""
    folders = [RunFolder(path.parent) for path in root.glob("*/run.json")]
    return [run_status(folder) for folder in sorted(folders, key=lambda f: f.spec_file.stat().st_mtime)]


def find_run(word: str, root: Path) -> RunFolder:
    """The run whose folder is `word`, or whose name or sha256 below `root` starts with it.

    Raises:
        ConfigError: no run is meant, or more than one.
    """
    path = Path(word).expanduser()
    if word and (path / "run.json").is_file():
        return RunFolder(path.resolve())
    names = {entry.parent.name: entry.parent for entry in sorted(root.glob("*/run.json"))}
    if word in names:
        return RunFolder(names[word].resolve())
    found = [path for name, path in names.items() if word and name.startswith(word)]
    if not found and len(word) >= 4:
        found = [path for path in names.values() if RunFolder(path).read_spec().sha256.startswith(word)]
    if len(found) == 1:
        return RunFolder(found[0].resolve())
    if found:
        hint = ", ".join(path.name for path in found)
        raise ConfigError(Problem(word, f"means {len(found)} runs", f"give more of the name: {hint}"))
    what = f"is no run, neither a folder nor a name in {root}"
    raise ConfigError(Problem(word, what, valid_values(word, names)))


def run_state(folder: RunFolder) -> State:
    """From the result of the latest attempt; without one, from what its launcher sees.

    A job that has ended in a scheduler's hands gets its result here.
    """
    job = last_job(folder)
    if job is None:
        return "unknown"
    result = result_of(folder, job.attempt)
    if result is not None and not (job.remote and result.state == "preempted"):
        return result.state
    state = job.state()
    if result is not None:  # a scheduler starts what was preempted again
        return state if state in ("queued", "running") else result.state
    if job.remote and state in FINAL_STATES:  # perhaps nobody follows it
        result = conclude(job)
        folder.write_result(result)
        return result.state
    return state


def run_status(folder: RunFolder) -> RunStatus:
    """Everything that the folder and the launcher tell."""
    spec, handle, progress = folder.read_spec(), last_handle(folder), folder.read_progress()
    attempt = handle.attempt if handle is not None else 0
    return RunStatus(
        name=folder.root.name,
        run_dir=str(folder.root),
        sha256=spec.sha256,
        recipe=spec.recipe.recipe,
        strategy=spec.recipe.strategy.name,
        state=run_state(folder),
        attempt=attempt,
        progress=progress if progress is not None and progress.attempt == attempt else None,
        result=result_of(folder, attempt),
    )


def log_lines(folder: RunFolder, rank: int | None, follow: bool) -> Iterator[str]:
    """Lines of the latest attempt's main rank, or of `rank`; with `follow` until the run has ended.

    Where the main rank has written nothing, those of the launcher.

    Raises:
        ConfigError: the run has no such log.
    """
    job = last_job(folder)
    if job is None:
        hint = f"start it with `resume {folder.root}`"
        raise ConfigError(Problem(str(folder.root), "was never submitted", hint))
    while not (paths := job.logs(0 if rank is None else rank)):
        if not follow or run_state(folder) not in ("queued", "running"):
            raise ConfigError(Problem(str(folder.logs(job.attempt)), "has no log yet", "try `--follow`"))
        time.sleep(_FOLLOW_S)
    if rank is not None and paths[0] != folder.rank_log(job.attempt, rank):
        size = job.spec.layout.world_size
        raise ConfigError(Problem(f"--rank {rank}", "has no log", f"the run has ranks 0 to {size - 1}"))
    yield from _follow_lines(paths[0], folder, follow)


def _follow_lines(path: Path, folder: RunFolder, follow: bool) -> Iterator[str]:
    with path.open(errors="replace") as stream:
        while True:
            alive = follow and run_state(folder) in ("queued", "running")  # asked first: no line is missed
            yield from stream
            if not alive:
                return
            time.sleep(_FOLLOW_S)


def cancel_run(folder: RunFolder) -> State:
    """End the run and return how it ended; a run that has ended already is left alone.

    Raises:
        SubmissionError: its processes cannot be reached from here.
    """
    job, state = last_job(folder), run_state(folder)
    if job is None or state not in ("queued", "running", "unknown"):
        return state
    if state == "unknown":
        raise SubmissionError(f"{folder.root} runs on {job.handle.host}: cancel it there")
    mark_cancelled(job)
    job.cancel(job.spec.recipe.launcher.grace_s)
    end = time.monotonic() + _CONCLUDE_S
    while result_of(folder, job.attempt) is None and time.monotonic() < end:
        time.sleep(0.05)
    if result_of(folder, job.attempt) is None:  # nobody follows it
        folder.write_result(conclude(job))
    return run_state(folder)
