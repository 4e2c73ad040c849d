"""Killed and resumed: the same final weights, from the last complete checkpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from galley.schema import Checkpoint, Eval
from tests.integration.train import tiny
from tests.integration.train.tiny_task import TinyModel
from trainer.checkpoints.manifest import latest_complete, list_checkpoints, read_state, verify

KILLED = -9


def saving_recipe(strategy: str, every_steps: int = 4, keep: int = 2) -> Any:
    return tiny.tiny_recipe(strategy, checkpoint=Checkpoint(every_steps=every_steps, keep=keep))


def ranks_of(strategy: str) -> int:
    return 1 if strategy == "single" else 2


@pytest.mark.parametrize("strategy", ["single", "ddp", "zero1", "zero2"])
@pytest.mark.parametrize("compute", ["fp32", "fp16"])
def test_killed_at_half_and_resumed_ends_bit_for_bit_as_uninterrupted(
    tmp_path: Path, strategy: str, compute: str
) -> None:
    recipe = saving_recipe(strategy)
    recipe = replace(recipe, precision=replace(recipe.precision, compute=compute))
    spec = tiny.tiny_spec(recipe, ranks_of(strategy))
    whole = tiny.train(tmp_path / "whole", spec)
    codes = tiny.run_ranks(tmp_path / "cut", spec, TINY_KILL="11")
    assert codes[-1] == KILLED
    resumed = tiny.train(tmp_path / "cut", spec, attempt=2)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0.0
    assert tiny.losses(whole) == tiny.losses(resumed)
    result = resumed.read_result()
    assert (result.resumed_from, result.attempts, result.steps) == ("step-000008", 2, 18)
    assert result.metrics == whole.read_result().metrics


def test_resumed_with_accumulation_evaluation_and_patience(tmp_path: Path) -> None:
    recipe = replace(saving_recipe("zero2"), eval=Eval(every_steps=3, metric="eval/accuracy", patience=4))
    spec = tiny.tiny_spec(recipe, 2, accumulation=2)
    whole = tiny.train(tmp_path / "whole", spec)
    assert KILLED in tiny.run_ranks(tmp_path / "cut", spec, TINY_KILL="21")
    resumed = tiny.train(tmp_path / "cut", spec, attempt=2)

    def rows(folder: Any) -> list[Any]:
        return [(r["step"], r.get("loss"), r.get("eval/loss")) for r in folder.read_metrics()]

    assert rows(resumed) == rows(whole)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0.0


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over_and_named(tmp_path: Path, damage: str) -> None:
    spec = tiny.tiny_spec(saving_recipe("ddp"), 2)
    tiny.run_ranks(tmp_path, spec, TINY_KILL="15")
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    target = newest / ("manifest.json" if damage == "no manifest" else "tensors-00001-of-00002.safetensors")
    content = bytearray(target.read_bytes())
    content[-9] ^= 1
    if damage in {"missing", "no manifest"}:
        target.unlink()
    else:
        target.write_bytes(content[:-10] if damage == "cut" else content)
    folder = tiny.train(tmp_path, spec, attempt=2)
    assert folder.read_result().resumed_from == "step-000008"
    log = folder.rank_log(2, 0).read_text()
    assert "checkpoint not usable: step-000012" in log
    assert target.name in log


def test_without_a_complete_checkpoint_it_starts_again_and_says_so(tmp_path: Path, finished: Any) -> None:
    spec = tiny.tiny_spec(tiny.tiny_recipe("ddp"), 2)
    whole = finished(spec)
    tiny.run_ranks(tmp_path / "cut", spec, TINY_KILL="5")
    folder = tiny.train(tmp_path / "cut", spec, attempt=2)
    assert folder.read_result().resumed_from is None
    assert "starting from step 0" in folder.rank_log(2, 0).read_text()
    assert tiny.losses(folder) == tiny.losses(whole)


def test_a_checkpoint_is_portable_across_strategies_and_world_sizes(tmp_path: Path, finished: Any) -> None:
    """Saved by two ZeRO ranks, resumed alone, by DDP, and back; without dropout the results agree."""
    quiet = {"TINY_DROPOUT": "0"}
    whole = finished(tiny.tiny_spec(tiny.tiny_recipe("single"), 1), **quiet)
    first, second, third = (
        tiny.tiny_spec(saving_recipe(s), n) for s, n in (("zero2", 2), ("single", 1), ("zero2", 3))
    )
    tiny.run_ranks(tmp_path / "moved", first, TINY_KILL="6", **quiet)
    tiny.run_ranks(tmp_path / "moved", second, attempt=2, TINY_KILL="6", **quiet)
    folder = tiny.train(tmp_path / "moved", third, attempt=3, **quiet)
    assert folder.read_result().resumed_from == "step-000008"
    assert tiny.losses(folder) == pytest.approx(tiny.losses(whole), abs=1e-5)
    assert tiny.largest_difference(tiny.weights(folder), tiny.weights(whole)) < 1e-4


def test_ranks_share_the_tensors_of_a_checkpoint(tmp_path: Path) -> None:
    folder = tiny.train(tmp_path, tiny.tiny_spec(saving_recipe("zero2", keep=1), 2))
    (checkpoint,) = list_checkpoints(folder.checkpoints)
    assert checkpoint.name == "step-000016"
    assert verify(checkpoint).world_size == 2
    assert read_state(checkpoint).epoch == 1
    keys: list[str] = []
    for shard in sorted(checkpoint.glob("*.safetensors")):
        keys += safe_open(shard, framework="pt").keys()
        assert shard.stat().st_size < 20_000
    names = [name for name, _ in TinyModel(0.1).named_parameters()]
    expected = [f"{kind}/{name}" for kind in ("param", "exp_avg", "exp_avg_sq") for name in names]
    assert sorted(keys) == sorted([*expected, "buffer/temperature"])


def test_other_data_is_refused(tmp_path: Path) -> None:
    spec = tiny.tiny_spec(saving_recipe("single"), 1)
    tiny.run_ranks(tmp_path, spec, TINY_KILL="6")
    assert tiny.run_ranks(tmp_path, spec, attempt=2, TINY_SAMPLES="71") == [4]
    (error,) = tiny.RunFolder(tmp_path).read_rank_errors(2)
    assert error.failure_class == "checkpoint"
    assert "other data" in error.message
    assert latest_complete(tmp_path / "checkpoints").folder is not None
