"""torch.compile under every engine that carries it: the same losses, and proof that it compiled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Eval, Precision, Strategy, Train
from tests.integration.train import tiny
from trainer.engines.deepspeed import config  # noqa: F401

QUIET = {"TINY_DROPOUT": "0", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
LAYERS = replace(tiny.STRATEGIES["fsdp"], wrap="layers", wrap_classes=["Linear"])
GATHERED = replace(LAYERS, name="fsdp_grad_op", shard="grads")


def run(
    root: Path, strategy: Strategy, world_size: int, compiled: bool, compute: Any = "fp32", **environ: str
) -> tiny.RunFolder:
    train = Train(epochs=1.0, log_every_steps=1, compile=compiled)
    recipe = replace(tiny.tiny_recipe(), strategy=strategy, train=train, eval=Eval(enabled=False))
    recipe = replace(recipe, precision=Precision(compute=compute))
    spec = tiny.tiny_spec(recipe, world_size)
    codes = tiny.wait(tiny.start_ranks(root, spec, **QUIET, **environ), timeout_s=400)
    folder = tiny.RunFolder(root)
    assert codes == [0] * world_size, folder.rank_log(1, 0).read_text()[-3000:]
    return folder


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> tiny.RunFolder:
    return run(tmp_path_factory.mktemp("eager"), tiny.STRATEGIES["single"], 1, compiled=False)


@pytest.mark.parametrize(
    ("strategy", "world_size"),
    [
        (tiny.STRATEGIES["single"], 1),
        (tiny.STRATEGIES["ddp"], 2),
        (tiny.STRATEGIES["zero2"], 2),
        (LAYERS, 2),
        (GATHERED, 2),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_compiled_training_has_the_same_losses(
    eager: tiny.RunFolder,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    strategy: Strategy,
    world_size: int,
) -> None:
    cache = str(tmp_path_factory.getbasetemp() / "inductor")
    folder = run(tmp_path, strategy, world_size, compiled=True, TORCHINDUCTOR_CACHE_DIR=cache)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(eager), abs=1e-5)
    engaged = folder.read_result().engaged
    assert engaged.compiled_graphs >= (2 if strategy.engine == "fsdp" else 1)
    assert eager.read_result().engaged.compiled_graphs == 0


def test_compiled_bf16_is_near_eager_bf16(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, eager: tiny.RunFolder
) -> None:
    """A compiled graph keeps more digits between two operations than eager mode does."""
    cache = str(tmp_path_factory.getbasetemp() / "inductor")
    strategy = tiny.STRATEGIES["ddp"]
    plain = run(tmp_path / "eager", strategy, 2, compiled=False, compute="bf16")
    folder = run(tmp_path / "run", strategy, 2, True, "bf16", TORCHINDUCTOR_CACHE_DIR=cache)
    assert tiny.losses(folder) == pytest.approx(tiny.losses(plain), abs=0.02)
    assert tiny.losses(folder) != pytest.approx(tiny.losses(eager), abs=1e-5)
    engaged = folder.read_result().engaged
    assert (engaged.precision, engaged.compiled_graphs > 0) == ("bf16", True)
