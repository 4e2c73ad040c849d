"""Recipes trained by real ranks that are forked from a server, without a command in between."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from galley.config.compose import compose_recipe
from galley.rundir import RunFolder
from galley.strategy.parallel_dims import with_chunks
from tests.integration.train import tiny
from trainer.assets import minilm

WIDTH = 32


def train(root: Path, overrides: list[str], world_size: int = 1, **environ: str) -> RunFolder:
    """A run of the recipe that must succeed; its cache is `root`'s own neighbor."""
    cache = f"data.cache_dir='{root.parent / 'cache'}'"
    recipe = compose_recipe([cache, "precision=fp32", *overrides])
    copies = world_size // recipe.strategy.model_parallel
    chunks = with_chunks(recipe, copies).accumulation if recipe.strategy.pipeline_parallel > 1 else 1
    return tiny.train(root, tiny.tiny_spec(recipe, world_size, chunks or 1), OWN_TASK="1", **environ)


def last_metrics(folder: RunFolder) -> dict[str, float]:
    result = folder.read_result()
    assert result is not None
    return result.metrics


def log_of(folder: RunFolder, rank: int = 0) -> str:
    return folder.rank_log(1, rank).read_text()


def write_rows(path: Path, rows: list[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def tiny_bert(folder: Path) -> Path:
    """An untrained BERT of one small layer, with MiniLM's tokenizer: as fast as a model can be."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=30522,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=WIDTH,
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(minilm.folder()).save_pretrained(folder)
    return folder
