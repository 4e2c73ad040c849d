"""`compare`: the ratios by hand, and what has no ratio."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cli.compare import compare
from cli.options import Options
from galley.errors import ConfigError
from galley.report.comparison import Finished, compared, efficiency, incomparable
from galley.rundir import RunFolder
from galley.schema import Batch, Data, Model, Recipe, Strategy, Task
from galley.spec import CodeSnapshot, DataRecord, Layout, RunResult, RunSpec

# Sapphire Rapids of the source: 26 minutes on one node, 7 minutes 30 on four: 86.7 %.
ONE = RunResult("succeeded", 0, metrics={"eval/loss": 0.5, "eval/accuracy": 0.8}, steps=100, wall_s=1560.0,
                train_s=1500.0, samples_per_s=10.0, peak_memory_gib=4.0, world_size=1)  # fmt: skip
FOUR = replace(ONE, metrics={"eval/loss": 0.25, "eval/accuracy": 0.8}, wall_s=450.0, train_s=400.0,
               samples_per_s=10.0 * 26 / 7.5, peak_memory_gib=2.0, world_size=4)  # fmt: skip


def finished(name: str, result: RunResult, recipe: Recipe | None = None, **changes: Any) -> Finished:
    ranks, size = result.world_size, changes.pop("global_size", 32)
    layout = Layout(1, ranks, ranks, "cpu", "gloo", 1, size, size // ranks, 1)
    spec = RunSpec(recipe or Recipe(recipe="tiny"), layout, CodeSnapshot("0" * 64, None, False), {}, "3.11")
    return Finished(name, spec, result, changes.pop("data", DataRecord("abc", {})))


def test_ratios_and_efficiency_are_those_by_hand() -> None:
    first, second = finished("one", ONE), finished("four", FOUR)
    assert incomparable(first, second) == []
    found = {row.name: (row.ratio, row.better) for row in compared(first, second)}
    assert found == {
        "samples_per_s": (pytest.approx(3.4667, abs=1e-4), True),
        "train_s": (pytest.approx(400 / 1500), True),
        "wall_s": (pytest.approx(450 / 1560), True),
        "peak_memory_gib": (0.5, True),
        "eval/loss": (0.5, True),
        "eval/accuracy": (1.0, None),
    }
    assert efficiency(first, second) == pytest.approx(0.867, abs=5e-4)
    assert efficiency(first, first) is None


def test_times_of_other_work_and_a_zero_have_no_ratio() -> None:
    zero = replace(ONE, steps=50, metrics={"eval/loss": 0.0, "own": 1.0})
    other = replace(ONE, metrics={"eval/loss": 0.1, "own": 2.0})
    found = {row.name: (row.ratio, row.better) for row in compared(finished("a", zero), finished("b", other))}
    assert found.keys() == {"samples_per_s", "peak_memory_gib", "eval/loss", "own"}
    assert (found["eval/loss"], found["own"]) == ((None, False), (2.0, None))


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"recipe": Recipe(recipe="tiny", model=Model("gpt2"))}, "model.name"),
        ({"recipe": Recipe(recipe="tiny", model=Model(dropout=0.0))}, "model.dropout"),
        ({"recipe": Recipe(recipe="tiny", task=Task("causal_lm"))}, "task.kind"),
        ({"data": DataRecord("xyz", {})}, "data"),
        (
            {"data": DataRecord("xyz", {}), "recipe": Recipe(recipe="t", data=Data(max_length=64))},
            "data.max_length",
        ),
        ({"data": None, "recipe": Recipe(recipe="tiny", data=Data(path="/data"))}, "data.path"),
        ({"global_size": 64}, "batch.global_size"),
    ],
)
def test_a_ratio_of_unlike_runs_is_refused(changes: dict[str, Any], key: str) -> None:
    problems = incomparable(finished("a", ONE), finished("b", ONE, **changes))
    assert [problem.where for problem in problems] == [key]


def test_the_same_samples_from_another_place_and_another_strategy_are_comparable() -> None:
    recipe = Recipe(
        recipe="other",
        data=Data(path="/mnt/copy", workers=2),
        model=Model(attn_implementation="eager"),
        strategy=Strategy("zero2", engine="deepspeed", shard="grads"),
        batch=Batch(micro_size=4),
    )
    assert incomparable(finished("a", ONE), finished("b", FOUR, recipe)) == []


def write(root: Path, run: Finished, result: RunResult | None) -> None:
    folder = RunFolder(root)
    folder.write_spec(run.spec)
    folder.write_data(DataRecord("abc", {}))
    if result is not None:
        folder.write_result(result)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, result in (("one", ONE), ("four", FOUR)):
        write(tmp_path / name, finished(name, result), result)
    names = [str(tmp_path / "one"), str(tmp_path / "four")]
    assert compare(names, Options()) == 0
    table = capsys.readouterr().out
    assert "samples_per_s              10        34.667     3.467  better" in table
    assert "scaling efficiency 86.7% (4 ranks next to 1)" in table
    assert compare(names, Options(json=True)) == 0
    assert json.loads(capsys.readouterr().out)["efficiency"] == pytest.approx(0.8667, abs=1e-4)


@pytest.mark.parametrize("result", [None, replace(ONE, state="failed")])
def test_only_runs_that_succeeded_are_compared(tmp_path: Path, result: RunResult | None) -> None:
    write(tmp_path / "one", finished("one", ONE), ONE)
    write(tmp_path / "other", finished("other", ONE), result)
    with pytest.raises(ConfigError, match=r"only runs that have succeeded"):
        compare([str(tmp_path / "one"), str(tmp_path / "other")], Options())
    with pytest.raises(ConfigError, match=r"compare: takes two runs"):
        compare(["one"], Options())
