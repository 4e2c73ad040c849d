"""The judgement of curves: pure, so every cause is shown with numbers made for it."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.report.parity import TOLERANCES, Evidence, WeightsDeviation, compare, find_cause

REFERENCE = Evidence(
    strategy="single",
    compute="fp32",
    reduce="fp32",
    world_size=1,
    accumulation=1,
    losses=(0.70, 0.69, 0.66, 0.61),
    grad_norms=(2.0, 1.5, 1.2, 1.1),
    tokens=(20.0, 31.0, 25.0, 28.0),
    weights_format="fp32",
)
CANDIDATE = replace(REFERENCE, strategy="ddp", world_size=2, accumulation=4)
EQUAL = WeightsDeviation(0.0, 0.0)


def norms(*factors: float) -> tuple[float | None, ...]:
    return tuple(norm * factor for norm, factor in zip((2.0, 1.5, 1.2, 1.1), factors, strict=True))


def test_equal_runs_are_within_and_have_no_cause() -> None:
    found = compare(REFERENCE, CANDIDATE, EQUAL)
    assert (found.within, found.loss, found.grad_norm, found.first_step) == (True, 0.0, 0.0, None)


@pytest.mark.parametrize(
    ("changes", "cause", "words"),
    [
        ({"grad_norms": norms(4, 4, 4, 3.9)}, "accumulation_scale", "accumulation (4) times too large"),
        ({"grad_norms": norms(0.25, 0.25, 0.25, 0.3)}, "accumulation_scale", "1 / accumulation (4)"),
        ({"grad_norms": norms(0.5, 0.5, 0.5, 0.5)}, "accumulation_scale", "1 / ranks (2)"),
        ({"grad_norms": norms(8, 8, 8, 8)}, "accumulation_scale", "accumulation × ranks (8)"),
        ({"grad_norms": norms(4, 1.1, 2.7, 0.4)}, "missing_all_reduce", "no simple factor"),
        ({"grad_norms": norms(1, 1.4, 1.2, 0.4)}, "missing_all_reduce", "the loss of step 2 is the same"),
        ({"grad_norms": norms(1.004, 1.002, 1, 1)}, "reduce_dtype", "coarser format"),
        ({"tokens": (20.0, 30.0, 25.0, 28.0)}, "sampler", "step 2 saw samples of 30.0 tokens"),
        ({"losses": (0.72, 0.69, 0.66, 0.61)}, "sampler", "before any update"),
        ({"losses": (0.70, 0.69, 0.67, 0.61)}, "update", "up to step 2"),
        ({"weights_format": "bf16"}, "master_dtype", "exact in bf16"),
        ({"compute": "bf16"}, "compute_dtype", "computes in bf16"),
        ({"reduce": "fp16"}, "reduce_dtype", "summed in fp16"),
        ({"failure": "out of memory"}, "failed", "out of memory"),
        ({"failure": "1 ranks share the gradients, not 2"}, "missing_all_reduce", "not 2"),
    ],
)
def test_every_cause(changes: dict[str, Any], cause: str, words: str) -> None:
    found = find_cause(REFERENCE, replace(CANDIDATE, **changes))
    assert found.name == cause
    assert words in found.explanation


def test_the_first_step_outside_is_counted_from_one() -> None:
    found = compare(REFERENCE, replace(CANDIDATE, losses=(0.70, 0.69, 0.67, 0.61)), EQUAL)
    assert found.first_step == 3
    assert found.loss == pytest.approx(0.01)


def test_weights_alone_are_enough_to_be_outside() -> None:
    found = compare(REFERENCE, CANDIDATE, WeightsDeviation(0.1, 0.01))
    assert found.cause is not None
    assert found.cause.name == "update"


def test_a_run_that_ended_early_or_diverged_is_never_within() -> None:
    short = compare(REFERENCE, replace(CANDIDATE, losses=(0.70, 0.69), grad_norms=(2.0, 1.5)), EQUAL)
    assert short.cause is not None
    assert short.cause.explanation == "logged 2 steps, the reference 4"
    lost = compare(REFERENCE, replace(CANDIDATE, losses=(0.70, 0.69, nan, nan)), EQUAL)
    assert (lost.within, lost.loss, lost.first_step) == (False, inf, 3)
    assert compare(REFERENCE, replace(CANDIDATE, losses=(), grad_norms=()), None).loss == inf


def test_overflow_in_both_is_agreement_and_in_one_is_not() -> None:
    skipped = replace(REFERENCE, grad_norms=(None, 1.5, 1.2, 1.1))
    assert compare(skipped, replace(CANDIDATE, grad_norms=(None, 1.5, 1.2, 1.1)), EQUAL).within
    assert not compare(skipped, CANDIDATE, EQUAL).within


@given(st.sampled_from(sorted(TOLERANCES)), st.sampled_from(["loss", "grad_norm", "weights"]))
def test_the_tolerance_of_each_format_is_the_limit(compute: Any, kind: str) -> None:
    reference, limits = replace(REFERENCE, compute=compute), TOLERANCES[compute]

    def judged(share: float) -> bool:
        size = share * getattr(limits, kind)
        loss = (*REFERENCE.losses[:3], 0.61 + (size if kind == "loss" else 0))
        norm = norms(1, 1, 1, 1 + (size if kind == "grad_norm" else 0))
        weights = WeightsDeviation(1.0, size if kind == "weights" else 0.0)
        candidate = replace(CANDIDATE, compute=compute, losses=loss, grad_norms=norm)
        return compare(reference, candidate, weights).within

    assert judged(0.99)
    assert not judged(1.01)
