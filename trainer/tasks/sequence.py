"""What tasks with one label a sentence, or a pair of sentences, have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from galley.counting import counted
from galley.data.labels import Labels
from galley.data.roles import needed
from galley.schema import Recipe
from trainer.data.cache import cache_root
from trainer.data.sources import Splits, read_splits
from trainer.data.tokenize.labeled import tokenized
from trainer.models.build import CLASSIFIER, load_model
from trainer.models.label_names import name_options, stored_class_names
from trainer.tasks.base import Batch, Datasets, MainFirst
from trainer.tasks.text import TextTask


class SequenceTask(TextTask):
    """A head over the whole sequence, with `num_labels` outputs.

    Attributes:
        labels: how the label column is read.
        problem_type: what Transformers calls the task, kept in the saved configuration.
    """

    labels: ClassVar[Labels]
    problem_type: ClassVar[str] = "single_label_classification"

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.num_labels = 0
        self.label_names: list[str] | None = None

    def datasets(self, main_first: MainFirst) -> Datasets:
        data, cache = self.recipe.data, cache_root(self.recipe.data)
        with main_first():
            splits = self._read()
            self.learn_labels(splits)
            train = tokenized(splits.train, self.tokenizer, data.max_length, cache)
            held_out = None
            if self.recipe.eval.enabled and splits.eval is not None:
                held_out = tokenized(splits.eval, self.tokenizer, data.max_length, cache)
        return Datasets(train, held_out)

    def _read(self) -> Splits:
        need = needed(self.recipe, learns=True)
        return read_splits(self.recipe.data, self.labels, need, lambda: stored_class_names(self.recipe))

    def learn_labels(self, splits: Splits) -> None:
        """Take from the data what the model and the loss need to know."""
        self.num_labels, self.label_names = splits.num_labels, splits.names

    def model(self) -> torch.nn.Module:
        assert self.num_labels, "datasets() comes first: it counts the classes"  # noqa: S101
        head, names = (self.num_labels, self.problem_type), self.label_names
        return load_sequence_model(self.recipe, *head, self.tokenizer, names)

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples, num_labels] in fp32."""
        logits: torch.Tensor = model(**self.inputs(batch)).logits
        return logits.float()

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return weights.sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """`logits`."""
        return self.logits(model, batch).detach()


def load_sequence_model(
    recipe: Recipe, num_labels: int, problem_type: str, tokenizer: Any, names: Sequence[str] | None = None
) -> torch.nn.Module:
    """A model with a head of `num_labels` outputs, which `names` name in its configuration."""
    return load_model(
        recipe,
        CLASSIFIER,
        counted(num_labels, "label"),
        tokenizer,
        num_labels=num_labels,
        problem_type=problem_type,
        **(name_options(names) if names else {}),
    )
