"""Trials as job arrays of a cluster: submitted at once; at most `hpo.parallel` of them run at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from galley.errors import ConfigError, SubmissionError
from hpo.study.state import Study
from hpo.study.values import Trial
from hpo.trials import Slot, TrialRuns
from launchers.base import JobArrays, Prepared
from launchers.lifecycle.attempt_monitor import Watch

Start = Callable[[], Watch]


def start_array(arrays: JobArrays, runs: TrialRuns, study: Study, trials: Sequence[Trial]) -> list[Start]:
    """Submit one array per group of trials that request the same from the cluster.

    Returns one function per trial, which returns the trial's watch or raises what `TrialRuns.start` would
    raise.
    """
    starts: dict[int, Start] = {}
    alike: dict[tuple[object, ...], list[tuple[Trial, Prepared]]] = {}
    for trial in trials:
        try:
            prepared = runs.prepare(trial, Slot(0, 1))
            request = arrays.request(prepared)
        except ConfigError as error:
            starts[trial.number] = _raise(error)
        else:
            alike.setdefault(tuple(sorted(request.items())), []).append((trial, prepared))
    for members in alike.values():
        starts |= _submit(arrays, study, members)
    return [starts[trial.number] for trial in trials]


def _submit(arrays: JobArrays, study: Study, members: Sequence[tuple[Trial, Prepared]]) -> dict[int, Start]:
    """Submit one array; return a function per trial number."""
    folder = _folder(study, _count(study))
    try:
        jobs = arrays.submit([prepared for _, prepared in members], folder, study.hpo.parallel)
    except (ConfigError, SubmissionError) as error:
        return {trial.number: _raise(error) for trial, _ in members}
    return {trial.number: _give(Watch(job)) for (trial, _), job in zip(members, jobs, strict=True)}


def recall_last_array(arrays: JobArrays, study: Study) -> None:
    """Record the trials' jobs if a controller was killed while it submitted them.

    Raises `SubmissionError` if the cluster does not answer.
    """
    count = _count(study)
    if count and (_folder(study, count - 1) / "runs").exists():
        arrays.recall(_folder(study, count - 1))


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
