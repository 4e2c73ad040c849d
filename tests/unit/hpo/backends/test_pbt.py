"""Population based training: whose weights a member takes over, how parameters change, what is refused."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from galley.config.compose import compose_recipe
from galley.config.hydra_bridge import Composed
from galley.schema import Hpo, Pbt
from hpo.backends.base import Search
from hpo.backends.pbt import PbtBackend, explore, quantiles
from hpo.check import sweep_problems
from hpo.population import interval_end, interval_numbers, lineage
from hpo.study.values import Objective, Params, SpaceDim, Trial

COMPOSED = Composed()  # the files are read once for all
SPACE = (
    SpaceDim("optim.lr", "float", 1e-5, 1e-1, log=True),
    SpaceDim("schedule.kind", "categorical", choices=("linear", "constant")),
    SpaceDim("schedule.warmup_steps", "int", 0, 8, step=2, when={"schedule.kind": ("linear",)}),
)
LR = SPACE[:1]


def backend(members: int, intervals: int, space: tuple[SpaceDim, ...] = LR) -> PbtBackend:
    settings = Hpo("pbt", trials=members * intervals, pbt=Pbt(population=members))
    search = Search("s", Path("unused"), space, (Objective("eval/f1", "maximize"),), (), 3, settings)
    return PbtBackend(search, [])


def ask(population: PbtBackend, number: int) -> Trial:
    params = population.ask(number)
    assert params is not None
    place = population.place(number)
    return Trial(number, "running", params, member=place.member, parent=place.parent)


def end(population: PbtBackend, trial: Trial, value: float | None) -> Trial:
    """With this value, or failed."""
    done = replace(trial, state="failed") if value is None else replace(
        trial, state="succeeded", values={"eval/f1": value}
    )  # fmt: skip
    population.tell(done)
    return done


def test_the_worst_takes_over_the_best_and_the_others_go_on_as_they_are() -> None:
    population = backend(4, 2)
    first = [end(population, ask(population, n), value) for n, value in enumerate([0.5, 0.9, 0.1, 0.6])]
    assert [trial.member for trial in first] == [0, 1, 2, 3]
    assert all(trial.parent is None for trial in first)
    second = [ask(population, n) for n in range(4, 8)]
    assert [trial.member for trial in second] == [0, 1, 2, 3]
    assert [trial.parent for trial in second] == [0, 1, 1, 3]
    assert [a.params == b.params for a, b in zip(first, second, strict=True)] == [True, True, False, True]
    change = second[2].params["optim.lr"] / first[1].params["optim.lr"]
    assert change == pytest.approx(1.2) or change == pytest.approx(0.8)
    assert population.ask(8) is None
    assert population.waits()
    for trial in second:
        end(population, trial, 1.0)
    assert population.ask(8) is None, "every member has had its intervals"
    assert not population.waits()


def test_nobody_waits_and_who_is_behind_counts_as_it_stands() -> None:
    """Two members are ahead by an interval: what they reached after one is what counts for the third."""
    population = backend(4, 3)
    started = [ask(population, n) for n in range(4)]
    assert population.ask(4) is None, "all run"
    for trial, value in zip(started[:2], (0.2, 0.4), strict=True):
        end(population, trial, value)
    ahead = ask(population, 4)
    assert (ahead.member, ahead.parent) == (0, 1), "the worse of the two that are known"
    end(population, ahead, 0.95)
    end(population, started[2], 0.3)
    other = ask(population, 5)
    assert (other.member, other.parent) == (1, 1), "the best at its own step"
    third = ask(population, 6)
    assert (third.member, third.parent) == (2, 2), "0.3 is between 0.2, 0.4; 0.95 was reached later"
    assert ask(population, 7).member == 0, "the one that is ahead comes last"


def test_a_member_that_failed_is_replaced_and_waits_until_it_can_be() -> None:
    population = backend(2, 2)
    one, two = ask(population, 0), ask(population, 1)
    end(population, one, None)
    assert population.ask(2) is None
    assert population.waits()
    end(population, two, 0.3)
    found = [ask(population, 2), ask(population, 3)]
    assert [(trial.member, trial.parent) for trial in found] == [(0, 1), (1, 1)]
    population = backend(2, 2)
    for number in range(2):
        end(population, ask(population, number), None)
    assert population.ask(2) is None
    assert not population.waits(), "it has died out"


def test_what_keeps_no_bound_is_worse_than_what_does() -> None:
    population = backend(2, 2)
    one, two = ask(population, 0), ask(population, 1)
    population.tell(replace(end(population, one, 0.9), feasible=False))
    end(population, two, 0.1)
    assert ask(population, 2).parent == 1


def test_a_population_is_made_again_from_its_trials() -> None:
    """At every point of its life, and asks as the one that was never ended."""
    generator, whole, trials = random.Random(1), backend(3, 4, SPACE), list[Trial]()
    for number in range(12):
        again = PbtBackend(whole.search, trials)
        trials.append(ask(whole, number))
        assert ask(again, number) == trials[number]
        value = generator.random()
        trials[number] = end(whole, trials[number], value if value > 0.2 else None)
    assert Counter(trial.member for trial in trials) == {0: 4, 1: 4, 2: 4}
    numbers = interval_numbers(trials)
    for trial in trials:
        line = lineage(trials, trial)
        assert [numbers[each.number] for each in line] == list(range(len(line))), "an interval a trial"
        assert all(each.state == "succeeded" for each in line[:-1])


@pytest.mark.parametrize(
    ("count", "fraction", "expected"), [(4, 0.25, 1), (5, 0.25, 2), (3, 0.5, 1), (1, 0.25, 0)]
)
def test_quantiles_never_share_a_member(count: int, fraction: float, expected: int) -> None:
    order = [Trial(number, "succeeded", {}) for number in range(count)]
    worst, best = quantiles(order, fraction)
    assert [t.number for t in best] == list(range(expected))
    assert [t.number for t in worst] == list(range(count - expected, count))


def explored(params: Params, **settings: float) -> list[Params]:
    found = [explore(SPACE, params, replace(Pbt(), **settings), random.Random(seed)) for seed in range(300)]
    for point in found:
        assert list(point) == [dim.key for dim in SPACE if dim.is_active(point)]
        assert 1e-5 <= point["optim.lr"] <= 1e-1
        assert point.get("schedule.warmup_steps", 0) in (0, 2, 4, 6, 8)
    return found


def test_explore_perturbs_within_the_space() -> None:
    params = {"optim.lr": 1e-2, "schedule.kind": "linear", "schedule.warmup_steps": 6}
    found = explored(params, resample_probability=0.0)
    assert {round(point["optim.lr"], 6) for point in found} == {0.012, 0.008}
    assert {point["schedule.kind"] for point in found} == {"linear", "constant"}
    # 6 × 1.2 and 6 × 0.8, each to the next step of 2; where the schedule is another there is none.
    assert {point.get("schedule.warmup_steps") for point in found} == {8, 4, None}
    edge = explored({**params, "optim.lr": 0.09}, resample_probability=0.0)
    assert {round(point["optim.lr"], 6) for point in edge} == {0.1, 0.072}
    anew = explored({"optim.lr": 1e-2, "schedule.kind": "constant"}, resample_probability=1.0)
    assert len({point["optim.lr"] for point in anew}) == 300
    appeared = explored({"optim.lr": 1e-2, "schedule.kind": "constant"}, resample_probability=0.0)
    drawn = {point["schedule.warmup_steps"] for point in appeared if "schedule.warmup_steps" in point}
    assert drawn == {0, 2, 4, 6, 8}, "a dimension that did not exist is drawn"


WORDS = ("hpo=pbt", "train.max_steps=10", "hpo.objectives=[eval/f1]", "optim.lr=tag(log,interval(1e-5,1e-3))")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), ""),
        (("hpo.trials=12", "hpo.pbt.perturbation_interval=4"), ""),
        (("hpo.objectives=[eval/f1,eval/loss]",), "hpo.objectives: a population is ordered by one objective"),
        (("hpo.trials=10",), "10 trials are no whole number of intervals for each of 4 members"),
        (("hpo.trials=44",), "at most 40: an interval has a step or more"),
        (("hpo.pbt.perturbation_interval=4",), "20 trials, but 4 members of 3 intervals are 12"),
        (("hpo.trials=null",), "null is for hpo=grid"),
        (("train.max_steps=null",), "train.max_steps: is null"),
        (("batch.global_size=8,16",), "hpo.space.batch.global_size: cannot change within a training"),
        (("hpo.space.strategy=[ddp,zero2]",), "hpo.space.strategy: cannot change within a training"),
        (("hpo.repeats=2",), "hpo.repeats: changes the seed"),
        (("hpo.pruning.kind=asha", "eval.every_steps=2"), "hpo.pruning.kind: would end what"),
        (("eval.patience=2", "eval.every_steps=2"), "eval.patience: would end a member"),
        (
            ("checkpoint.keep_best=eval/f1", "eval.every_steps=2"),
            "checkpoint.keep_best: would judge an interval by other weights",
        ),
        (("train.stop_at_step=5",), "train.stop_at_step: is set for each interval"),
        (("checkpoint.resume_from=.",), "checkpoint.resume_from: is set for each interval"),
        (("hpo.array=true", "launcher=slurm"), "hpo=pbt learns from each trial"),
        (("hpo.sampler=tpe",), "means nothing to hpo=pbt"),
        (("hpo=random", "hpo.pbt.population=8"), "hpo.pbt: means nothing to hpo=random"),
    ],
)  # fmt: skip
def test_what_is_no_population_is_refused(words: tuple[str, ...], message: str) -> None:
    own = {word.partition("=")[0] for word in words}
    recipe = compose_recipe(
        [*(w for w in WORDS if w.partition("=")[0] not in own), *words], composed=COMPOSED
    )
    found = "\n".join(str(problem) for problem in sweep_problems(recipe))
    assert (message in found) if message else not found, found


def test_intervals_end_at_whole_steps_and_the_last_one_with_the_training() -> None:
    recipe = compose_recipe([*WORDS, "hpo.trials=12"], composed=COMPOSED)
    assert [interval_end(recipe, index) for index in range(3)] == [3, 6, 10]
    given = replace(recipe, hpo=replace(recipe.hpo, pbt=Pbt(perturbation_interval=4)))
    assert [interval_end(given, index) for index in range(3)] == [4, 8, 10]
