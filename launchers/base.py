"""The launcher seam: what starts, watches and ends the processes of a run.

    plan     RunSpec, ClusterFacts -> LaunchPlan     pure: the same arguments, the same plan, anywhere
    submit   LaunchPlan -> RunHandle                 executes exactly what the plan says
    poll, logs, diagnose, cancel                     by the handle, also from another process

A launcher knows nothing of result.json or of displays: `launchers.lifecycle.supervise` is the same for all.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.rundir import RunFolder
from galley.schema import Recipe
from galley.spec import ClusterFacts, FailureClass, LaunchPlan, RunHandle, RunSpec, State
from galley.system.half_precision import with_cost
from galley.system.machine import probe


@dataclass(frozen=True)
class Diagnosis:
    """Why an attempt ended, as far as the launcher can tell; used where no rank left an error.

    Attributes:
        rank: the first that failed; null where it cannot be told.
    """

    message: str
    rank: int | None = None
    failure_class: FailureClass = "user"


class Launcher(ABC):
    """One way of running a sealed run.

    Attributes:
        poll_s: seconds between two questions after the state of a job.
        remote: a scheduler owns the job: it goes on without this command, ends the ranks of a
            failed one itself, and may start it again.
    """

    name: str
    poll_s = 0.1
    remote = False

    def facts(
        self, recipe: Recipe, earlier: RunFolder | None = None, after: RunFolder | None = None
    ) -> ClusterFacts:
        """What the nodes are like, probed before `plan`: by default this machine.

        `earlier` has what earlier attempts of the run met. Raises `ConfigError` where they cannot be what the
        recipe asks for, or where the launcher cannot wait for `after`.
        """
        self.refuse_waiting(after)
        return with_cost(probe(), recipe)

    def refuse_waiting(self, after: RunFolder | None) -> None:
        """Raises `ConfigError` where a run should wait for another, and there is no queue to wait in."""
        if after is not None:
            what = f"launcher={self.name} has no queue to wait in for {after.root.name}"
            raise ConfigError(Problem("after", what, "choose launcher=slurm, or start it afterwards"))

    @abstractmethod
    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        """What `submit` will do. No file is read or written, nothing is probed.

        Values of secrets are not in it: `LaunchPlan.forward_env` has their names.
        """

    @abstractmethod
    def submit(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle:
        """Start the plan; the processes' environment is the user's, changed by `plan.env`.

        Raises:
            SubmissionError: it was refused, with the tool's own reason; nothing is running.
        """

    def recall(self, plan: LaunchPlan, folder: RunFolder) -> RunHandle | None:
        """The handle of a job that outlived its submitter, who was killed before the handle was written.

        None where `submit` was not reached, or refused; or where a job dies with its submitter.
        """
        return None

    def invitation(self, spec: RunSpec, folder: RunFolder) -> str:
        """What the user has to do besides, for the ranks to start; empty where there is nothing."""
        return ""

    @abstractmethod
    def poll(self, handle: RunHandle, folder: RunFolder) -> State:
        """`queued` or `running` while any process of the attempt may live; then how it ended.

        Cheap enough to be called every `poll_s`. `unknown` where it cannot be seen from here.
        """

    def current(self, handle: RunHandle, folder: RunFolder) -> RunHandle:
        """The handle of the attempt that the job is at: a scheduler may have started it again."""
        return handle

    def outlives_failures(self, spec: RunSpec) -> bool:
        """Whether a rank that fails is started again inside the attempt, so that nobody need be ended."""
        return False

    def end(self, handle: RunHandle) -> int | None:
        """A descriptor that can be read once the attempt has ended, for `proc.await_end`; null where there is
        none. It stays the launcher's."""
        return None

    @abstractmethod
    def failing(self, handle: RunHandle, folder: RunFolder) -> bool:
        """Whether the launcher saw a process fail while others still live."""

    def end_ranks(self, handle: RunHandle, folder: RunFolder) -> None:
        """A rank has failed: kill the others now, so that the launcher can report and end."""
        self.cancel(handle, folder, grace_s=0.0)

    @abstractmethod
    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        """Why an attempt that has ended did so."""

    def logs(self, handle: RunHandle, folder: RunFolder, rank: int | None = None) -> list[Path]:
        """Existing log files, most telling first: of one rank or of all, then of the launcher."""
        every = sorted(folder.logs(handle.attempt).glob("rank-*.log"), key=_rank_of)
        ranks = every if rank is None else [folder.rank_log(handle.attempt, rank)]
        return [path for path in (*ranks, folder.launcher_log(handle.attempt)) if path.exists()]

    @abstractmethod
    def cancel(
        self, handle: RunHandle, folder: RunFolder, grace_s: float, hurry: Callable[[], bool] = lambda: False
    ) -> None:
        """End every process of the attempt: a request, `grace_s` seconds, then the kill.

        Does nothing to a run that has ended. `hurry` turning true cuts the grace short.
        """

    def close(self) -> None:
        """Let go of what is kept for further runs."""
        return


def _rank_of(log: Path) -> int:
    return int(log.stem.removeprefix("rank-"))


def job_environment(plan: LaunchPlan) -> dict[str, str]:
    """The user's environment with the plan's variables: what a job on this machine receives."""
    return {**os.environ, **plan.env}
