"""The space as it is written, and the points that are drawn from it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.config.hydra_bridge import parse_override
from galley.errors import ConfigError
from hpo.space.dimensions import read_space
from hpo.space.points import draw, enumerate_points, override, same_point, values_of
from hpo.study.values import SpaceDim

MIXED = {
    "optim": {"lr": "tag(log, interval(1e-6, 1e-4))"},
    "strategy": "ddp,zero2",
    "strategy.offload_optimizer": {"choices": ["none", "cpu"], "when": {"strategy": "zero2"}},
    "data.max_length": "range(16, 65, 16)",
    "train.epochs": {"low": 1, "high": 3, "step": 0.5},
    "batch.global_size": {"low": 1, "high": 100, "log": True},
    "optim.betas": [[0.9, 0.99], [0.8, 0.9]],
}


def read_one(written: Any, key: str = "optim.lr") -> SpaceDim:
    return read_space({key: written})[0]


def test_one_space_in_yaml_and_in_hydras_words() -> None:
    assert read_one({"low": 1e-6, "high": 1e-4, "log": True}) == read_one("tag(log, interval(1e-6, 1e-4))")
    assert read_one([16, 32], "batch.micro_size") == read_one("choice(16, 32)", "batch.micro_size")
    assert read_one([16, 32], "batch.micro_size") == read_one("16,32", "batch.micro_size")
    expected = SpaceDim("data.max_length", "int", 16, 64, 16)
    assert read_one("range(16, 65, 16)", "data.max_length") == expected
    assert read_space({"optim": {"lr": [1.0, 2.0]}}) == read_space({"optim.lr": [1.0, 2.0]})
    assert read_one({"low": "1e-6", "high": "1e-4"}).bounds == (1e-6, 1e-4)  # text to plain YAML


def test_kind_follows_from_the_key() -> None:
    assert read_one({"low": 1, "high": 3}, "train.epochs").kind == "float"
    assert read_one("interval(1, 8)", "batch.micro_size").kind == "int"
    assert read_one({"low": 1, "high": 3}, "launcher.env.OMP_NUM_THREADS").kind == "int"
    whole = read_one({"low": 8.0, "high": 64.0, "step": 8.0}, "batch.micro_size")
    assert whole == SpaceDim("batch.micro_size", "int", 8, 64, 8)
    assert [type(bound) for bound in whole.bounds] == [int, int]
    assert read_one({"low": "1e1", "high": 1e2}, "batch.micro_size").bounds == (10, 100)
    assert read_one({"low": 1.0, "high": 3.0}, "launcher.env.OMP_NUM_THREADS").kind == "float"
    assert read_one({"low": 1.0, "high": 3.0, "type": "int"}, "launcher.env.OMP_NUM_THREADS").kind == "int"


def test_dimensions_come_behind_their_parents() -> None:
    keys = [
        dim.key
        for dim in read_space({"seed": {"choices": [1], "when": {"strategy": "ddp"}}, "strategy": ["ddp"]})
    ]
    assert keys == ["strategy", "seed"]


@pytest.mark.parametrize(
    ("key", "written", "complaint"),
    [
        ("optim.lr", {"lo": 1, "high": 2}, "did you mean 'low'"),
        ("optim.lr", 3e-5, "one value"),
        ("optim.lr", "3e-5", "one value"),
        ("optim.lr", "interval(1,", "cannot be read"),
        ("optim.lr", "tag(logg, interval(1, 2))", "tag 'logg'"),
        ("optim.lr", {"low": 1}, "high is not a finite number"),
        ("optim.lr", {"low": 1, "high": float("nan")}, "high is not a finite number"),
        ("optim.lr", {"low": 2, "high": 1}, "low 2 is above high 1"),
        ("optim.lr", {"low": 0, "high": 1, "log": True}, "no logarithm"),
        ("optim.lr", {"low": 1, "high": 2, "log": True, "step": 1}, "a step and a logarithm"),
        ("optim.lr", {"low": 0, "high": 1, "step": 0.3}, "high: 0.9"),
        ("optim.lr", {"low": 0, "high": 1, "step": -1}, "does not go up"),
        ("optim.lr", {"choices": [1], "low": 1}, "choices and a range"),
        ("optim.lr", [], "no choices"),
        ("optim.lr", [1e-4, 1e-4], "twice"),
        ("optim.lr", [1e-4, float("inf")], "inf is not a finite number"),
        ("optim.lr", "1e-4,nan", "nan is not a finite number"),
        ("batch.micro_size", {"low": 0.5, "high": 2}, "whole numbers"),
        ("hpo.trials", [1, 2], "the sweep's own"),
        ("run_dir", ["a", "b"], "the sweep's own"),
        ("seed", {"choices": [1], "when": {"strateg": "ddp"}}, "no dimension of the space"),
    ],
)
def test_mistakes_are_named(key: str, written: Any, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_one(written, key)
    assert complaint in str(caught.value)
    assert f"hpo.space.{key}" in str(caught.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read_space({"optim.lr": 1, "seed": [], "strategy": {"choices": ["ddp"], "when": {"seed": [1]}}})
    assert len(caught.value.problems) == 3


def test_conditions_do_not_go_in_a_circle() -> None:
    circle = {"seed": {"choices": [1], "when": {"strategy": "ddp"}}}
    with pytest.raises(ConfigError, match="in a circle: seed, strategy"):
        read_space(circle | {"strategy": {"choices": ["ddp"], "when": {"seed": 1}}})


def test_condition_names_a_value_that_exists() -> None:
    written = {"strategy": ["ddp", "zero2"], "seed": {"choices": [1], "when": {"strategy": "zero22"}}}
    with pytest.raises(ConfigError, match="did you mean 'zero2'"):
        read_space(written)


@given(st.integers())
def test_every_draw_lies_in_the_space(seed: int) -> None:
    dims = read_space(MIXED)
    params = draw(dims, random.Random(seed))
    for dim in dims:
        assert (dim.key in params) == dim.is_active(params)
        if dim.key in params and dim.kind != "categorical":
            low, high = dim.bounds
            assert low <= params[dim.key] <= high
            assert isinstance(params[dim.key], int) == (dim.kind == "int")
            if dim.step:
                assert params[dim.key] in tuple(values_of(dim))


def test_grid_has_each_point_once() -> None:
    dims = read_space({key: MIXED[key] for key in ("strategy", "strategy.offload_optimizer", "train.epochs")})
    points = list(enumerate_points(dims))
    assert len(points) == (1 + 2) * 5
    assert len({json.dumps(point) for point in points}) == len(points)
    assert not same_point({"a": 1}, {"a": True})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(JSON_VALUES)
def test_value_reads_back_from_its_override(value: Any) -> None:
    """As the composition of a trial reads it, whatever characters it has."""
    read = parse_override(override("launcher.env.X", value, ())).value()
    assert json.dumps(read) == json.dumps(value)


def test_group_is_chosen_not_set() -> None:
    assert override("strategy", "zero2", ["strategy"]) == "strategy=zero2"
