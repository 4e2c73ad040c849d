"""The words of `parity`: every mistake at once, before anything starts; and what makes its runs equal."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cli.main import main
from cli.options import Options
from cli.parity import plan_runs, read_request


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_all_mistakes_are_reported_and_nothing_is_written(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["strategies=ddp,zero22", "steps=0", "step=5", "optim.lrr=1", "strategy=ddp", "model.dropout=0.1"]
    assert main(["parity", *words, "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["exit_code"] == 2
    for message in (
        "did you mean 'zero2'?",
        "steps=0: is not a number of optimizer steps",
        "step=5: is not a word of `parity`\n      did you mean 'steps'?",
        "did you mean 'optim.lr'?",
        "strategies= says which strategies",
        "model.dropout=0.1: is decided by `parity`",
    ):
        assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_one_strategy_cannot_split_is_reported_with_its_name(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["parity", "strategies=ddp", "cluster.procs_per_node=2", "batch.global_size=9"]) == 2
    assert "ddp: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_runs_differ_in_nothing_but_strategy_and_ranks() -> None:
    """mrpc_deberta has another batch and precision of its own under zero2; parity leaves them out."""
    words = ["recipe=mrpc_deberta", "profile=small", "strategies=ddp,zero2", "steps=7"]
    request = read_request([*words, "cluster.procs_per_node=2", "batch.micro_size=4"], Options())
    folder, runs = plan_runs(request, Options())
    assert [run.folder.root.name for run in runs] == ["single", "ddp", "zero2"]
    assert {run.folder.root.parent for run in runs} == {folder}
    recipes = [run.spec.recipe for run in runs]
    first = recipes[0]
    assert {replace(r, strategy=first.strategy, cluster=first.cluster) == first for r in recipes} == {True}
    assert (first.train.max_steps, first.train.log_every_steps, first.model.dropout) == (7, 1, 0.0)
    assert not first.eval.enabled
    layouts = [run.spec.layout for run in runs]
    assert [(lay.world_size, lay.micro_size, lay.accumulation) for lay in layouts] == [
        (1, 4, 8),
        (2, 4, 4),
        (2, 4, 4),
    ]


def test_a_global_batch_that_is_not_given_is_the_ranks_own() -> None:
    words = ["strategies=ddp", "cluster.procs_per_node=2", "batch.global_size=null", "batch.micro_size=3"]
    _, runs = plan_runs(read_request(words, Options()), Options())
    assert [run.spec.layout.global_size for run in runs] == [6, 6]


def test_another_reference_may_be_named() -> None:
    request = read_request(["strategies=zero2,fsdp", "reference=ddp"], Options())
    assert request.strategies == ("ddp", "zero2", "fsdp")
