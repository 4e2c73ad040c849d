"""The recipe: every key a user may set, with its type, unit and default.

These dataclasses are the single source of names: composition, validation, `explain` and the
did-you-mean suggestions all read them. A `Recipe` is complete and checked; whatever depends on
the machine (world size, device, micro-batch) is in `galley.spec.Layout`.
"""

from __future__ import annotations

from typing import Any

from galley.schema.data import Data, Source
from galley.schema.hpo import Choose, Hpo, Pbt, Pruning
from galley.schema.hub import Hub
from galley.schema.k8s import K8s
from galley.schema.launcher import Cluster, Launcher, Mpi, Ray, Torchrun
from galley.schema.model import Lora, Model, Shape
from galley.schema.recipe import Recipe
from galley.schema.slurm import Slurm
from galley.schema.strategy import Precision, Strategy
from galley.schema.task import (
    Classification,
    Contrastive,
    Distillation,
    LanguageModeling,
    QuestionAnswering,
    Seq2Seq,
    Task,
)
from galley.schema.tracker import Tracker
from galley.schema.training import Batch, Checkpoint, Eval, Optim, ParamGroup, Schedule, Train
from galley.schema.types import Dtype, Fraction, NonNegative, OffloadDevice, Positive

JsonObject = dict[str, Any]

__all__ = [
    "Batch",
    "Checkpoint",
    "Choose",
    "Classification",
    "Cluster",
    "Contrastive",
    "Data",
    "Distillation",
    "Dtype",
    "Eval",
    "Fraction",
    "Hpo",
    "Hub",
    "JsonObject",
    "K8s",
    "LanguageModeling",
    "Launcher",
    "Lora",
    "Model",
    "Mpi",
    "NonNegative",
    "OffloadDevice",
    "Optim",
    "ParamGroup",
    "Pbt",
    "Positive",
    "Precision",
    "Pruning",
    "QuestionAnswering",
    "Ray",
    "Recipe",
    "Schedule",
    "Seq2Seq",
    "Shape",
    "Slurm",
    "Source",
    "Strategy",
    "Task",
    "Torchrun",
    "Tracker",
    "Train",
]
