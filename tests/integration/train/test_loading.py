"""Weights that one rank reads for all: the same training, and less memory on the others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Checkpoint, Optim, Recipe, Train
from tests.integration.train import tiny
from tests.support import make_recipe
from trainer.checkpoints.manifest import list_checkpoints

# 13 million parameters, 51 MB, in layers of 4 MB.
HEAVY = {"TINY_DROPOUT": "0", "TINY_INNER": "1024", "TINY_BLOCKS": "12"}
MODEL_MIB = 48


def recipe(strategy: str, **changes: Any) -> Recipe:
    made = tiny.tiny_recipe(strategy, optim=Optim(lr=1e-4), train=Train(max_steps=2, log_every_steps=1))
    return make_recipe(made, strategy=changes)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> tiny.RunFolder:
    return tiny.train(tmp_path_factory.mktemp("single"), tiny.tiny_spec(recipe("single"), 1), **HEAVY)


@pytest.mark.parametrize("strategy", ["fsdp", "zero3"])
def test_the_main_rank_reads_for_all(tmp_path: Path, single: tiny.RunFolder, strategy: str) -> None:
    """The others would draw other weights: that they train alike shows whose they have. What they save is
    what they need not read: half of the model, which is their own part, they have in any case."""
    peaks = []
    for efficient in (False, True):
        spec = tiny.tiny_spec(recipe(strategy, cpu_ram_efficient_loading=efficient), 2)
        peak = {"TINY_PEAK": str(tmp_path / f"peak-{efficient}"), "TINY_OWN_WEIGHTS": "1"}
        folder = tiny.train(tmp_path / str(efficient), spec, **HEAVY, **peak)
        assert tiny.losses(folder) == pytest.approx(tiny.losses(single), abs=1e-5)
        assert tiny.largest_difference(tiny.weights(folder), tiny.weights(single)) < 1e-4
        peaks.append(float((tmp_path / f"peak-{efficient}.1").read_text()))
    assert peaks[0] - peaks[1] > MODEL_MIB / 3, peaks


def test_a_full_checkpoint_is_one_file_and_read_like_any_other(tmp_path: Path, finished: Any) -> None:
    """Resumed from step 8 under another strategy, after the main rank had read its weights for both."""
    quiet = {"TINY_DROPOUT": "0"}
    alone = finished(tiny.tiny_spec(tiny.tiny_recipe("single"), 1), **quiet)
    made = tiny.tiny_recipe("fsdp", checkpoint=Checkpoint(every_steps=8, keep=1))
    full = replace(made, strategy=replace(made.strategy, state_dict="full"))
    folder = tiny.train(tmp_path / "full", tiny.tiny_spec(full, 2), **quiet)
    (saved,) = list_checkpoints(folder.checkpoints)
    assert {path.name for path in saved.glob("*.safetensors")} == {"tensors-00000-of-00001.safetensors"}
    after = tiny.tiny_recipe("fsdp", checkpoint=Checkpoint(resume_from=str(saved)))
    loading = replace(after, strategy=replace(after.strategy, cpu_ram_efficient_loading=True))
    resumed = tiny.train(tmp_path / "resumed", tiny.tiny_spec(loading, 2), **quiet)
    assert tiny.losses(resumed) == pytest.approx(tiny.losses(alone)[16:], abs=1e-5)
