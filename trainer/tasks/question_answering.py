"""Extractive question answering: the answer is a span of the context, or there is none (SQuAD)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from galley.data.files import SplitName
from galley.data.roles import needed
from galley.data.squad import QuestionSet
from galley.schema import Recipe
from trainer.data.cache import cache_root
from trainer.data.questions import read_question_sets
from trainer.data.store import ArrowDataset
from trainer.data.tokenize.windows import WindowSize, windows
from trainer.metrics.squad import squad_metrics
from trainer.models.build import load_model
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, TokenizedDataset
from trainer.tasks.text import TextTask, padded

NO_SPAN = -1e30
"""Below the score of every span: of places that are no answer."""


class QuestionAnswering(TextTask):
    """Cross-entropy of the answer's first and last token, halved and added.

    A sample is a window (`trainer.data.tokenize.windows`); a window without the answer points to its first
    token. A question's answer is the best span of all its windows.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self._questions: dict[SplitName, QuestionSet] = {}

    def datasets(self, main_first: MainFirst) -> Datasets:
        recipe, cache = self.recipe, cache_root(self.recipe.data)
        size = WindowSize(recipe.data.max_length, recipe.task.qa.doc_stride)
        with main_first():
            self._questions = read_question_sets(recipe.data, needed(recipe))
            held_out = None
            if recipe.eval.enabled:
                held_out = windows(self._questions["eval"], self.tokenizer, size, cache)
            if recipe.eval.only and held_out is not None:
                return Datasets(held_out, held_out)
            train = windows(self._questions["train"], self.tokenizer, size, cache)
        return Datasets(train, held_out)

    def model(self) -> torch.nn.Module:
        head = "two outputs a token"
        return load_model(self.recipe, "AutoModelForQuestionAnswering", head, self.tokenizer, num_labels=2)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`encoded`, `start` and `end` [samples], `context` [samples, longest]: 1 where it may be."""
        places = {name: torch.tensor([sample[name] for sample in samples]) for name in ("start", "end")}
        context = padded([sample["char_ends"] >= 0 for sample in samples], 0)
        return {**self.encoded(samples), **places, "context": context}

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        start, end = self._logits(model, batch)
        losses = cross_entropy(start, batch["start"], reduction="none")
        losses = losses + cross_entropy(end, batch["end"], reduction="none")
        return (losses / 2 * weights).sum()

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return weights.sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples, 4] in fp32: score of no answer; score, first and last token of the best span."""
        start, end = (logits.detach() for logits in self._logits(model, batch))
        return torch.cat([(start[:, :1] + end[:, :1]), self._best_spans(start, end, batch["context"])], dim=1)

    def _logits(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Of each position; `NO_SPAN` where a sample is padded, so that its loss is that of it alone."""
        output, padding = model(**self.inputs(batch)), batch["attention_mask"] == 0
        start, end = (logits.float() for logits in (output.start_logits, output.end_logits))
        return start.masked_fill(padding, NO_SPAN), end.masked_fill(padding, NO_SPAN)

    def _best_spans(self, start: torch.Tensor, end: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        """[samples, 3]: score, first, last of the best span inside the context of at most
        `task.qa.max_answer_length` tokens."""
        inside = context.bool()
        scores = start[:, :, None] + end[:, None, :]
        length = scores.shape[-1]
        band = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu()
        band = band.tril(self.recipe.task.qa.max_answer_length - 1)
        allowed = band & inside[:, :, None] & inside[:, None, :]
        best, place = scores.masked_fill(~allowed, NO_SPAN).flatten(1).max(dim=1)
        return torch.stack([best, (place // length).float(), (place % length).float()], dim=1)

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """`exact_match` and `f1` in percent; see `squad_metrics`."""
        questions = self._questions["eval"].questions
        answers = self.answers(predictions, dataset)
        return squad_metrics(answers, {question.id: question.answers for question in questions})

    def answers(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, str]:
        """Question id -> answer; "" where there is none, which only data with such questions allow."""
        assert isinstance(dataset, ArrowDataset)  # noqa: S101
        owners, threshold = dataset.numbers("question"), np.inf
        if any(split.num_unanswerable for split in self._questions.values()):
            threshold = self.recipe.task.qa.no_answer_threshold
        found: dict[str, str] = {}
        for number, question in enumerate(self._questions["eval"].questions):
            own = np.flatnonzero(owners == number)
            best = own[predictions[own, 1].argmax()]
            score, first, last = predictions[best, 1:]
            nothing = score <= NO_SPAN or predictions[own, 0].min() - score > threshold
            row = dataset.rows([int(best)])[0]
            span = slice(row["char_starts"][int(first)], row["char_ends"][int(last)])
            found[question.id] = "" if nothing else question.context[span]
        return found
