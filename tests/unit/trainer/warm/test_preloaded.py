from __future__ import annotations

import copy
from typing import Any

import torch

from trainer.warm.preloaded import are_replicas


class Told:
    """Ranks that speak one after the other."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def gather_json(self, value: Any) -> list[Any]:
        self.said.append(value)
        return self.said


def make_model() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.BatchNorm1d(3))
    model.register_buffer("mask", torch.tensor([True, False, True]))
    return model


def test_one_bit_tells_replicas_apart() -> None:
    model, ranks = make_model(), Told()
    assert are_replicas(model, ranks)  # type: ignore[arg-type]
    assert are_replicas(copy.deepcopy(model), ranks)  # type: ignore[arg-type]
    for name in model.state_dict():
        other, told = copy.deepcopy(model), Told()
        bits = other.state_dict()[name].flatten().view(torch.uint8)
        bits[-1] ^= 1
        assert are_replicas(model, told)  # type: ignore[arg-type]
        assert not are_replicas(other, told), name  # type: ignore[arg-type]


def test_what_was_inherited_is_compared_once_it_is_written() -> None:
    model, told = make_model(), Told()
    marks = {(tensor.data_ptr(), tensor._version) for tensor in model.state_dict().values()}
    assert are_replicas(model, told, marks)  # type: ignore[arg-type]
    assert are_replicas(model, told, marks)  # type: ignore[arg-type]
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1
    assert not are_replicas(model, told, marks)  # type: ignore[arg-type]
