"""What a strategy's name promises is compared with what carries the run, whatever the sealed keys say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from galley.schema import Recipe, Strategy
from galley.spec import Engaged
from trainer.engines.verification import check
from trainer.run.failures import EngagementError


def engine_of(strategy: Strategy) -> Any:
    """A DDP run of two ranks, as the probe sees it."""
    recipe = Recipe(strategy=strategy)
    setup = SimpleNamespace(recipe=recipe, layout=SimpleNamespace(world_size=2, procs_per_node=2))
    return SimpleNamespace(
        setup=setup,
        model=torch.nn.Linear(2, 2),
        world_size=lambda: 2,
        most_elements=lambda kind, parts: 6,
        kept_whole=lambda: 0,
        misplaced=list,
    )


def engaged_as(name: str) -> Engaged:
    held = {kind: [6, 6] for kind in ("params", "grads", "optimizer")}
    return Engaged(name, "DistributedDataParallel", "gloo", "fp32", held, master_dtype="fp32")


@pytest.mark.parametrize("name", ["zero2", "fsdp", "tp", "single"])
def test_ddp_under_another_name_did_not_engage(name: str) -> None:
    with pytest.raises(EngagementError, match=f"strategy '{name}' did not engage: strategy '{name}' means"):
        check(engaged_as(name), engine_of(Strategy(name)))


def test_ddp_under_its_own_name_engaged() -> None:
    check(engaged_as("ddp"), engine_of(Strategy("ddp")))
