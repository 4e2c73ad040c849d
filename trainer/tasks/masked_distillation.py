"""A small masked language model learns from a large one, as DistilBERT from BERT (Sanh et al. 2019)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cosine_similarity, kl_div, log_softmax

from galley.errors import ConfigError, Problem
from galley.schema import Recipe
from trainer.engines.precision import autocast
from trainer.models.build import load_model
from trainer.tasks.base import Batch
from trainer.tasks.distillation import load_teacher
from trainer.tasks.language_modeling import IGNORED, MaskedLM
from trainer.tasks.student import start_from_teacher

Answer = tuple[torch.Tensor, torch.Tensor]
"""Logits [samples, tokens, vocabulary] and the last hidden states [samples, tokens, width], in fp32."""


class MaskedDistillation(MaskedLM):
    """Three losses (arXiv:1910.01108, section 3): T² · KL(teacher ‖ student) of the tokens at temperature T,
    cross-entropy of the hidden tokens, and 1 - cosine of the last hidden states of all tokens.

    A mean over the tokens of a sample counts as often as the sample has hidden tokens, so that the three
    have one divisor, and no result depends on how a batch is split. Where all samples are of one length,
    as packed texts are, these are the means over the tokens of the batch. Evaluation measures the hidden
    tokens alone.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.teacher: torch.nn.Module | None = None
        self.how = recipe.task.distillation.masked

    def model(self) -> torch.nn.Module:
        student = super().model()
        if self.recipe.eval.only:  # where nobody learns, no teacher need be there
            return student
        vocabulary, accepted = self.tokenizer.get_vocab(), self.how.untrained_teacher_head
        with torch.device("cpu"):  # every rank asks it, also one that reads no weights of its own
            self.teacher = load_teacher(self.recipe, vocabulary, _masked_model, accepted)
        _check_sizes(self.recipe, student, self.teacher)
        if self.how.layers is not None:
            start_from_teacher(student, self.teacher, self.how.layers)
        return student

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        if self.step is None or self.teacher is None:
            return super().loss(model, batch, weights)
        student, teacher = _answer(model, batch), self._ask(self.teacher, batch)
        losses = (
            self.how.soft_weight * self._soft(student[0], teacher[0], batch)
            + self.how.label_weight * self._losses(student[0], batch["labels"]).sum(1)
            + self.how.hidden_weight * self._hidden(student[1], teacher[1], batch)
        )
        return (losses * weights).sum()

    def _soft(self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[samples]."""
        masked, temperature = batch["labels"] != IGNORED, self.recipe.task.distillation.temperature
        where = masked if self.how.soft_positions == "masked" else batch["attention_mask"].bool()
        own, target = (log_softmax(logits[where] / temperature, dim=-1) for logits in (student, teacher))
        losses = kl_div(own, target, reduction="none", log_target=True).sum(1) * temperature**2
        return _mean_of_samples(losses, where) * masked.sum(1)

    def _hidden(self, student: torch.Tensor, teacher: torch.Tensor, batch: Batch) -> torch.Tensor:
        """[samples]."""
        where = batch["attention_mask"].bool()
        losses = 1 - cosine_similarity(student[where], teacher[where], dim=-1)
        return _mean_of_samples(losses, where) * self._measured(batch)

    @torch.no_grad()
    def _ask(self, teacher: torch.nn.Module, batch: Batch) -> Answer:
        """Its answer, computed where and in the format in which this run computes."""
        device = batch["labels"].device
        with autocast(self.recipe.precision.dtype, device.type):
            return _answer(teacher.to(device), batch)


def _masked_model(recipe: Recipe, tokenizer: Any) -> torch.nn.Module:
    return load_model(recipe, "AutoModelForMaskedLM", tokenizer=tokenizer)


def _answer(model: torch.nn.Module, batch: Batch) -> Answer:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    output = model(**inputs, output_hidden_states=True)
    return output.logits.float(), output.hidden_states[-1].float()


def _mean_of_samples(values: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    """The mean of each sample's values [samples]; `values` are those at the true places of `where`."""
    sums = torch.zeros(len(where), dtype=values.dtype, device=values.device)
    return sums.index_add(0, where.nonzero()[:, 0], values) / where.sum(1).clamp(min=1)


def _check_sizes(recipe: Recipe, student: Any, teacher: Any) -> None:
    """Raises `ConfigError` where logits or hidden states cannot be compared."""
    for name in ("vocab_size", "hidden_size"):
        theirs, own = getattr(teacher.config, name), getattr(student.config, name)
        if theirs != own:
            where = f"task.distillation.teacher={recipe.task.distillation.teacher}"
            raise ConfigError(Problem(where, f"has {name} {theirs}, the student {own}", "take equal ones"))
