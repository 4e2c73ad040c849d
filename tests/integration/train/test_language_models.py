"""Language models on real ranks: resumed sample by sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from galley.schema import Checkpoint, Data, Eval, Model, Source, Task, Train
from tests.integration.train import tiny

OWN = {"OWN_TASK": "1", "TINY_PLUGINS": str(Path(__file__).parent)}
KILLED = -9
GPT2 = Model(
    architecture="gpt2",
    config={"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 32},
    tokenizer="embedded:gpt2_bpe",
    dropout=0.0,
)


def recipe(tmp_path: Path, strategy: str, **changes: Any) -> Any:
    data = changes.pop("data", Data(name="embedded:pydoc_text", max_length=32, max_samples=3))
    from dataclasses import replace

    settings: dict[str, Any] = {
        "model": GPT2,
        "data": replace(data, cache_dir=str(tmp_path.parent / "cache")),
        "train": Train(max_steps=6, log_every_steps=1),
        "eval": Eval(enabled=False),
        "checkpoint": Checkpoint(every_steps=2),
    }
    return tiny.tiny_recipe(strategy, **{**settings, **changes})


@pytest.mark.parametrize("streaming", [True, False])
def test_killed_and_resumed_on_more_ranks_it_sees_the_same_samples(tmp_path: Path, streaming: bool) -> None:
    kind = "language_task:Killed"
    mix = [Source(name="embedded:pydoc_text", weight=2), Source(name="embedded:pydoc_text")]
    packed = Data(name="embedded:pydoc_text", max_length=32, max_samples=3)
    streamed = Data(mix=mix, max_length=32, streaming=True, shuffle_buffer=4)
    made = recipe(tmp_path, "ddp", data=streamed if streaming else packed, task=Task(kind))
    two, three = tiny.tiny_spec(made, 2), tiny.tiny_spec(made, 3)
    whole = tiny.train(tmp_path / "whole", two, **OWN)
    assert tiny.run_ranks(tmp_path / "cut", two, KILL="6", **OWN)[-1] == KILLED
    resumed = tiny.train(tmp_path / "cut", three, attempt=2, **OWN)
    assert resumed.read_result().resumed_from == "step-000004"
    assert tiny.losses(resumed) == pytest.approx(tiny.losses(whole), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) < 1e-4
