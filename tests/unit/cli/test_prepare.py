"""One door: whatever starts something refuses the same mistakes alike, before anything is written."""

from __future__ import annotations

from collections import Counter
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from cli.main import main
from galley.errors import SubmissionError
from galley.run.seal import seal, write_snapshot
from galley.rundir import RunFolder
from galley.spec import ClusterFacts, LaunchPlan
from galley.strategy.layout import resolve_layout
from launchers.lifecycle import detached
from launchers.local.launcher import LocalLauncher
from tests.support import make_recipe
from tests.unit.galley.strategy.test_layout import CPU

SWEEP = ("hpo=random", "hpo.trials=2", "hpo.objectives=[eval/f1]", "optim.lr=interval(1e-5,1e-3)")
VERBS: dict[str, tuple[str, ...]] = {
    "run": ("run", "strategy=ddp"),
    "run a sweep": ("run", "strategy=ddp", *SWEEP),
    "sweep": ("sweep", "strategy=ddp", *SWEEP),
    "plan": ("plan", "strategy=ddp"),
    "plan a sweep": ("plan", "strategy=ddp", *SWEEP),
    "parity": ("parity", "strategies=ddp"),
    "eval": ("eval", "embedded:minilm", "strategy=ddp"),
}
MISTAKES: dict[str, str] = {
    "cluster.procs_per_node=2 batch.global_size=3": "× 2 ranks has no whole solution",
    "optim.lrr=1": "did you mean 'optim.lr'?",
    "launcher=slrum": "'slrum' is not a launcher",
    "launcher=ray launcher.ray.address=nowhere": "is not the address of a dashboard",
    "launcher=mpi cluster.nodes=2": "launcher.mpi.hosts names no hosts",
    "launcher=slurm cluster.device=cuda": "whose GPUs cannot be counted from here",
    "after=nowhere": "is no run, neither a folder nor a name",
    "cluster.procs_per_node=0": "cluster.procs_per_node",
}

EVERYWHERE = ("cluster.procs_per_node=2 batch.global_size=3", "optim.lrr=1")
DIFFERENT = ("run", "sweep", "parity")


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("verb", "mistake"),
    [(verb, mistake) for mistake in MISTAKES for verb in (VERBS if mistake in EVERYWHERE else DIFFERENT)],
)
def test_every_verb_refuses_a_mistake_alike(
    verb: str, mistake: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*VERBS[verb], *mistake.split()])
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert "nothing was started" in captured.err.splitlines()[0]
    assert MISTAKES[mistake] in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_refuses_ranks_that_its_batch_cannot_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = make_recipe(batch={"global_size": 4})
    folder = RunFolder(tmp_path / "runs" / "mine")
    write_snapshot(recipe, folder)
    folder.write_spec(seal(recipe, resolve_layout(recipe, CPU)))
    there = sorted(tmp_path.rglob("*"))
    assert main(["resume", "mine", "cluster.procs_per_node=3"]) == 2
    assert "nothing was started" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.parametrize("verb", ["run a sweep", "sweep"])
def test_a_sweep_of_which_no_point_can_be_laid_out_is_refused(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*VERBS[verb], "cluster.procs_per_node=2", "batch.global_size=3,5"]) == 2
    assert "hpo.space: batch.global_size: global_size" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["run a sweep", "sweep"])
def test_a_sweep_may_choose_what_its_recipe_lacks(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe's own batch of 32 has no whole number of samples for each of 3 ranks; 6 has."""

    def begin(*_: object) -> NoReturn:
        raise SubmissionError("it would begin")

    monkeypatch.setattr("hpo.sweep.begin", begin)
    assert main([*VERBS[verb], "cluster.procs_per_node=3", "batch.global_size=5,6"]) == 3


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == "torch" else find_spec(name)

    monkeypatch.setattr("galley.run.missing_packages.find_spec", find)


@pytest.mark.parametrize("verb", ["run", "run a sweep", "sweep", "parity", "eval"])
@pytest.mark.usefixtures("without_torch")
def test_what_trains_is_refused_without_torch(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*VERBS[verb], "cluster.procs_per_node=1"]) == 2
    assert "packages: torch: not installed" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_torch")
def test_a_run_without_torch_can_be_planned_and_is_not_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "cluster.procs_per_node=1"]) == 0
    assert "warning: packages: torch: not installed" in capsys.readouterr().err
    assert main(["plan", "launcher=slurm"]) == 0
    assert "torch: not installed" not in capsys.readouterr().err
    folder = RunFolder(tmp_path / "runs" / "mine")
    recipe = make_recipe(batch={"global_size": 4})
    write_snapshot(recipe, folder)
    folder.write_spec(seal(recipe, resolve_layout(recipe, CPU)))
    assert main(["resume", "mine"]) == 2
    assert "packages: torch: not installed" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "code"), [((), 0), (("hpo.trials=3",), 2)], ids=["done", "more trials"])
@pytest.mark.usefixtures("without_torch")
def test_a_study_that_trains_on_is_refused_without_torch(
    words: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "study").mkdir(parents=True)
    (tmp_path / "runs" / "study" / "journal.jsonl").touch()
    study = SimpleNamespace(target=0, trials=[], begun=SimpleNamespace(recipe=make_recipe()))
    monkeypatch.setattr("hpo.study.state.read_study", lambda root: study)
    monkeypatch.setattr("cli.sweep.run_study", lambda folder, options, trials: 0)
    assert main(["resume", "study", *words]) == code


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What is asked of the launcher of this machine, which refuses to start anything."""
    counted: Counter[str] = Counter()
    plans: list[LaunchPlan] = []

    def refuse(launcher: LocalLauncher, plan: LaunchPlan, folder: RunFolder) -> NoReturn:
        counted["submit"] += 1
        assert plan in plans, "it is the one that was made"
        raise SubmissionError("this is only a test")

    facts, planned = LocalLauncher.facts, LocalLauncher.plan

    def count_facts(*args: Any, **named: Any) -> ClusterFacts:
        counted["facts"] += 1
        return facts(*args, **named)

    def count_plan(*args: Any, **named: Any) -> LaunchPlan:
        counted["plan"] += 1
        plans.append(planned(*args, **named))
        return plans[-1]

    monkeypatch.setattr(LocalLauncher, "facts", count_facts)
    monkeypatch.setattr(LocalLauncher, "plan", count_plan)
    monkeypatch.setattr(LocalLauncher, "submit", refuse)
    return counted


TRIAL = ("hpo.trials=1", "hpo.retries=0", "hpo.warm=false", "hpo.study_dir=study")


@pytest.mark.parametrize(
    ("words", "code", "counts"),
    [
        (("plan", "strategy=ddp"), 0, {"facts": 1, "plan": 1}),
        (("run", "strategy=ddp"), 3, {"facts": 1, "plan": 1, "submit": 1}),
        (("run", "strategy=auto"), 3, {"facts": 1, "plan": 1, "submit": 1}),
        (("eval", "embedded:minilm"), 3, {"facts": 1, "plan": 1, "submit": 1}),
        # the reference has nodes of its own
        (("parity", "strategies=ddp,fsdp"), 3, {"facts": 2, "plan": 3, "submit": 1}),
        # one trial: its nodes are looked at when it starts
        (("sweep", *SWEEP, *TRIAL), 4, {"facts": 2, "plan": 1, "submit": 1}),
        (("run", *SWEEP, *TRIAL), 4, {"facts": 2, "plan": 1, "submit": 1}),
    ],
)
def test_facts_are_probed_once_and_the_plan_that_was_made_is_submitted(
    words: tuple[str, ...], code: int, counts: dict[str, int], calls: Counter[str]
) -> None:
    assert main(list(words)) == code
    assert calls == counts


def test_a_resumed_run_is_planned_once(tmp_path: Path, calls: Counter[str]) -> None:
    assert main(["run", "strategy=single", "run_dir=mine"]) == 3
    calls.clear()
    assert main(["resume", "mine"]) == 3
    assert calls == {"facts": 1, "plan": 1, "submit": 1}


def test_a_detached_run_is_started_by_the_plan_that_was_written_down(calls: Counter[str]) -> None:
    assert main(["run", "strategy=single", "run_dir=mine"]) == 3
    calls.clear()
    assert detached.main("mine", "1") == 3
    assert calls == {"submit": 1}
