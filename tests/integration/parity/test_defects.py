"""Seeded defects in real runs are caught, and the cause that is named is the one that was seeded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cli.parity import read_evidence
from galley.report.parity import Comparison, Evidence, compare
from galley.report.weights import compare_weights, model_files
from galley.rundir import RunFolder
from galley.schema import Eval, Train
from galley.spec import RunResult, RunSpec
from tests.integration.train import tiny

HERE = "tests.integration.parity.defects"
NO_DROPOUT = {"TINY_DROPOUT": "0"}


def spec_of(strategy: str, world_size: int, accumulation: int = 1) -> RunSpec:
    recipe = tiny.tiny_recipe(strategy, eval=Eval(enabled=False))
    recipe = replace(recipe, train=Train(epochs=2.0, max_steps=12, log_every_steps=1))
    return tiny.tiny_spec(recipe, world_size, accumulation)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evidence, RunFolder]:
    spec = spec_of("single", 1)
    folder = tiny.train(tmp_path_factory.mktemp("single"), spec, **NO_DROPOUT)
    return evidence_of(spec, folder), folder


def evidence_of(spec: RunSpec, folder: RunFolder) -> Evidence:
    result = folder.read_result()
    assert result is not None
    return read_evidence(spec, folder, result)


def judge(reference: tuple[Evidence, RunFolder], root: Path, spec: RunSpec, **environ: str) -> Comparison:
    folder = tiny.train(root, spec, **NO_DROPOUT, **environ)
    weights = compare_weights(model_files(reference[1].model), model_files(folder.model))
    return compare(reference[0], evidence_of(spec, folder), weights)


@pytest.mark.parametrize(("strategy", "accumulation"), [("ddp", 1), ("ddp", 2), ("zero2", 2), ("fsdp", 1)])
def test_what_is_right_is_within_the_tolerance(
    reference: tuple[Evidence, RunFolder], tmp_path: Path, strategy: str, accumulation: int
) -> None:
    found = judge(reference, tmp_path, spec_of(strategy, 2, accumulation))
    assert found.within, found
    assert found.cause is None


@pytest.mark.parametrize(
    ("defect", "accumulation", "cause", "first_step", "words"),
    [
        ("TINY_ENGINE:SummedAccumulation", 2, "accumulation_scale", 1, "accumulation (2) times too large"),
        ("TINY_ENGINE:AveragedTwice", 1, "accumulation_scale", 1, "1 / ranks (2) of what it should be"),
        ("TINY_ENGINE:LonelyLater", 1, "missing_all_reduce", 4, "ranks were left out"),
        ("TINY_ENGINE:CoarseReduce", 1, "reduce_dtype", None, "coarser format"),
        ("TINY_ENGINE:CoarseMaster", 1, "master_dtype", 2, "exact in bf16"),
        ("TINY_ENGINE:SlowOptimizer", 1, "update", 3, "agreed up to step 2"),
        ("TINY_PLAN:OtherOrder", 1, "sampler", 1, "tokens on average"),
        ("TINY_PLAN:OrderOfEveryRank", 1, "sampler", 1, "before any update"),
    ],
)
def test_a_seeded_defect_is_named(
    reference: tuple[Evidence, RunFolder],
    tmp_path: Path,
    defect: str,
    accumulation: int,
    cause: str,
    first_step: int | None,
    words: str,
) -> None:
    hook, _, name = defect.partition(":")
    found = judge(reference, tmp_path, spec_of("ddp", 2, accumulation), **{hook: f"{HERE}:{name}"})
    assert not found.within
    assert found.cause is not None
    assert found.cause.name == cause, found
    assert first_step in (None, found.first_step)
    assert words in found.cause.explanation


def test_ranks_that_never_meet_end_the_run_which_names_the_cause(
    reference: tuple[Evidence, RunFolder], tmp_path: Path
) -> None:
    spec = spec_of("ddp", 2)
    codes = tiny.run_ranks(
        tmp_path, spec, TINY_ENGINE="tests.integration.train.tiny:LonelyEngine", **NO_DROPOUT
    )
    assert codes != [0, 0]
    folder = RunFolder(tmp_path)
    message = folder.read_rank_errors(1)[0].message
    failed = read_evidence(spec, folder, RunResult("failed", 4, message=message))
    found = compare(reference[0], failed, None)
    assert found.cause is not None
    assert found.cause.name == "missing_all_reduce"
    assert "the ranks have different weights" in found.cause.explanation
