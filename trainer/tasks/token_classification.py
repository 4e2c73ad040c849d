"""A tag for every word: named entities, parts of speech."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from galley.data.files import SplitName
from galley.data.roles import Table, needed
from galley.data.tags import OUTSIDE
from galley.schema import Recipe
from trainer.data.cache import cache_root
from trainer.data.tokenize.tagged import IGNORED, read_tag_tables, tagged
from trainer.metrics.entities import entity_metrics
from trainer.models.build import load_model
from trainer.models.label_names import name_options
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, TokenizedDataset
from trainer.tasks.text import TextTask, padded


class TokenClassification(TextTask):
    """Cross-entropy over the tags, summed over words; a word is judged by its first piece."""

    prediction_fill = IGNORED

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.names: list[str] = []
        self._tables: dict[SplitName, Table] = {}

    def datasets(self, main_first: MainFirst) -> Datasets:
        data, cache = self.recipe.data, cache_root(self.recipe.data)
        with main_first():
            need = needed(self.recipe, learns=True)
            self._tables, self.names = read_tag_tables(data, need)
            train = tagged(self._tables["train"], self.names, self.tokenizer, data.max_length, cache)
            held_out = None
            if self.recipe.eval.enabled:
                held_out = tagged(self._tables["eval"], self.names, self.tokenizer, data.max_length, cache)
        return Datasets(train, held_out)

    def model(self) -> torch.nn.Module:
        size, family = len(self.names), "AutoModelForTokenClassification"
        options: dict[str, Any] = {"num_labels": size, **name_options(self.names)}
        return load_model(self.recipe, family, f"{size} tags", self.tokenizer, **options)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`encoded`, and `labels` [samples, longest], `IGNORED` where no word begins."""
        return {**self.encoded(samples), "labels": padded([sample["labels"] for sample in samples], IGNORED)}

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        logits = model(**self.inputs(batch)).logits.float()
        losses = cross_entropy(logits.mT, batch["labels"], ignore_index=IGNORED, reduction="none")
        return (losses.sum(1) * weights).sum()

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """Words that have a piece."""
        return ((batch["labels"] != IGNORED).sum(1) * weights).sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The tag's number where a word begins, else `IGNORED`: int64 [samples, longest]."""
        found: torch.Tensor = model(**self.inputs(batch)).logits.detach().argmax(-1)
        return found.masked_fill(batch["labels"] == IGNORED, IGNORED)

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """See `entity_metrics`. A word without a piece is predicted to be outside."""
        references = self._tables["eval"].columns["tags"]
        rows = dataset.rows(range(len(dataset)))
        found = [
            self._tags(predicted, row["words"], len(reference))
            for predicted, row, reference in zip(predictions, rows, references, strict=True)
        ]
        return entity_metrics(found, references)

    def _tags(self, predicted: NDArray[Any], words: NDArray[Any], count: int) -> list[str]:
        """One tag for each of `count` words; `words` has the word that begins at a position."""
        tags = [OUTSIDE] * count
        for place in np.flatnonzero(words != IGNORED):
            tags[words[place]] = self.names[int(predicted[place])]
        return tags
