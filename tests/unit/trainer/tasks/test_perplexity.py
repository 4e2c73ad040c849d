"""Perplexities are those that plain Transformers gives: also with tokenizers that begin a text (BOS)."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from galley.schema import Data, Model, Recipe, Task
from galley.schema.task import LanguageModeling
from trainer.assets import tokenizer_folder
from trainer.data.tokenize.packing import FillInTheMiddle
from trainer.tasks.language_modeling import CausalLM

LLAMA = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TEXTS = ["The recipe is for a fleet.", "One recipe, one seal, one run, on every cluster that there is."]
BOS = 50256


@pytest.fixture(scope="module")
def llama_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's tokens, with a token before every text, as Llama's and Gemma's tokenizers put it."""
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("bos")
    tokenizer: Any = AutoTokenizer.from_pretrained(tokenizer_folder("embedded:gpt2_bpe", folder))
    end = tokenizer.eos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end} $A", pair=f"{end} $A {end} $B", special_tokens=[(end, BOS)]
    )
    tokenizer.bos_token = tokenizer.pad_token = end
    tokenizer.save_pretrained(folder / "made")
    return folder / "made"


def causal_lm(tmp_path: Path, tokenizer: Path, max_length: int, **settings: Any) -> CausalLM:
    for split in ("train", "dev"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    data = Data(path=str(tmp_path), cache_dir=str(tmp_path / "cache"), max_length=max_length)
    model = Model(architecture="llama", tokenizer=str(tokenizer), config=LLAMA)
    return CausalLM(Recipe(data=data, model=model, task=Task("causal_lm", lm=LanguageModeling(**settings))))


def perplexity(task: CausalLM) -> tuple[float, Any]:
    dataset = task.datasets(nullcontext).eval
    assert dataset is not None
    model: Any = task.model().eval()
    batch = task.collate(dataset.rows(range(len(dataset))))
    return task.metrics(task.predict(model, batch).numpy(), dataset)["perplexity"], model


def test_each_text_by_itself(tmp_path: Path, llama_tokenizer: Path) -> None:
    task = causal_lm(tmp_path, llama_tokenizer, 64, packing=False, separator=False)
    found, model = perplexity(task)
    losses, count = 0.0, 0
    model.requires_grad_(False)
    for text in TEXTS:
        ids = torch.tensor([task.tokenizer(text)["input_ids"]])
        assert ids[0, 0] == BOS
        losses += float(model(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert found == pytest.approx(math.exp(losses / count), rel=1e-5)


def test_windows_over_the_joined_texts(tmp_path: Path, llama_tokenizer: Path) -> None:
    """The procedure of Transformers' page on perplexity, over what `run_clm.py` joins."""
    size, stride = 12, 5
    task = causal_lm(tmp_path, llama_tokenizer, size, separator=False, eval_stride=stride)
    found, model = perplexity(task)
    whole = torch.tensor([[token for text in TEXTS for token in task.tokenizer(text)["input_ids"]]])
    losses, count, before = 0.0, 0, 0
    for start in range(0, whole.shape[1], stride):
        end = min(start + size, whole.shape[1])
        ids = whole[:, start:end]
        labels = ids.clone()
        labels[:, : before - start] = -100
        measured = int((labels[:, 1:] != -100).sum())
        losses += float(model(input_ids=ids, labels=labels).loss) * measured
        count, before = count + measured, end
        if end == whole.shape[1]:
            break
    assert found == pytest.approx(math.exp(losses / count), rel=1e-5)


def test_a_gap_is_cut_behind_the_token_that_begins_a_text(tmp_path: Path, llama_tokenizer: Path) -> None:
    task = causal_lm(tmp_path, llama_tokenizer, 64, packing=False, fim_rate=1.0, fim_spm_rate=0.0)
    train = task.datasets(nullcontext).train
    fim = task._fim()
    assert isinstance(fim, FillInTheMiddle)
    for row in train.rows(range(len(train))):
        assert row["input_ids"][:2].tolist() == [BOS, fim.prefix]
        assert row["input_ids"].tolist().count(BOS) == 2  # and the one behind the text


def test_a_tokenizer_that_begins_no_text_adds_nothing(tmp_path: Path) -> None:
    folder = tokenizer_folder("embedded:gpt2_bpe", tmp_path)
    task = causal_lm(tmp_path, Path(folder), 64, packing=False, separator=False)
    train = task.datasets(nullcontext).train
    assert [row["input_ids"].tolist() for row in train.rows([0, 1])] == task.tokenizer(TEXTS)["input_ids"]
