"""Texts, dialogue and questions as people train them, through the command line: each learns what it should.

Not part of `make test`: some ten minutes on one idle core. `make acceptance` runs it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from galley.rundir import RunFolder
from tests.support import run_galley
from trainer.metrics.squad import token_f1

pytestmark = pytest.mark.timeout(3600)
SINGLE = (
    "strategy=single", "cluster.procs_per_node=1", "eval.every_steps=null", "checkpoint.every_steps=null",
)  # fmt: skip


def measured(words: list[str], run_dir: Path) -> dict[str, float]:
    """The metrics of the run that `train.py WORDS` makes in `run_dir`."""
    done = run_galley([*words, *SINGLE, f"run_dir={run_dir}"], cwd=run_dir.parent, timeout=3000)
    assert done.rc == 0, done.err
    result = RunFolder(run_dir).read_result()
    assert result is not None
    return result.metrics


def write(folder: Path, suffix: str, **splits: str) -> str:
    """The folder's word of the command line."""
    folder.mkdir()
    for name, text in splits.items():
        (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
    return f"data.path={folder}"


def test_perplexity_of_smollm2_on_wikitext(shared_dir: Path, tmp_path: Path) -> None:
    """The first 16 KiB of WikiText-2's test file in bf16: 27.6 in windows of 512; with more context less."""
    text = (shared_dir / "data/wikitext2/wiki.test.tokens").read_bytes()[:16525].decode()
    data = write(tmp_path / "data", "txt", dev=text)
    words = ["eval", "embedded:smollm2", "task=causal_lm", data]
    words += ["data.max_length=512", "task.lm.separator=false", "precision=bf16", "eval.batch_size=4"]
    found = {
        stride: measured([*words, f"task.lm.eval_stride={stride}"], tmp_path / f"stride-{stride}")
        for stride in (512, 256)
    }
    assert found[512]["eval/perplexity"] == pytest.approx(27.6, rel=0.02)
    assert found[256]["eval/perplexity"] < found[512]["eval/perplexity"]


def test_a_character_model_of_shakespeare(shared_dir: Path, tmp_path: Path) -> None:
    """A transformer that is nothing but its configuration; on the last tenth of the text: 1.93 was seen."""
    text = (shared_dir / "data/tinyshakespeare/input.txt").read_text(encoding="utf-8")
    cut = len(text) * 9 // 10
    words = [
        write(tmp_path / "data", "txt", train=text[:cut], dev=text[cut:]),
        "task=causal_lm",
        "precision=fp32",
    ]
    words += ["model.architecture=gpt2", "model.tokenizer=characters", "model.dropout=0"]
    words += ["model.config={n_layer: 4, n_head: 4, n_embd: 128, n_positions: 64}", "data.max_length=64"]
    words += ["batch.global_size=32", "optim.lr=3e-3", "schedule.kind=cosine", "train.max_steps=600"]
    assert measured(words, tmp_path / "run")["eval/loss"] < 2.0


def dialogue(shared_dir: Path, count: int) -> str:
    """Turns and their answers, one pair of each turn, as lines of JSON."""
    text = (shared_dir / "data/dialog/human_chat.txt").read_text(encoding="utf-8")
    turns = [line.partition(": ")[2] for line in text.splitlines() if ": " in line]
    pairs = {source: {"source": source, "target": target} for source, target in pairwise(turns)}
    return "".join(json.dumps(pair) + "\n" for pair in list(pairs.values())[:count])


def test_seq2seq_learns_dialogue_by_heart(shared_dir: Path, tmp_path: Path) -> None:
    """64 pairs, the same for training and measuring, from a T5 drawn at random."""
    pairs = dialogue(shared_dir, 64)
    words = [write(tmp_path / "data", "jsonl", train=pairs, dev=pairs), "task=seq2seq", "precision=fp32"]
    words += ["model.architecture=t5", "model.tokenizer=embedded:gpt2_bpe", "model.dropout=0"]
    words += ["model.config={d_model: 128, num_layers: 2, d_ff: 256, num_heads: 4, d_kv: 32}"]
    words += ["data.max_length=32", "task.seq2seq.max_target_length=32"]
    words += ["batch.global_size=16", "optim.lr=3e-3", "train.epochs=40"]
    assert measured(words, tmp_path / "run")["eval/bleu"] > 60


Articles = list[dict[str, Any]]


def asked(articles: Articles) -> list[tuple[str, list[str]]]:
    """(context, right answers) of every question."""
    return [
        (paragraph["context"], [answer["text"] for answer in question["answers"]])
        for article in articles
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def f1_of(answer: Callable[[str], str], articles: Articles) -> float:
    """In percent, where `answer(context)` is the answer to every question."""
    questions = asked(articles)
    scores = [max(token_f1(answer(context), right) for right in answers) for context, answers in questions]
    return 100 * sum(scores) / len(scores)


def test_question_answering_beats_who_has_not_read_the_question(shared_dir: Path, tmp_path: Path) -> None:
    """XQuAD's 48 articles: 40 to learn from, 8 that are held out."""
    articles = json.loads((shared_dir / "data/squad/xquad.en.json").read_text(encoding="utf-8"))["data"]
    train, dev = articles[:40], articles[40:]
    commonest = Counter(answer for _, answers in asked(train) for answer in answers).most_common(1)[0][0]
    baselines = {
        "first sentence": f1_of(lambda context: context.partition(". ")[0], dev),
        "whole context": f1_of(lambda context: context, dev),
        "commonest answer": f1_of(lambda _: commonest, dev),
    }
    assert baselines == pytest.approx(
        {"first sentence": 8.86, "whole context": 5.22, "commonest answer": 0.56}, abs=0.01
    )
    splits = {
        name: json.dumps({"version": "1.1", "data": part}) for name, part in (("train", train), ("dev", dev))
    }
    words = [write(tmp_path / "data", "json", **splits), "task=question_answering", "precision=fp32"]
    words += ["model=minilm", "data.max_length=224", "task.qa.doc_stride=64"]
    words += ["batch.global_size=8", "optim.lr=2e-4", "train.max_steps=160", "eval.batch_size=16"]
    assert measured(words, tmp_path / "run")["eval/f1"] > 2 * max(baselines.values())
