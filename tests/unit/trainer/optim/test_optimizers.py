"""Every optimizer against its library's own loop; its state goes into a checkpoint and comes back."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cli.options import Options
from cli.prepare import prepare
from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.schema import Optim
from galley.strategy.optimizers import KINDS, optimizer_problems, state_bytes
from tests.integration.train.tiny import lone_rank, tiny_recipe, tiny_spec
from trainer.engines.base import Setup
from trainer.engines.ddp import SingleEngine
from trainer.optim.parameter_groups import make_optimizer, muon_names

STEPS = 4
SETTINGS = {
    "sgd": Optim("sgd", lr=0.1, weight_decay=0.01, momentum=0.8, nesterov=True, grad_clip=None),
    "sgd without momentum": Optim("sgd", lr=0.1, weight_decay=0.01, momentum=0.0, grad_clip=None),
    "lion": Optim("lion", lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, grad_clip=None),
    "adafactor": Optim("adafactor", lr=0.1, weight_decay=0.01, grad_clip=None),
    "muon": Optim("muon", lr=1e-2, weight_decay=0.1, grad_clip=None),
    "adamw": Optim(lr=1e-2, weight_decay=0.1, grad_clip=None),
}
SHARED = ("step", "qmap1", "qmap2")
QUANTIZED = Optim("adamw_8bit", lr=1e-3, weight_decay=0.1, grad_clip=None)


class Small(torch.nn.Module):
    """An embedding, a layer of 4096 weights, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = torch.nn.Embedding(5, 64)
        self.layer = torch.nn.ModuleList([torch.nn.Linear(64, 64)])
        self.head = torch.nn.Linear(64, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.layer[0](self.embeddings(ids))))  # type: ignore[no-any-return]


def small() -> Small:
    torch.manual_seed(3)
    return Small()


def engine_of(settings: Optim) -> SingleEngine:
    recipe = tiny_recipe("single", optim=settings)
    return SingleEngine(small(), Setup(recipe, tiny_spec(recipe, 1).layout, lone_rank()))


def backward(model: torch.nn.Module, step: int) -> torch.Tensor:
    ids = torch.tensor([step % 5, 1, (2 * step) % 5])
    loss: torch.Tensor = torch.nn.functional.cross_entropy(model(ids), torch.tensor([0, 1, 2]))
    return loss


def trained(engine: SingleEngine, steps: range) -> list[torch.Tensor]:
    for step in steps:
        engine.backward(backward(engine.model, step))
        engine.step(engine.setup.recipe.optim.lr)
    return [p.detach().clone() for p in engine.model.parameters()]


def plain_loop(
    make: Callable[[Small, list[Any]], list[torch.optim.Optimizer]], decay: float
) -> list[torch.Tensor]:
    """Torch alone; decay of matrices only."""
    model = small()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizers = make(model, groups)
    for step in range(STEPS):
        backward(model, step).backward()
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
    return [p.detach() for p in model.parameters()]


def muon_by_hand(model: Small, groups: list[Any]) -> list[torch.optim.Optimizer]:
    layer = model.layer[0].weight
    others = [{**g, "params": [p for p in g["params"] if p is not layer]} for g in groups]
    muon = torch.optim.Muon([layer], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=1e-2)]


class LionByHand(torch.optim.Optimizer):
    """Chen et al. 2023, arXiv:2302.06675, algorithm 2."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                moment = self.state[p].setdefault("m", torch.zeros_like(p))
                update = (0.9 * moment + 0.1 * p.grad).sign() + group["weight_decay"] * p
                moment.mul_(0.99).add_(p.grad, alpha=0.01)
                p.sub_(group["lr"] * update)


PLAIN: dict[str, Callable[[Small, list[Any]], list[torch.optim.Optimizer]]] = {
    "sgd": lambda _, groups: [torch.optim.SGD(groups, lr=0.1, momentum=0.8, nesterov=True)],
    "sgd without momentum": lambda _, groups: [torch.optim.SGD(groups, lr=0.1)],
    "lion": lambda _, groups: [LionByHand(groups, {"lr": 1e-2})],
    "adafactor": lambda _, groups: [torch.optim.Adafactor(groups, lr=0.1)],
    "muon": muon_by_hand,
    "adamw": lambda _, groups: [torch.optim.AdamW(groups, lr=1e-2)],
}


@pytest.mark.parametrize("name", SETTINGS)
def test_it_trains_as_the_library_alone_does(name: str) -> None:
    found = trained(engine_of(SETTINGS[name]), range(STEPS))
    expected = plain_loop(PLAIN[name], SETTINGS[name].weight_decay)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_its_state_comes_back_bit_for_bit(name: str) -> None:
    check_round_trip(SETTINGS[name])


def test_eight_bits_stay_near_adamw_and_come_back_bit_for_bit() -> None:
    near = trained(engine_of(Optim(lr=1e-3, weight_decay=0.1, grad_clip=None)), range(STEPS))
    for ours, theirs in zip(trained(engine_of(QUANTIZED), range(STEPS)), near, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0)
    engine = check_round_trip(QUANTIZED)
    assert engine.moments("layer.0.weight") == ("state1", "absmax1", "state2", "absmax2")
    assert engine.moment("state1", "layer.0.weight").dtype == torch.uint8


def check_round_trip(settings: Optim) -> SingleEngine:
    """Two steps, a checkpoint's worth of state into a new engine, two steps of both."""
    first, second = engine_of(settings), engine_of(settings)
    trained(first, range(2))
    kept = {(m, name): first.moment(m, name).clone() for name in first.trainable for m in first.moments(name)}
    second.model.load_state_dict(copy.deepcopy(first.model.state_dict()))
    second.load_moments(lambda moment, name: kept[moment, name].clone(), first.optimizer_steps)
    for ours, theirs in zip(trained(second, range(2, 4)), trained(first, range(2, 4)), strict=True):
        assert torch.equal(ours, theirs)
    assert first.held_optimizer() == first.most_elements("optimizer", 1)
    return first


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_of_its_state_is_no_less_than_what_it_holds(kind: str) -> None:
    model = torch.nn.ModuleList(
        [torch.nn.Sequential(torch.nn.Linear(256, 256, bias=False)) for _ in range(2)]
    )
    settings = Optim(kind)  # type: ignore[arg-type]
    optimizer = make_optimizer(model, settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    tensors = [t for state in optimizer.state.values() for k, t in state.items() if k not in SHARED]
    held, count = sum(t.nbytes for t in tensors), sum(p.numel() for p in model.parameters())
    assert held / count <= state_bytes(settings)


def test_muon_takes_the_matrices_of_layers_alone() -> None:
    assert muon_names(small()) == {"layer.0.weight"}
    with pytest.raises(ConfigError, match=r"optim.kind=muon: no matrix"):
        muon_names(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("strategy", "optim", "key"),
    [
        ("fsdp", Optim("muon"), "kind"),
        ("zero2", Optim("adafactor"), "kind"),
        ("zero1", Optim("adamw_8bit"), "kind"),
        ("zero2_offload", Optim("lion"), "kind"),
        ("ddp", Optim("sgd", eps=1e-6), "eps"),
        ("ddp", Optim("sgd", betas=(0.8, 0.9)), "betas"),
        ("ddp", Optim(momentum=0.9), "momentum"),
        ("ddp", Optim("lion", nesterov=True), "nesterov"),
        ("ddp", Optim("sgd", momentum=0.0, nesterov=True), "nesterov"),
    ],
)
def test_what_does_not_belong_together_is_refused(strategy: str, optim: Optim, key: str) -> None:
    problems = list(optimizer_problems(tiny_recipe(strategy, optim=optim)))
    assert [problem.where for problem in problems] == [f"optim.{key}"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strategy", ["single", "ddp", "zero3", "fsdp", "fsdp_offload"])
def test_every_other_pair_is_carried(kind: str, strategy: str) -> None:
    problems = list(optimizer_problems(tiny_recipe(strategy, optim=Optim(kind))))  # type: ignore[arg-type]
    assert bool(problems) == (not KINDS[kind].elementwise and strategy not in ("single", "ddp"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_one_word_and_refused_where_it_was_chosen(kind: str) -> None:
    assert compose_recipe([f"optim={kind}"]).optim.kind == kind
    with pytest.raises(ConfigError, match=rf"conf/optim/{kind}|optim.momentum=0.3|optim.eps=1e-5"):
        compose_recipe([f"optim={kind}", "strategy=fsdp", "optim.momentum=0.3", "optim.eps=1e-5"])


def test_the_estimate_follows_the_optimizer() -> None:
    """MiniLM's 22.7 M parameters: 8, 4 and 0 bytes each."""
    found = {}
    for words in ("optim=adamw", "optim=sgd", "optim=sgd optim.momentum=0"):
        estimate = prepare([*words.split(), "strategy=single"], Options()).estimate
        assert estimate is not None
        found[words] = estimate.optimizer_gib * 2**30 / estimate.num_parameters
    assert list(found.values()) == [8.0, 4.0, 0.0]
