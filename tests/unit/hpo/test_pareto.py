"""Pareto arithmetic against brute force; selection; what pruning never does."""

from __future__ import annotations

import csv
import io
import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.metrics import Direction
from galley.schema import Choose, Hpo, Recipe
from galley.spec import CodeSnapshot, from_json, to_json
from hpo import pareto
from hpo.display import describe_estimate
from hpo.pruning.rungs import rungs, survives
from hpo.report import write_report
from hpo.report.page import page_data
from hpo.select import choose, pareto_front
from hpo.study.event_log import Begun
from hpo.study.folder import StudyFolder
from hpo.study.state import Study
from hpo.study.values import Objective, ParetoFront, Trial
from hpo.summary import print_front

NUMBERS = st.integers(0, 6).map(float)  # few: equal values and equal points are frequent
POINTS = st.integers(1, 3).flatmap(lambda m: st.lists(st.tuples(*[NUMBERS] * m), max_size=12))
F1, SPEED = Objective("eval/f1", "maximize"), Objective("samples_per_s", "maximize")


def brute_force(points: list[tuple[float, ...]]) -> list[int]:
    def beaten(a: tuple[float, ...]) -> bool:
        return any(b != a and all(y <= x for x, y in zip(a, b, strict=True)) for b in points)

    return [index for index, point in enumerate(points) if not beaten(point)]


@given(POINTS)
def test_front_is_that_of_brute_force(points: list[tuple[float, ...]]) -> None:
    assert pareto.front(points) == brute_force(points)


@given(POINTS)
def test_ranks_peel_front_after_front(points: list[tuple[float, ...]]) -> None:
    ranks, left = pareto.ranks(points), list(range(len(points)))
    for rank in range(max(ranks, default=-1) + 1):
        layer = [left[i] for i in brute_force([points[i] for i in left])]
        assert [i for i in range(len(points)) if ranks[i] == rank] == layer
        left = [i for i in left if i not in layer]
    assert not left


@given(POINTS.filter(bool))
def test_hypervolume_counts_the_unit_cubes_that_are_dominated(points: list[tuple[float, ...]]) -> None:
    size = len(points[0])
    cubes = itertools.product(range(7), repeat=size)
    expected = sum(any(all(x <= c for x, c in zip(p, cube, strict=True)) for p in points) for cube in cubes)
    assert pareto.hypervolume(points, [7.0] * size) == pytest.approx(expected)


@given(POINTS.filter(bool))
def test_knee_lies_on_the_front_of_a_front(points: list[tuple[float, ...]]) -> None:
    front = [points[i] for i in pareto.front(points)]
    nearest = pareto.knee(front)
    assert nearest is not None
    assert nearest < len(front)
    assert pareto.knee([]) is None


CURVES = st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), min_size=1, max_size=24)


@given(CURVES, st.integers(2, 4), st.integers(0, 10**6), st.booleans())
def test_trial_of_the_final_front_is_never_pruned_where_curves_keep_their_order(
    finals: list[tuple[float, ...]], eta: int, seed: int, delayed: bool
) -> None:
    """Losses at a share `f` of the training: `final + slope × (1 - f)`, falling, the same slope for all;
    trials arrive at their rungs in any order, without barriers."""
    generator = random.Random(seed)
    shares = rungs(0.1, eta)
    reached: dict[float, list[tuple[float, ...]]] = {share: [] for share in shares}
    waiting = dict.fromkeys(range(len(finals)), 0)
    pruned = set()
    while waiting:
        number = min(waiting) if delayed and generator.random() < 0.5 else generator.choice(sorted(waiting))
        share = shares[waiting[number]]
        point = tuple(x + 5 * (1 - share) for x in finals[number])
        alive = survives(point, reached[share], eta)
        reached[share].append(point)
        waiting[number] += 1
        if not alive:
            pruned.add(number)
        if not alive or waiting[number] == len(shares):
            del waiting[number]
    assert not pruned & set(brute_force(finals))


def test_rung_lets_one_in_eta_go_on() -> None:
    line = [(float(x), float(x)) for x in range(9)]  # each dominates the next
    kept = [survives(line[i], line[:i] + line[i + 1 :], 3) for i in range(9)]
    assert kept == [True] * 3 + [False] * 6
    # Of one rank, those go on that add the most hypervolume.
    best, layer = (0.0, 0.0), [(1.0, 5.0), (3.0, 3.0), (3.1, 2.9), (5.0, 1.0)]
    kept = [survives(p, [best, *(q for q in layer if q != p)], 2) for p in layer]
    assert kept.count(True) == 2
    assert kept[0]
    assert kept[3]


def trial(number: int, f1: float, speed: float, **changes: object) -> Trial:
    values = {"eval/f1": f1, "samples_per_s": speed}
    made = Trial(number, "succeeded", {"optim.lr": number}, values, metrics={**values, "wall_s": speed})
    return replace(made, **changes)


def study_of(trials: list[Trial], **settings: object) -> Study:
    objectives: list[str | dict[str, str | float | None]] = ["eval/f1", "samples_per_s"]
    hpo = Hpo(kind="random", objectives=objectives, space={"optim.lr": [1, 2]}, **settings)
    begun = Begun("s", [], [], Recipe(hpo=hpo), CodeSnapshot("0", None, False), 0.0)
    return Study(StudyFolder(Path("s")), begun, trials)


def test_front_leaves_out_what_is_not_feasible_or_not_done() -> None:
    trials = [
        trial(0, 0.5, 10),
        trial(1, 0.9, 99, feasible=False),
        trial(2, 0.6, 5),
        trial(3, 0.4, 9),
        trial(4, 0.0, 0, state="pruned", values={}),
    ]
    found = pareto_front(study_of(trials))
    assert found.front == (0, 2)
    assert found.knee in found.front
    assert found.chosen == found.knee
    assert from_json(ParetoFront, to_json(found)) == found


def test_study_without_a_success_has_no_front() -> None:
    found = pareto_front(study_of([trial(0, 0, 0, state="failed", values={})]))
    assert (found.front, found.knee, found.chosen) == ((), None, None)


def test_winner_by_each_rule() -> None:
    front = [trial(0, 0.9, 1), trial(1, 0.8, 8), trial(2, 0.2, 10)]
    pick = {
        "knee": (Choose(), 1),
        "weights": (Choose("weighted", weights={"eval/f1": 9, "samples_per_s": 1}), 0),
        "epsilon": (Choose("epsilon", metric="samples_per_s", bounds={"eval/f1": 0.5}), 1),
        "budget": (Choose("budget", metric="eval/f1", bounds={"wall_s": 9.0}), 0),
        "nothing": (Choose("epsilon", bounds={"eval/f1": 0.95}), None),
    }
    ways: dict[str, Direction] = {"eval/f1": "maximize", "eval/accuracy": "maximize", "wall_s": "minimize"}
    assert {name: choose(front, (F1, SPEED), rule, ways) for name, (rule, _) in pick.items()} == {
        name: expected for name, (_, expected) in pick.items()
    }


def test_a_bound_of_a_metric_that_is_no_objective_is_the_least_of_what_should_be_great() -> None:
    front = [
        trial(number, f1, speed, metrics={"eval/f1": f1, "eval/accuracy": accuracy, "samples_per_s": speed})
        for number, f1, speed, accuracy in ((0, 0.9, 1, 0.4), (1, 0.8, 8, 0.7))
    ]
    study = study_of([*front], choose=Choose("epsilon", bounds={"eval/accuracy": 0.5}))
    assert pareto_front(study).chosen == 1


def test_repeats_stand_for_their_mean() -> None:
    """Trial 0 is lucky once; by the mean of its seeds trial 2 is the better."""
    trials = [
        trial(0, 0.9, 5),
        trial(1, 0.3, 5, repeat_of=0),
        trial(2, 0.7, 5),
        trial(3, 0.8, 5, repeat_of=2),
    ]
    found = pareto_front(study_of(trials, repeats=2))
    assert found.front == (2,)
    assert [e.number for e in found.estimates] == [0, 2]
    assert found.estimates[0].mean["eval/f1"] == pytest.approx(0.6)
    assert found.estimates[0].std["eval/f1"] == pytest.approx(0.3 * 2**0.5)  # of 0.9 and 0.3
    assert found.estimates[0].error["eval/f1"] == pytest.approx(0.3)


FAILED: dict[str, object] = {"state": "failed", "values": {}, "metrics": {}, "feasible": False}


def test_a_point_whose_first_repeat_failed_is_shown_by_one_that_succeeded() -> None:
    trials = [
        trial(0, 0, 0, **FAILED),
        trial(1, 0.8, 5, repeat_of=0),
        trial(2, 0.6, 5, repeat_of=0),
        trial(3, 0.5, 4),
        trial(4, 0.5, 4, repeat_of=3),
        trial(5, 0.5, 4, repeat_of=3),
    ]
    found = pareto_front(study_of(trials, repeats=3, min_successes=2))
    assert (found.front, found.knee, found.chosen) == ((1,), 1, 1)
    shown = found.stands_for(1)
    assert (shown.state, shown.values["eval/f1"]) == ("succeeded", pytest.approx(0.7))
    assert found.stands_for(2) == trials[2]
    estimate = found.estimate(1)
    assert estimate is not None
    assert (estimate.number, estimate.count, estimate.enough) == (0, 2, True)
    assert describe_estimate(estimate, ["eval/f1"]) == "mean of 2 runs: eval/f1 0.7 ± 0.1414"
    assert from_json(ParetoFront, to_json(found)) == found


@pytest.mark.parametrize(("needed", "front"), [(None, (3,)), (3, (3,)), (2, (3,)), (1, (0,))])
def test_one_success_does_not_beat_three(needed: int | None, front: tuple[int, ...]) -> None:
    """One run of the first point succeeded, and has no spread; of the second one all three did."""
    trials = [
        trial(0, 0.9, 9),
        trial(1, 0, 0, repeat_of=0, **FAILED),
        trial(2, 0, 0, repeat_of=0, state="running", values={}, metrics={}),
        *(trial(number, 0.5, 4, repeat_of=None if number == 3 else 3) for number in (3, 4, 5)),
    ]
    found = pareto_front(study_of(trials, repeats=3, min_successes=needed))
    assert (found.front, found.chosen) == (front, front[0])
    lone = found.estimates[0]
    assert (lone.count, lone.std, lone.error, lone.enough) == (1, {}, {}, needed == 1)
    assert describe_estimate(lone, ["eval/f1"]) == "one run: eval/f1 0.9"


def test_a_repeat_beyond_a_bound_keeps_its_point_off_the_front() -> None:
    trials = [trial(0, 0.9, 9), trial(1, 0.9, 9, repeat_of=0, feasible=False)]
    assert pareto_front(study_of(trials, repeats=2, min_successes=1)).front == ()


def test_tables_show_the_mean_its_spread_and_of_how_many_runs(tmp_path: Path) -> None:
    trials = [
        trial(0, 0.9, 5, run=str(tmp_path)),
        trial(1, 0.3, 5, repeat_of=0, run=str(tmp_path)),
        trial(2, 0.2, 4, run=str(tmp_path)),
        trial(3, 0, 0, repeat_of=2, run=str(tmp_path), **FAILED),
    ]
    found = pareto_front(study_of(trials, repeats=2))
    stream = io.StringIO()
    print_front(found, stream)
    shown = stream.getvalue()
    assert "0.6" in shown
    assert "0.9" not in shown
    assert "trial 0: mean of 2 runs: eval/f1 0.6 ± 0.4243" in shown
    assert "point 2: not on the front, only 1 of its runs succeeded (hpo.min_successes)" in shown
    page, _, table, _ = write_report(found, ["optim.lr"], tmp_path / "report")
    rows = list(csv.DictReader(table.open()))
    assert [row["eval/f1"] for row in rows] == ["0.9", "0.3", "0.2", ""]
    assert [float(row["eval/f1 mean"]) for row in rows] == pytest.approx([0.6, 0.6, 0.2, 0.2])
    assert [row["eval/f1 std"][:6] for row in rows] == ["0.4242", "0.4242", "", ""]
    assert [(row["point"], row["succeeded"]) for row in rows] == [("0", "2")] * 2 + [("2", "1")] * 2
    first = page_data(found, ["optim.lr"], tmp_path)["trials"][0]
    assert first["metrics"]["eval/f1"] == pytest.approx(0.6)
    assert first["message"].startswith("mean of 2 runs: eval/f1 0.6 ± 0.4243")
    assert page.is_file()
