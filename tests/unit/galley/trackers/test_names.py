"""Names are changed as little as MLflow's own check asks for, and can be told again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from galley.trackers.mlflow import flat
from galley.trackers.names import decoded, encoded

LEGAL = ["loss", "eval/f1", "eval/rouge-l", "tokens_per_s", "eval/f1 (macro)".replace("(macro)", "macro")]
ODD = {
    "eval/recall@5": "eval/recall_x40_5",
    "eval/f1(macro)": "eval/f1_x28_macro_x29_",
    "a//b": "a_x2F__x2F_b",
    "/loss": "_x2F_loss",
    "eval/": "eval_x2F_",
    "..": "_x2E__x2E_",
    "../loss": "_x2E__x2E__x2F_loss",
    "_x40_": "_x5F_x40_",
    "100%": "100_x25_",
}


@pytest.mark.parametrize("name", LEGAL)
def test_a_name_that_is_taken_stays(name: str) -> None:
    assert encoded(name) == name


@pytest.mark.parametrize(("name", "made"), ODD.items())
def test_an_odd_name_is_written_out(name: str, made: str) -> None:
    assert encoded(name) == made
    assert decoded(made) == name
    _validate_metric_name(made)


@pytest.mark.slow
@given(st.text(min_size=1, max_size=40))
def test_every_name_is_taken_and_told_again(name: str) -> None:
    made = encoded(name)
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(made)
    if len(made) < 250:
        assert decoded(made) == name


def test_a_long_name_is_cut_and_not_confused() -> None:
    names = ["m" * 300 + end for end in "ab"]
    assert [len(encoded(name)) for name in names] == [250, 250]
    assert encoded(names[0]) != encoded(names[1])


def test_two_keys_never_become_one() -> None:
    assert flat({"a": {"b": 1}, "a.b": 2, "c": {"d": {}}}) == {"a.b": 1, "a_x2E_b": 2}
    assert flat({"node_selector": {"nvidia.com/gpu": 1}}) == {"node_selector.nvidia.com/gpu": 1}
