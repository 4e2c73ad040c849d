"""Language models: the next token (`causal_lm`), or tokens that were hidden (`masked_lm`)."""

from __future__ import annotations

import math
import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from galley.data.roles import TEXT, Table, needed
from galley.errors import ConfigError, Problem
from galley.schema import Recipe
from trainer.data.cache import cache_root
from trainer.data.language import Preparation, TextEncoder, evaluation_windows, training_samples
from trainer.data.raw import read_tables
from trainer.data.stream import first_texts, open_stream
from trainer.data.tokenize.packing import FillInTheMiddle
from trainer.models.build import BPE, CHARACTERS, load_model, load_tokenizer
from trainer.models.hub import quiet_transformers
from trainer.tasks.base import Batch, Datasets, MainFirst, Sample, Task, TokenizedDataset

IGNORED = -100
# What the tokenizers of code models call prefix, middle and suffix; the first is added where none is known.
FIM_TOKENS = (
    ("<fim_prefix>", "<fim_middle>", "<fim_suffix>"),
    ("<fim-prefix>", "<fim-middle>", "<fim-suffix>"),
    ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"),
)


class LanguageModeling(Task):
    """What both have in common: texts, packing, windows, and a mean over target tokens."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(recipe)
        self.settings = recipe.task.lm
        self.tokenizer: Any = None

    def datasets(self, main_first: MainFirst) -> Datasets:
        data, cache = self.recipe.data, cache_root(self.recipe.data)
        if self.recipe.eval.only:
            return self._measured_alone(main_first)
        if data.streaming:
            return self._streamed(main_first)
        with main_first():
            tables = read_tables(data, (TEXT,), needed(self.recipe))
            encoder = self._prepare(tables["train"])
            train = training_samples(tables["train"], encoder, cache)
            held_out = (
                evaluation_windows(tables["eval"], encoder, cache) if self.recipe.eval.enabled else None
            )
        return Datasets(train, held_out)

    def _measured_alone(self, main_first: MainFirst) -> Datasets:
        if self.recipe.model.tokenizer == BPE:  # of the texts that are measured it would be another one
            raise ConfigError(Problem("model.tokenizer=bpe", "is trained by a run", "measure its RUN/model"))
        with main_first():
            table = read_tables(self.recipe.data, (TEXT,), "eval")["eval"]
            windows = evaluation_windows(table, self._prepare(table), cache_root(self.recipe.data))
        return Datasets(windows, windows)

    def _streamed(self, main_first: MainFirst) -> Datasets:
        """Training as a stream; the evaluation split is prepared and kept as ever."""
        data, cache = self.recipe.data, cache_root(self.recipe.data)
        with main_first():
            encoder = self._prepare(None)
            held_out = None
            if self.recipe.eval.enabled:
                table = read_tables(data, (TEXT,))["eval"]
                held_out = evaluation_windows(table, encoder, cache)
        return Datasets(open_stream(data, encoder, self.recipe.seed), held_out)

    def _prepare(self, train: Table | None) -> TextEncoder:
        """Load the tokenizer; `train` is what `model.tokenizer=characters` or `bpe` is made of."""
        texts = None
        if self.recipe.model.tokenizer in (CHARACTERS, BPE) and train is not None:
            texts = train.columns["text"]
        elif self.recipe.model.tokenizer == BPE and self.recipe.data.streaming:
            texts = first_texts(self.recipe.data, self.recipe.seed, self.recipe.model.bpe.texts)
        self.tokenizer = load_tokenizer(self.recipe, texts, pad_with_end=True)
        return TextEncoder(self.tokenizer, self._preparation(), self.recipe.data.workers)

    def _preparation(self) -> Preparation:
        size, settings = self.recipe.data.max_length, self.settings
        stride = settings.eval_stride or size
        if stride > size:
            what = f"leaves out tokens between windows of {size}"
            raise ConfigError(Problem(f"task.lm.eval_stride={stride}", what, "at most data.max_length"))
        return Preparation(
            size,
            settings.packing,
            self._separator(),
            self._has_special_tokens(),
            stride,
            self._fim(),
            self._first(),
            self.tokenizer.truncation_side,
        )

    @abstractmethod
    def _separator(self) -> int | None: ...

    @abstractmethod
    def _has_special_tokens(self) -> bool: ...

    def _fim(self) -> FillInTheMiddle | None:
        return None

    def _first(self) -> int | None:
        return None

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """`input_ids`, `attention_mask`, `labels` [samples, longest]; `labels` is -100 where not measured."""
        shape = (len(samples), max(len(sample["input_ids"]) for sample in samples))
        ids = np.full(shape, self.tokenizer.pad_token_id, dtype=np.int64)
        mask, labels = np.zeros(shape, dtype=np.int64), np.full(shape, IGNORED, dtype=np.int64)
        for row, sample in enumerate(samples):
            length = len(sample["input_ids"])
            mask[row, :length] = 1
            ids[row, :length], labels[row, :length] = self.example(sample)
        arrays = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    @abstractmethod
    def example(self, sample: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
        """What the model reads, and what it should answer, each [length]."""

    @abstractmethod
    def answers(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [samples, targets, vocabulary] in fp32 and the labels [samples, targets] they are for."""

    def loss(self, model: torch.nn.Module, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        return (self._losses(*self.answers(model, batch)).sum(1) * weights).sum()

    def weight(self, batch: Batch, weights: torch.Tensor) -> torch.Tensor:
        """The number of tokens that are measured."""
        return (self._measured(batch) * weights).sum()

    def _measured(self, batch: Batch) -> torch.Tensor:
        return (batch["labels"] != IGNORED).sum(1)

    @staticmethod
    def _losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """[samples, targets]; 0 where nothing is measured."""
        losses: torch.Tensor = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED
        )
        return losses

    def predict(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """[samples, 3]: sum of the losses, tokens measured, tokens whose likeliest answer is right."""
        logits, labels = self.answers(model, batch)
        right = (logits.argmax(-1) == labels).sum(1)
        sums = self._losses(logits, labels).sum(1)
        return torch.stack([sums, self._measured(batch).float(), right.float()], dim=1).detach()

    def metrics(self, predictions: NDArray[Any], dataset: TokenizedDataset) -> dict[str, float]:
        """`perplexity` = exp(mean loss of a token), and `accuracy` of the likeliest token."""
        losses, tokens, right = predictions.astype(np.float64).sum(axis=0)
        return {"perplexity": perplexity(losses / tokens), "accuracy": float(right / tokens)}

    def save_pretrained(self, model: torch.nn.Module, state: Batch, folder: str) -> None:
        with quiet_transformers():
            model.save_pretrained(folder, state_dict=state)  # type: ignore[operator]  # a Transformers model
            self.tokenizer.save_pretrained(folder)


def perplexity(loss: float) -> float:
    """exp(loss); infinite where that is more than a float holds."""
    return math.exp(loss) if loss < math.log(np.finfo(np.float64).max) else math.inf


class CausalLM(LanguageModeling):
    """The next token. A token is predicted from all before it in its piece, also of other texts."""

    def model(self) -> torch.nn.Module:
        return load_model(self.recipe, "AutoModelForCausalLM", tokenizer=self.tokenizer)

    def _separator(self) -> int | None:
        if not self.settings.separator:
            return None
        if self.tokenizer.eos_token_id is None:
            what = "the tokenizer has no end-of-text token to put between texts"
            raise ConfigError(Problem("task.lm.separator=true", what, "task.lm.separator=false"))
        return int(self.tokenizer.eos_token_id)

    def _has_special_tokens(self) -> bool:
        return False

    def _first(self) -> int | None:
        """The token that begins a text (BOS), where the tokenizer puts it: Llama and Gemma are trained
        with it, and their perplexities are those of texts that have it."""
        first = self.tokenizer("")["input_ids"][:1]
        return int(first[0]) if first and first[0] == self.tokenizer.bos_token_id else None

    def _fim(self) -> FillInTheMiddle | None:
        settings = self.settings
        if settings.fim_rate == 0:
            return None
        known = self.tokenizer.get_vocab()
        names = next((names for names in FIM_TOKENS if set(names) <= known.keys()), FIM_TOKENS[0])
        self.tokenizer.add_tokens([name for name in names if name not in known], special_tokens=True)
        prefix, middle, suffix = self.tokenizer.convert_tokens_to_ids(list(names))
        return FillInTheMiddle(
            prefix, middle, suffix, settings.fim_rate, settings.fim_spm_rate, self.recipe.seed
        )

    def example(self, sample: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
        labels = sample["input_ids"].astype(np.int64)
        labels[: max(1, sample["context"])] = IGNORED
        return sample["input_ids"], labels

    def answers(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits[:, :-1].float(), batch["labels"][:, 1:]


class MaskedLM(LanguageModeling):
    """Hidden tokens (Devlin et al., arXiv:1810.04805, section 3.1).

    Of the chosen tokens 80 % become the mask, 10 % any other token, 10 % stay. The choice follows
    from the seed, the step and the sample, and in evaluation from the seed and the sample.
    """

    def model(self) -> torch.nn.Module:
        return load_model(self.recipe, "AutoModelForMaskedLM", tokenizer=self.tokenizer)

    def _separator(self) -> int | None:
        return None

    def _has_special_tokens(self) -> bool:
        if self.tokenizer.mask_token_id is None:
            where = f"model.name={self.recipe.model.name}"
            raise ConfigError(Problem(where, "its tokenizer has no mask token", "a BERT, or task=causal_lm"))
        return True

    def example(self, sample: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
        ids = sample["input_ids"].astype(np.int64)
        step = [] if self.step is None else [self.step]
        identity = zlib.crc32(ids.tobytes())
        random = np.random.default_rng([self.recipe.seed, identity, *step])
        candidates = np.flatnonzero(~np.isin(ids, self.tokenizer.all_special_ids))
        candidates = candidates[candidates >= sample["context"]]
        count = min(len(candidates), max(1, round(self.settings.mask_rate * len(candidates))))
        chosen = random.permutation(candidates)[:count]
        labels = np.full_like(ids, IGNORED)
        labels[chosen] = ids[chosen]
        fate = random.random(count)
        ids[chosen[fate < 0.8]] = self.tokenizer.mask_token_id
        other = chosen[fate >= 0.9]
        ids[other] = random.integers(0, self.tokenizer.vocab_size, len(other))
        return ids, labels

    def answers(self, model: torch.nn.Module, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        return logits.float(), batch["labels"]
