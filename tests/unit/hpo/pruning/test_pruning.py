"""Pruning beside bounds, numbers that are none, trials that are over; and pruning that can never act."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.rundir import RunFolder
from galley.schema import Eval, Hpo, Pruning, Recipe, Train
from galley.spec import CodeSnapshot, Progress
from hpo import pareto
from hpo.check import sweep_problems
from hpo.pruning import make_pruner
from hpo.pruning.curves import Report
from hpo.pruning.rungs import rungs, survives
from hpo.study.event_log import Begun
from hpo.study.folder import StudyFolder
from hpo.study.state import Study
from hpo.study.values import Trial

STEPS = 100
Curve = dict[int, dict[str, float]]  # step -> metrics


def study(
    tmp_path: Path, curves: list[Curve], kind: str, states: list[str] | None = None, **hpo: Any
) -> Study:
    """Each trial has told its curve; those that ended beyond a bound are `infeasible` here."""
    settings = {"objectives": ["eval/loss"], "space": {"optim.lr": [1, 2]}, "constraints": [], **hpo}
    recipe = Recipe(
        hpo=Hpo(kind="random", pruning=Pruning(kind, eta=2, min_trials=2), **settings),  # type: ignore[arg-type]
        eval=Eval(every_steps=10),
    )
    trials = []
    for number, curve in enumerate(curves):
        folder = RunFolder(tmp_path / str(number))
        folder.root.mkdir()
        folder.write_progress(Progress("train", max(curve), STEPS, 1, 0.0))
        rows = [json.dumps({"step": step, "time_s": 1.0, **row}) for step, row in curve.items()]
        folder.metrics_file.write_text("".join(f"{row}\n" for row in rows))
        state: Any = (states or ["running"] * len(curves))[number]
        found = Trial(number, state.replace("infeasible", "succeeded"), {}, run=str(folder.root))
        trials.append(replace(found, feasible=state != "infeasible"))
    begun = Begun("s", [], [], recipe, CodeSnapshot("0", None, False), 0.0)
    return Study(StudyFolder(tmp_path), begun, trials)


def last_judged(made: Study) -> str:
    return make_pruner(made).judge(made.trials[-1])


KINDS = pytest.mark.parametrize("kind", ["median", "asha", "pareto"])
F1_WITHIN = [{"metric": "eval/f1", "min": 0.5}]


def rival(loss: float, f1: float) -> Curve:
    return {10: {"eval/loss": loss, "eval/f1": f1}, 20: {"eval/loss": loss, "eval/f1": f1}}


@KINDS
def test_rivals_beyond_a_bound_do_not_end_the_only_feasible_trial(tmp_path: Path, kind: str) -> None:
    lossy = [rival(0.1, 0.2), rival(0.2, 0.3), rival(0.3, 0.4), rival(0.9, 0.8)]
    assert last_judged(study(tmp_path, lossy, kind, constraints=F1_WITHIN)) == ""
    (tmp_path / "without").mkdir()
    without = last_judged(study(tmp_path / "without", lossy, kind))
    assert "of its training" in without, "the very same curves without a bound end it"


@KINDS
def test_rivals_within_the_bounds_end_it(tmp_path: Path, kind: str) -> None:
    better = [rival(0.1, 0.9), rival(0.2, 0.9), rival(0.3, 0.9), rival(0.9, 0.8)]
    assert "of its training" in last_judged(study(tmp_path, better, kind, constraints=F1_WITHIN))


@KINDS
def test_bounds_of_objectives_count_too(tmp_path: Path, kind: str) -> None:
    """Of a single objective whoever is better keeps its bound as well: nothing changes."""
    objectives: Any = [{"metric": "eval/loss", "bound": 0.5}]
    better = [rival(0.1, 0.9), rival(0.2, 0.9), rival(0.3, 0.9), rival(0.9, 0.8)]
    assert "of its training" in last_judged(study(tmp_path, better, kind, objectives=objectives))


@KINDS
@pytest.mark.parametrize(("state", "ends"), [("succeeded", True), ("infeasible", False), ("failed", False)])
def test_only_those_that_may_win_are_rivals(tmp_path: Path, kind: str, state: str, ends: bool) -> None:
    curves = [rival(0.1, 0.9), rival(0.2, 0.9), rival(0.3, 0.9), rival(0.9, 0.9)]
    made = study(tmp_path, curves, kind, [*[state] * 3, "running"])
    assert bool(last_judged(made)) == ends


@KINDS
@pytest.mark.parametrize(("state", "ends"), [("succeeded", True), ("infeasible", False), ("running", False)])
def test_a_bound_that_only_the_end_tells_is_awaited(
    tmp_path: Path, kind: str, state: str, ends: bool
) -> None:
    """Memory is known of a trial that has ended; a running one may be beyond, and ends nobody."""
    curves = [rival(0.1, 0.9), rival(0.2, 0.9), rival(0.3, 0.9), rival(0.9, 0.9)]
    memory = [{"metric": "peak_memory_gib", "max": 4.0}]
    made = study(tmp_path, curves, kind, [*[state] * 3, "running"], constraints=memory)
    assert bool(last_judged(made)) == ends


@KINDS
def test_a_trial_that_is_over_is_not_pruned_at_a_tenth(tmp_path: Path, kind: str) -> None:
    better = [rival(0.1, 0.9), rival(0.2, 0.9), rival(0.3, 0.9)]
    over = {step: {"eval/loss": 0.9, "eval/f1": 0.9} for step in (10, 50, STEPS)}
    assert last_judged(study(tmp_path, [*better, over], kind)) == ""


@KINDS
def test_no_number_is_worse_than_every_number(tmp_path: Path, kind: str) -> None:
    numbers = [rival(0.1, 0.9), rival(0.2, 0.9), rival(0.3, 0.9)]
    assert "of its training" in last_judged(study(tmp_path, [*numbers, rival(math.nan, 0.9)], kind))
    (tmp_path / "good").mkdir()
    broken = [rival(math.nan, 0.9), rival(math.inf, 0.9), rival(0.5, 0.9)]
    assert last_judged(study(tmp_path / "good", broken, kind)) == ""


def test_a_point_without_a_number_is_on_no_front() -> None:
    assert pareto.front([(0.3,), (math.nan,), (0.1,), (0.2,)]) == [2]
    assert pareto.front([(0.3, math.nan), (0.4, 1.0)]) == [1]
    assert pareto.front([(math.nan,), (math.nan,)]) == []
    assert pareto.ranks([(0.3,), (math.nan,), (0.1,)]) == [1, 2, 0]
    assert not survives((math.nan,), [(0.1,), (0.2,)], 2)


def test_a_report_knows_by_how_much_each_visible_bound_is_missed() -> None:
    report = Report(0.5, (1.0,), (0.0, 0.25))
    assert report.point == (1.0, 0.0, 0.25)
    assert not report.keeps_bounds
    assert Report(0.5, (1.0,), (0.0, 0.0)).keeps_bounds


NUMBERS = st.integers(0, 6).map(float)
FINALS = st.lists(st.tuples(NUMBERS, NUMBERS, st.integers(-3, 3).map(float)), min_size=1, max_size=24)


@given(FINALS, st.integers(2, 4), st.integers(0, 10**6))
def test_the_feasible_front_is_never_touched_where_curves_keep_their_order(
    finals: list[tuple[float, float, float]], eta: int, seed: int
) -> None:
    """Two losses and how far beyond a bound (at most 0: within), all falling by the same slope."""
    generator, shares = random.Random(seed), rungs(0.1, eta)
    reached: dict[float, list[tuple[float, ...]]] = {share: [] for share in shares}
    waiting, pruned = dict.fromkeys(range(len(finals)), 0), set()
    while waiting:
        number = generator.choice(sorted(waiting))
        share = shares[waiting[number]]
        one, other, beyond = (x + 5 * (1 - share) for x in finals[number])
        point = (one, other, max(0.0, beyond))
        alive = survives(point, reached[share], eta)
        reached[share].append(point)
        waiting[number] += 1
        if not alive:
            pruned.add(number)
        if not alive or waiting[number] == len(shares):
            del waiting[number]
    feasible = [point[:2] for point in finals if point[2] <= 0]
    front = {p for p in feasible if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in feasible)}
    left = {finals[n][:2] for n in range(len(finals)) if n not in pruned and finals[n][2] <= 0}
    assert front <= left


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, ""),
        ({"eval": Eval(every_steps=100)}, "never acts: the first report of a trial comes with its end"),
        ({"eval": Eval(every_epochs=1.0), "train": Train(epochs=1.0)}, "never acts: the first report"),
        ({"eval": Eval(every_epochs=1.0), "train": Train(epochs=2.0)}, ""),
        ({"eval": Eval()}, "needs evaluations during the run"),
        ({"trials": 3}, "hpo.pruning.min_trials: never acts: it waits for 4 trials, and there are 3"),
        ({"objectives": ["train/loss"], "train": Train(max_steps=10, log_every_steps=10)}, "never acts"),
        ({"objectives": ["train/loss"], "constraints": [{"metric": "eval/f1", "min": 0.5}], "eval": Eval()},
         "needs evaluations during the run"),
        ({"kind": "hyperband", "trials": 9}, "it waits for 4 trials, and there are 3 in a bracket"),
        ({"kind": "hyperband", "trials": 10}, ""),
        ({"objectives": ["latency_s"]}, "cannot see 'latency_s' while a trial runs"),
    ],
)  # fmt: skip
def test_pruning_that_can_never_act_is_refused(settings: Any, complaint: str) -> None:
    """Under hyperband there are three rungs from a tenth on, 0.1, 0.3 and 0.9, and as many brackets."""
    sought = {name: value for name, value in settings.items() if name not in ("eval", "train", "kind")}
    hpo = {"trials": 8, "objectives": ["eval/loss"], "space": {"optim.lr": [1, 2]}, **sought}
    recipe = Recipe(
        hpo=Hpo(kind="random", pruning=Pruning(settings.get("kind", "asha")), **hpo),
        eval=settings.get("eval", Eval(every_steps=10)),
        train=settings.get("train", Train(max_steps=100)),
    )
    found = [str(problem) for problem in sweep_problems(recipe) if "pruning" in problem.where]
    assert any(complaint in text for text in found) if complaint else not found, found
