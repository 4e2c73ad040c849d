"""Language models on real text: the perplexity of SmolLM2. `make acceptance` runs it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from galley.schema import Data, LanguageModeling, Model, Recipe, Task
from trainer.tasks import make_task

TOKENS = 8 * 512


@pytest.mark.timeout(1800)
def test_perplexity_of_smollm2_on_wikitext(shared_dir: Path, tmp_path: Path) -> None:
    """The first 8 × 512 tokens of WikiText-2's test file in bf16: 27.6; with more context it is lower."""
    text = (shared_dir / "data/wikitext2/wiki.test.tokens").read_text(encoding="utf-8")
    for name in ("train", "dev"):
        (tmp_path / f"{name}.txt").write_text(text[: TOKENS * 5], encoding="utf-8")
    found = {}
    model = None
    for stride in (512, 256):
        settings = LanguageModeling(eval_stride=stride, separator=False)
        task = make_task(
            Recipe(
                model=Model("embedded:smollm2"),
                data=Data(path=str(tmp_path), max_length=512, cache_dir=str(tmp_path / "cache")),
                task=Task("causal_lm", lm=settings),
            )
        )
        windows = task.datasets(nullcontext).eval
        assert windows is not None
        model = model or task.model().bfloat16()
        count = 1 + (TOKENS - 512) // stride
        first = windows.rows(range(count))
        assert sum(len(row["input_ids"]) - row["context"] for row in first) == TOKENS
        losses = tokens = 0.0
        with torch.no_grad():
            for row in first:
                nll, measured, _ = task.predict(model.eval(), task.collate([row]))[0].tolist()
                losses, tokens = losses + nll, tokens + measured
        found[stride] = float(torch.tensor(losses / tokens).exp())
    assert found[512] == pytest.approx(27.6, rel=0.02)
    assert found[256] < found[512]
