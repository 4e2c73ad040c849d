"""What FSDP gathers for a layer is gone once the layer is done, in 16 bits too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForSequenceClassification

from galley.schema import Precision
from tests.integration.train import tiny
from trainer.engines.base import Setup
from trainer.engines.fsdp import FsdpEngine
from trainer.engines.precision import autocast_forward

SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}


@pytest.fixture
def group_of_one(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("compute", ["fp32", "bf16"])
def test_the_backward_keeps_no_copy_of_a_layers_weights(group_of_one: None, compute: str) -> None:
    """Autocast over fp32 weights would keep its 16-bit copy of each matrix of every layer."""
    recipe = tiny.tiny_recipe("fsdp", precision=Precision(compute=compute))  # type: ignore[arg-type]
    config = AutoConfig.for_model("bert", vocab_size=40, **SIZES)
    model = AutoModelForSequenceClassification.from_config(config).eval()  # type: ignore[no-untyped-call]
    layers = model.bert.encoder.layer
    shapes = {tuple(p.shape) for p in layers.parameters() if p.ndim == 2}
    autocast_forward(model, recipe.precision.dtype, "cpu")
    engine = FsdpEngine(model, Setup(recipe, tiny.tiny_spec(recipe, 1).layout, tiny.lone_rank()))
    saved: list[tuple[tuple[int, ...], torch.UntypedStorage]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved.append((tuple(tensor.shape), tensor.untyped_storage()))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = engine.model(input_ids=torch.arange(20).view(2, 10))
    matrices = [storage for shape, storage in saved if shape in shapes or shape[::-1] in shapes]
    assert len(matrices) >= 6 * len(layers)
    kept = sum(storage.nbytes() > 0 for storage in matrices)
    assert kept <= 1  # the pooler, of the root, which stays gathered
    output.logits.float().sum().backward()
    assert {p.grad.dtype for p in engine.parameters.values() if p.grad is not None} == {torch.float32}
