"""The recipe as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from galley.schema.data import Data
from galley.schema.hpo import Hpo
from galley.schema.hub import Hub
from galley.schema.launcher import Cluster, Launcher
from galley.schema.model import Model
from galley.schema.strategy import Precision, Strategy
from galley.schema.task import Task
from galley.schema.tracker import Tracker
from galley.schema.training import Batch, Checkpoint, Eval, Optim, Schedule, Train
from galley.schema.types import NonNegative


@dataclass(frozen=True)
class Recipe:
    """A whole run as the user asked for it: composed, typed and checked.

    Attributes:
        plugins: folders with Python files that the worker may import.
        run_dir: the run folder; null is `runs/RECIPE-STRATEGY-SHA`.
        detach: return once the job is submitted.
        after: a run that must succeed before this one starts, where the launcher has a queue.
    """

    recipe: str = "quickstart"
    profile: str = "full"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)
    strategy: Strategy = field(default_factory=Strategy)
    precision: Precision = field(default_factory=Precision)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    batch: Batch = field(default_factory=Batch)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    launcher: Launcher = field(default_factory=Launcher)
    cluster: Cluster = field(default_factory=Cluster)
    hpo: Hpo = field(default_factory=Hpo)
    tracker: Tracker = field(default_factory=Tracker)
    hub: Hub = field(default_factory=Hub)
    plugins: list[str] = field(default_factory=list)
    seed: NonNegative = 42
    run_dir: str | None = None
    detach: bool = False
    after: str | None = None
