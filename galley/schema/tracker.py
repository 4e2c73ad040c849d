"""Where metrics go besides the run folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from galley.registry import TRACKERS
from galley.schema.types import NameIn


@dataclass(frozen=True)
class Tracker:
    """Where metrics go besides metrics.jsonl. A tracker that fails never ends a run.

    Attributes:
        project: of the tracker; MLflow calls it an experiment.
        entity: of W&B: a user or a team; null is the default of the key.
        name: of the run; null is the name of its folder.
        group: what the run belongs to; a sweep sets it to the study's name.
        mode: of W&B: `auto` is $WANDB_MODE, else online where there is a key, else offline.
        uri: of MLflow's tracking server, or `env:NAME`, the variable that holds it, where it carries a
            password; null is a database in the run folder.
        options: of a tracker from outside Galley, which is given them as they are.
    """

    kind: Annotated[str, NameIn(TRACKERS, ("none",), own=True)] = "none"
    project: str = "galley"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    uri: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
