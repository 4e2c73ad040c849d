"""Trials as job arrays of Slurm: submitted at once; at most `hpo.parallel` of them run at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from galley.errors import ConfigError, SubmissionError
from hpo.study.state import Study
from hpo.study.values import Trial
from hpo.trials import Prepared, Slot, TrialRuns
from launchers.lifecycle.attempt_monitor import Watch
from launchers.slurm.array import plan_array, recall_array, request_of, submit_array
from launchers.slurm.launcher import SlurmLauncher

ARRAY_MOST = 1000  # Slurm's own default (MaxArraySize)
Start = Callable[[], Watch]


def start_array(runs: TrialRuns, study: Study, trials: Sequence[Trial]) -> list[Start]:
    """Submit one array per group of trials that request the same from Slurm.

    Returns one function per trial, which returns the trial's watch or raises what `TrialRuns.start` would
    raise.
    """
    starts: dict[int, Start] = {}
    alike: dict[tuple[object, ...], list[tuple[Trial, Prepared]]] = {}
    for trial in trials:
        try:
            prepared = runs.prepare(trial, Slot(0, 1))
            request = request_of(prepared.spec, prepared.folder.root, prepared.facts)
        except ConfigError as error:
            starts[trial.number] = _raise(error)
        else:
            alike.setdefault(tuple(sorted(request.items())), []).append((trial, prepared))
    for members in alike.values():
        starts |= _submit(study, members)
    return [starts[trial.number] for trial in trials]


def _submit(study: Study, members: Sequence[tuple[Trial, Prepared]]) -> dict[int, Start]:
    """Submit one array; return a function per trial number."""
    facts = members[0][1].facts
    folder = _folder(study, _count(study))
    planned = [(one.spec, one.folder.root, one.attempt) for _, one in members]
    try:
        plan = plan_array(SlurmLauncher(), planned, folder, facts, study.hpo.parallel)
        handles = submit_array(plan, folder, [one.folder for _, one in members])
    except (ConfigError, SubmissionError) as error:
        return {trial.number: _raise(error) for trial, _ in members}

    watches = [
        Watch(one.launcher, handle, one.folder, one.spec)
        for (_, one), handle in zip(members, handles, strict=True)
    ]
    return {trial.number: _give(watch) for (trial, _), watch in zip(members, watches, strict=True)}


def recall_last_array(study: Study) -> None:
    """Record the trials' jobs if a controller was killed while it submitted them.

    Raises `SubmissionError` if Slurm does not answer.
    """
    count = _count(study)
    if count and (_folder(study, count - 1) / "runs").exists():
        recall_array(_folder(study, count - 1))


def _count(study: Study) -> int:
    return len(list((study.folder.root / "arrays").glob("*")))


def _folder(study: Study, number: int) -> Path:
    """Return the array's folder; its name is the job name."""
    return study.folder.root / "arrays" / f"{study.name}-{number}"


def _raise(error: ConfigError | SubmissionError) -> Start:
    """Return a function that raises the error."""

    def start() -> Watch:
        raise error

    return start


def _give(watch: Watch) -> Start:
    """Return a function that returns the watch."""
    return lambda: watch
