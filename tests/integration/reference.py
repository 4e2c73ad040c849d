"""The run that all launchers are compared with: two ranks of this machine, a few small steps of a model
that costs nothing, so that what is measured is how it was launched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from galley.rundir import RunFolder
from tests.support import run_galley

TINY = (
    "recipe=quickstart", "data.max_samples=64", "data.max_length=16", "train.max_steps=4",
    "train.log_every_steps=1", "eval.enabled=false", "cluster.device=cpu", "cluster.threads_per_proc=1",
    "model.dropout=0",  # whose masks depend on the number of ranks
)  # fmt: skip

# New from MiniLM's configuration, but for its size.
SMALL_BERT = (
    "model.from_config=true",
    "model.config={hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 16}",
)
REFERENCE = (*TINY, *SMALL_BERT)


def train(run_dir: Path, *words: str) -> dict[str, Any]:
    """The result of `REFERENCE` with `words`."""
    done = run_galley([*REFERENCE, *words, f"run_dir={run_dir}", "--json"], timeout=600)
    assert done.rc == 0, done.err
    result: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    assert result["state"] == "succeeded"
    return result


def losses(run_dir: Path) -> list[float]:
    """Of every step."""
    return [row["loss"] for row in RunFolder(run_dir).read_metrics() if "loss" in row]
