"""What tasks on text have in common: the tokenizer, padded batches, the model's inputs, what is saved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from galley.schema import Recipe
from trainer.models.build import load_tokenizer
from trainer.models.hub import quiet_transformers
from trainer.tasks.base import Batch, Sample, Task

IGNORED = -100
"""The label of a position that has none; torch's losses leave it out."""


class TextTask(Task):
    """A task whose samples have `input_ids` and `token_type_ids`."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._tokenizer: Any = None

    @property
    def tokenizer(self) -> Any:
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.recipe)
        return self._tokenizer

    def encoded(self, samples: Sequence[Sample]) -> Batch:
        """`input_ids`, `token_type_ids`, `attention_mask` [samples, longest]."""
        ids = padded([sample["input_ids"] for sample in samples], self.tokenizer.pad_token_id)
        types = padded([sample["token_type_ids"] for sample in samples], 0)
        mask = padded([np.ones(len(sample["input_ids"]), dtype=np.int64) for sample in samples], 0)
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}

    def inputs(self, batch: Batch) -> Batch:
        """What the model takes; one without segments (RoBERTa, DistilBERT) takes no `token_type_ids`."""
        names = ["input_ids", "attention_mask"]
        names += ["token_type_ids"] if "token_type_ids" in self.tokenizer.model_input_names else []
        return {name: batch[name] for name in names if name in batch}

    def save_pretrained(self, model: torch.nn.Module, state: Batch, folder: str) -> None:
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=state)  # type: ignore[operator]  # a Transformers model
            self.tokenizer.save_pretrained(folder)


def padded(rows: Sequence[Any], fill: int) -> torch.Tensor:
    """Rows of integers of different lengths -> int64 [rows, longest]."""
    whole = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for number, row in enumerate(rows):
        whole[number, : len(row)] = row
    return torch.from_numpy(whole)
