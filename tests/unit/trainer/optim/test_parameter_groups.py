"""Parameter groups and the loss scale."""

from __future__ import annotations

import pytest
import torch

from galley.errors import ConfigError
from galley.schema import Optim, ParamGroup, Precision
from trainer.engines.precision import LossScale, autocast_forward
from trainer.optim.parameter_groups import make_optimizer, param_groups, set_learning_rate


def test_bias_and_norm_are_not_decayed() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(4, 8), torch.nn.Linear(8, 8), torch.nn.LayerNorm(8))
    model[1].weight.requires_grad_(False)
    decayed, rest = param_groups(model, Optim(weight_decay=0.1))
    assert [p is q for p, q in zip(decayed["params"], [model[0].weight], strict=True)] == [True]
    assert len(rest["params"]) == 3
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


class Layered(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(4, 2)
        self.layer = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))
        self.head = torch.nn.Linear(2, 2)


def test_groups_and_layers_have_rates_of_their_own() -> None:
    model = Layered()
    groups = [
        ParamGroup(r"layer\.1\..*weight", lr=3.0, weight_decay=0.5),
        ParamGroup("head", weight_decay=0.2),
    ]
    settings = Optim(lr=2.0, weight_decay=0.1, groups=groups, layer_decay=0.5)
    names = {id(p): name for name, p in model.named_parameters()}
    made = make_optimizer(model, settings).param_groups
    set_learning_rate(made, 1.0)
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in made for p in g["params"]}
    assert found == {
        "embeddings.weight": (0.125, 0.1),
        "layer.0.weight": (0.25, 0.1),
        "layer.0.bias": (0.25, 0.0),
        "layer.1.weight": (1.5, 0.5),
        "layer.1.bias": (0.5, 0.0),
        "head.weight": (1.0, 0.2),
        "head.bias": (1.0, 0.0),
    }


def test_layer_decay_needs_layers() -> None:
    with pytest.raises(ConfigError, match=r"optim.layer_decay=0.5: no parameter .* numbered layer"):
        param_groups(torch.nn.Linear(2, 2), Optim(layer_decay=0.5))


def test_the_optimizer_takes_all_settings() -> None:
    optimizer = make_optimizer(torch.nn.Linear(2, 2), Optim(lr=0.3, betas=(0.8, 0.9), eps=1e-6))
    group = optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["eps"], group["fused"]) == (0.3, (0.8, 0.9), 1e-6, True)


def test_the_loss_scale_follows_gradscaler() -> None:
    ours = LossScale.of(Precision(compute="fp16"))
    reference = torch.amp.GradScaler("cpu")
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    for step in range(4100):
        finite = step not in {0, 3, 2050}
        reference.scale(torch.zeros(()))
        parameter.grad = torch.tensor([0.0 if finite else float("inf")])
        reference.step(optimizer)
        reference.update()
        ours.update(finite)
        assert ours.scale == reference.get_scale()


def test_hysteresis_spares_the_scale_until_as_many_overflows_have_come() -> None:
    precision = Precision(
        compute="fp16", initial_scale_power=4, loss_scale_window=3, hysteresis=2, min_loss_scale=4.0
    )
    scale = LossScale.of(precision)
    scales = []
    for finite in (False, False, False, True, True, True, False, False, True):
        scale.update(finite)
        scales.append(scale.scale)
    assert scales == [16, 8, 4, 4, 4, 8, 8, 4, 4]
    with pytest.raises(FloatingPointError, match="down to 4"):
        scale.update(finite=False)


def test_a_loss_scale_that_never_fits_is_an_error() -> None:
    scale = LossScale(dynamic=True, scale=LossScale.smallest)
    with pytest.raises(FloatingPointError, match=r"optim\.lr"):
        scale.update(finite=False)


def test_bf16_is_not_scaled() -> None:
    assert not LossScale.of(Precision(compute="bf16")).dynamic


def test_autocast_is_inside_the_forward_of_the_model() -> None:
    model = torch.nn.Linear(4, 4)
    autocast_forward(model, "bf16", "cpu")
    with torch.autocast("cpu", enabled=False):
        assert model(torch.ones(1, 4)).dtype == torch.bfloat16
    assert model.weight.dtype == torch.float32
