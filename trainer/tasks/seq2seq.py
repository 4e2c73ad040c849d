"""One text from another: an encoder reads the source, a decoder writes the target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galley.data.roles import Table, needed
from galley.errors import ConfigError, Problem
from galley.schema import Recipe
from galley.tasks.seq2seq import ROLES
from trainer.data.cache import cache_root
from trainer.data.raw import read_tables
from trainer.data.store import ArrowDataset
from trainer.data.tokenize.source_target import source_target, translation
from trainer.models.build import load_model, load_tokenizer, require_positions
from trainer.models.hub import quiet_transformers
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, Task, TokenizedDataset

IGNORED = -100


class Seq2Seq(Task):
    """Cross-entropy of the target's tokens; evaluation writes the target and compares the texts."""

    prediction_fill = IGNORED

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.settings = recipe.task.seq2seq
        self.tokenizer: Any = None
        self._decoder_start = 0

    def datasets(self, main_first: MainFirst) -> Datasets:
        cache = cache_root(self.recipe.data)
        with main_first():
            tables = read_tables(self.recipe.data, ROLES, needed(self.recipe))
            self.tokenizer = load_tokenizer(self.recipe, pad_with_end=True)
            held_out = self._stored(tables["eval"], cache) if self.recipe.eval.enabled else None
            if self.recipe.eval.only and held_out is not None:
                return Datasets(held_out, held_out)
            train = self._stored(tables["train"], cache)
        return Datasets(train, held_out)

    def _stored(self, table: Table, cache: Any) -> ArrowDataset:
        data, settings = self.recipe.data, self.settings
        longest = (data.max_length, settings.max_target_length)
        how = translation(self.tokenizer, settings.prefix, self.end_of_text, *longest)
        return source_target(table, how, data.workers, cache)

    @property
    def end_of_text(self) -> int:
        end = self.tokenizer.eos_token_id
        return int(self.tokenizer.sep_token_id if end is None else end)

    def model(self) -> torch.nn.Module:
        model: Any = load_model(self.recipe, "AutoModelForSeq2SeqLM", tokenizer=self.tokenizer)
        if self.settings.generate and not hasattr(model, "generate"):
            where = f"model.architecture={self.recipe.model.architecture}"
            hint = "task.seq2seq.generate=false measures the loss alone"
            raise ConfigError(Problem(where, f"{type(model).__name__} has no generate()", hint))
        if model.config.is_encoder_decoder:
            longest = self.settings.max_target_length
            require_positions(model, "task.seq2seq.max_target_length", longest, "decoder")
        start = getattr(model.config, "decoder_start_token_id", None)
        if start is None:
            where = f"model.name={self.recipe.model.name}"
            hint = "set model.config.decoder_start_token_id"
            raise ConfigError(Problem(where, "does not say which token its decoder starts from", hint))
        self._decoder_start = int(start)
        loaded: torch.nn.Module = model
        return loaded

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`input_ids`, `attention_mask` [samples, source]; with [samples, target] the two of the target."""
        ids, mask = _padded([sample["input_ids"] for sample in samples], self.tokenizer.pad_token_id)
        labels, _ = _padded([sample["labels"] for sample in samples], IGNORED)
        shifted = np.full_like(labels, self._decoder_start)
        shifted[:, 1:] = np.where(labels[:, :-1] == IGNORED, self.tokenizer.pad_token_id, labels[:, :-1])
        arrays = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": shifted, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        logits = model(**inputs).logits.float()
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), batch["labels"], reduction="none", ignore_index=IGNORED
        )
        return (losses.sum(1) * weights).sum()

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """The number of target tokens."""
        return ((batch["labels"] != IGNORED).sum(1) * weights).sum()

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Generated tokens [samples, longest]; of no width where `task.seq2seq.generate` is off."""
        if not self.settings.generate:
            return torch.zeros(len(batch["input_ids"]), 0, dtype=torch.int64)
        generator: Any = model
        # A rank that is done goes on with the others: a partitioned model's forward is a collective.
        together = self.ranks is not None and self.ranks.world_size > 1
        with quiet_transformers():
            generated: torch.Tensor = generator.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=self.settings.max_target_length,
                num_beams=self.settings.beams,
                do_sample=False,
                **self._wording(),
                use_cache=True,
                synced_gpus=together,
            )
        return generated.detach()

    def _wording(self) -> dict[str, float]:
        """What the recipe says of the text besides its length and the search."""
        settings = self.settings
        said = {
            "min_length": settings.min_length,
            "no_repeat_ngram_size": settings.no_repeat_ngram,
            "repetition_penalty": settings.repetition_penalty,
        }
        return {name: value for name, value in said.items() if value is not None}

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """`bleu` and `chrf` of the texts, as sacrebleu computes them with its defaults."""
        if not self.settings.generate:
            return {}
        import sacrebleu

        references = [row["target"] for row in dataset.rows(range(len(dataset)))]
        tokens = np.where(predictions == IGNORED, self.tokenizer.pad_token_id, predictions)
        written = [text.strip() for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]
        return {
            "bleu": sacrebleu.corpus_bleu(written, [references]).score,
            "chrf": sacrebleu.corpus_chrf(written, [references]).score,
        }

    def save_pretrained(self, model: torch.nn.Module, state: Batch, folder: str) -> None:
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=state)  # type: ignore[operator]  # a Transformers model
            self.tokenizer.save_pretrained(folder)


def _padded(rows: Sequence[NDArray[Any]], fill: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows [rows, longest] padded at their ends, and 1 where they have a value."""
    shape = (len(rows), max(len(row) for row in rows))
    values, mask = np.full(shape, fill, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for number, row in enumerate(rows):
        values[number, : len(row)] = row
        mask[number, : len(row)] = 1
    return values, mask
