"""A small classifier learns from a large one: from its probabilities, and from the labels."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from galley.errors import ConfigError, Problem
from galley.quoting import shell_word
from galley.schema import Model, Recipe
from trainer.engines.precision import autocast
from trainer.models.build import load_tokenizer, new_names
from trainer.models.label_names import class_names
from trainer.tasks.base import Batch
from trainer.tasks.sequence import load_sequence_model
from trainer.tasks.sequence_classification import SequenceClassification

log = logging.getLogger("galley")


class Distillation(SequenceClassification):
    """(1 - w) · cross-entropy + w · T² · KL(teacher ‖ student) of the classes at temperature T
    (Hinton et al., arXiv:1503.02531, section 2); evaluation measures the labels alone.

    The teacher is no part of the model: it is in no optimizer, no checkpoint, and not partitioned.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.teacher: torch.nn.Module | None = None

    def model(self) -> torch.nn.Module:
        if not self.recipe.eval.only:  # where nobody learns, no teacher need be there
            with torch.device("cpu"):  # every rank asks it, also one that reads no weights of its own
                self.teacher = load_teacher(self.recipe, self.tokenizer.get_vocab(), self._classifier)
                self._check_order(self.teacher)
        return super().model()

    def _check_order(self, teacher: Any) -> None:
        """Raises `ConfigError` where the teacher gives the same classes other numbers."""
        theirs, own = class_names(teacher.config), self.label_names or []
        same = {name.casefold() for name in theirs} == {name.casefold() for name in own}
        if own and same and [name.casefold() for name in theirs] != [name.casefold() for name in own]:
            what = f"has the classes in another order: {', '.join(theirs)}"
            where = f"task.distillation.teacher={self.recipe.task.distillation.teacher}"
            raise ConfigError(Problem(where, what, shell_word(["data", "label_names"], theirs)))

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        if self.step is None or self.teacher is None:
            return super().loss(model, batch, weights)
        settings, logits = self.recipe.task.distillation, self.logits(model, batch)
        labels = cross_entropy(logits, batch["labels"], reduction="none")
        taught = self._ask(self.teacher, batch)
        student, target = (log_softmax(x / settings.temperature, dim=-1) for x in (logits, taught))
        soft = kl_div(student, target, reduction="none", log_target=True).sum(1) * settings.temperature**2
        mixed = (1 - settings.weight) * labels + settings.weight * soft
        return (mixed * self._factors(batch, weights)).sum()

    def _classifier(self, recipe: Recipe, tokenizer: Any) -> torch.nn.Module:
        return load_sequence_model(recipe, self.num_labels, "single_label_classification", tokenizer)

    @torch.no_grad()
    def _ask(self, teacher: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Its logits, computed where and in the format in which this run computes: a warm server, which
        loaded it for a run to come, did not know either."""
        device = batch["labels"].device
        with autocast(self.recipe.precision.dtype, device.type):
            return self.logits(teacher.to(device), batch)


def load_teacher(
    recipe: Recipe,
    vocabulary: dict[str, int],
    load: Callable[[Recipe, Any], torch.nn.Module],
    untrained_head: bool = False,
) -> torch.nn.Module:
    """The teacher that `load` makes of its recipe and tokenizer, frozen and in evaluation mode.

    Raises `ConfigError` for one with another vocabulary, or without a trained head, unless
    `untrained_head` accepts that.
    """
    name = str(recipe.task.distillation.teacher)
    own = replace(recipe, model=Model(name, trust_remote_code=recipe.model.trust_remote_code))
    where = f"task.distillation.teacher={name}"
    tokenizer = load_tokenizer(own)
    if tokenizer.get_vocab() != vocabulary:
        raise ConfigError(
            Problem(where, "has another vocabulary than the student", "choose one of its family")
        )
    teacher = load(own, tokenizer)
    if new_names(teacher) and not untrained_head:
        what = f"has no trained head ({', '.join(new_names(teacher))} would be random)"
        raise ConfigError(Problem(where, what, "train it first: the teacher is RUN/model"))
    log.info("teacher %s: %d parameters, frozen", name, sum(p.numel() for p in teacher.parameters()))
    return teacher.requires_grad_(False).eval()
