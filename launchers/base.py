"""The launcher seam: what starts, watches and ends the processes of a run.

    plan      RunSpec, ClusterFacts -> LaunchPlan     pure: the same arguments, the same plan, anywhere
    submit    LaunchPlan -> RunHandle                 executes exactly what the plan says
    find_job  RunHandle -> Job                        also in another process

A `Job` is what the rest of Galley asks: its state, logs and diagnosis, and its end. What only some launchers
can do (job arrays, ranks on machines that join by hand, preloaded processes, jobs that outlive their
submitter) is an optional capability, which the others need not know.

A launcher knows nothing of result.json or of displays: `launchers.lifecycle.supervise` is the same for all.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
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


@dataclass(frozen=True)
class Prepared:
    """An attempt that is ready to be started.

    Attributes:
        plan: what is submitted; nobody plans again.
        facts: the nodes for which the plan was made; null if another process has made it.
    """

    launcher: Launcher
    spec: RunSpec
    folder: RunFolder
    plan: LaunchPlan
    facts: ClusterFacts | None = None


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

    def find_job(self, handle: RunHandle, folder: RunFolder, spec: RunSpec | None = None) -> Job:
        """The submitted attempt of that handle; `spec` is read from the folder if it is not given."""
        return Job(self, folder, handle, spec)

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

    def failing(self, handle: RunHandle, folder: RunFolder) -> bool:
        """Whether the launcher saw a process fail while others still live, which it does not end itself."""
        return False

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

    def arrays(self) -> JobArrays | None:
        """What submits many runs as one job; None if the launcher has no such thing."""
        return None

    def joining(self) -> JoiningNodes | None:
        """What starts the ranks of machines that join by hand; None if the launcher starts all its nodes."""
        return None

    def preloaded(self, spec: RunSpec) -> str | None:
        """The launcher that runs `spec` alike in processes that hold torch, model and data; None for none."""
        return None


class JobArrays(ABC):
    """Many runs as one job, of which a cluster starts so many at a time. Each keeps a handle of its own.

    Attributes:
        most: how many runs one array has at most.
    """

    most: int

    @abstractmethod
    def request(self, prepared: Prepared) -> dict[str, str | int | None]:
        """What a run asks the cluster for: the runs of one array ask for the same."""

    @abstractmethod
    def submit(self, runs: Sequence[Prepared], folder: Path, parallel: int) -> list[Job]:
        """Start the plans of all runs, whose array is kept in `folder`; a job each, in their order.

        Raises `SubmissionError` with the cluster's reason; nothing is running then.
        """

    @abstractmethod
    def recall(self, folder: Path) -> None:
        """Record the handles of an array whose submitter was killed before it had recorded all of them.

        Raises `SubmissionError` if the cluster does not tell whether it has the array.
        """


class JoiningNodes(ABC):
    """Nodes whose ranks a user starts by a command on each."""

    @abstractmethod
    def start_node(self, job: Job, node: int) -> Job:
        """Start the ranks of node `node` of a job that runs elsewhere, on this machine."""

    @abstractmethod
    def exit_code(self, handle: RunHandle) -> int | None:
        """Of a command that this process started and that has ended."""


@dataclass(frozen=True)
class Job:
    """One submitted attempt of a run: its identity, its paths, and all that can be asked of it.

    Attributes:
        given: the attempt's spec, if it is known already.
    """

    launcher: Launcher
    folder: RunFolder
    handle: RunHandle
    given: RunSpec | None = field(default=None, repr=False, compare=False)

    @property
    def attempt(self) -> int:
        return self.handle.attempt

    @property
    def remote(self) -> bool:
        """Whether a scheduler owns the job."""
        return self.launcher.remote

    @cached_property
    def spec(self) -> RunSpec:
        """The run as this attempt has it, which may be on other ranks than the sealed one."""
        return self.folder.read_attempt_spec(self.attempt) if self.given is None else self.given

    @property
    def end_descriptor(self) -> int | None:
        """As `Launcher.end`."""
        return self.launcher.end(self.handle)

    def state(self) -> State:
        """As `Launcher.poll`."""
        return self.launcher.poll(self.handle, self.folder)

    def current(self) -> Job:
        """The job at the attempt that it is at: a scheduler may have started it again."""
        return replace(self, handle=self.launcher.current(self.handle, self.folder))

    def logs(self, rank: int | None = None) -> list[Path]:
        """As `Launcher.logs`."""
        return self.launcher.logs(self.handle, self.folder, rank)

    def diagnose(self) -> Diagnosis:
        """Why it ended, as far as its launcher can tell."""
        return self.launcher.diagnose(self.handle, self.folder)

    def has_failed_rank(self) -> bool:
        """Whether a rank has failed and the others have to be ended."""
        failed = bool(self.folder.read_rank_errors(self.attempt)) or self.launcher.failing(
            self.handle, self.folder
        )
        return failed and not self.launcher.outlives_failures(self.spec)

    def end_ranks(self) -> None:
        """As `Launcher.end_ranks`."""
        self.launcher.end_ranks(self.handle, self.folder)

    def cancel(self, grace_s: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """As `Launcher.cancel`."""
        self.launcher.cancel(self.handle, self.folder, grace_s, hurry)


def _rank_of(log: Path) -> int:
    return int(log.stem.removeprefix("rank-"))


def job_environment(plan: LaunchPlan) -> dict[str, str]:
    """The user's environment with the plan's variables: what a job on this machine receives."""
    return {**os.environ, **plan.env}
