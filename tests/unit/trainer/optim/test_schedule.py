"""Every schedule against Transformers' or torch's own, and the keys that belong together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest
import torch

from galley.config.compose import compose_recipe
from galley.config.rules.schedule import KINDS_OF, schedule_problems
from galley.errors import ConfigError
from galley.schema import Schedule
from trainer.optim.schedule import learning_rate, warmup_steps

PEAK, STEPS = 0.5, 20
KINDS = get_args(get_type_hints(Schedule)["kind"])


def theirs(make: Any, name: str, warmup: int, **options: Any) -> list[float]:
    """The rates that a scheduler of Transformers gives to `STEPS` steps."""
    from transformers.optimization import get_scheduler

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    if make is None:
        scheduler = get_scheduler(
            name,
            optimizer,
            num_warmup_steps=warmup,
            num_training_steps=STEPS,
            scheduler_specific_kwargs=options,
        )
    else:
        scheduler = make(optimizer, **options)
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def ours(schedule: Schedule) -> list[float]:
    rate = learning_rate(schedule, PEAK, STEPS)
    return [rate(step) for step in range(STEPS)]


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize(
    ("schedule", "name", "options"),
    [
        (Schedule("linear"), "linear", {}),
        (Schedule("cosine"), "cosine", {}),
        (Schedule("cosine", min_ratio=0.1), "cosine_with_min_lr", {"min_lr_rate": 0.1}),
        (Schedule("cosine_restarts", cycles=3), "cosine_with_restarts", {"num_cycles": 3}),
        (Schedule("cosine_restarts"), "cosine_with_restarts", {}),
        (Schedule("polynomial", power=2.0, min_ratio=0.02), "polynomial", {"power": 2.0, "lr_end": 0.01}),
        (Schedule("polynomial", min_ratio=2e-7), "polynomial", {}),
        (Schedule("inverse_sqrt"), "inverse_sqrt", {}),
        (Schedule("inverse_sqrt", timescale=30), "inverse_sqrt", {"timescale": 30}),
        (Schedule("constant"), "constant_with_warmup", {}),
        (
            Schedule("wsd", decay_steps=5),
            "warmup_stable_decay",
            {"num_decay_steps": 5, "decay_type": "linear"},
        ),
        (
            Schedule("wsd", decay_ratio=0.25, decay="1-sqrt"),
            "warmup_stable_decay",
            {"num_decay_steps": 5, "decay_type": "1-sqrt"},
        ),
        (
            Schedule("wsd", decay_steps=5, decay="cosine", min_ratio=0.1, warmup_from=0.1),
            "warmup_stable_decay",
            {"num_decay_steps": 5, "decay_type": "cosine", "min_lr_ratio": 0.1},
        ),
    ],
    ids=str,
)
def test_schedules_equal_those_of_transformers(
    schedule: Schedule, name: str, options: dict[str, Any], warmup: int
) -> None:
    found = ours(replace(schedule, warmup_steps=warmup))
    assert found == pytest.approx(theirs(None, name, warmup, **options), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize("start", [0.3, 0.1])
@pytest.mark.parametrize("given", [{}, {"div_factor": 10.0, "final_div_factor": 100.0}])
def test_one_cycle_is_that_of_torch(start: float, given: dict[str, float]) -> None:
    expected = theirs(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK, total_steps=STEPS + 1, pct_start=start, cycle_momentum=False, **given
        ),
        "",
        0,
    )
    options = {"warmup_from": 0.1, "min_ratio": 1e-3} if given else {}
    rate = learning_rate(Schedule("one_cycle", warmup_ratio=start, **options), PEAK, STEPS + 1)
    assert [rate(step) for step in range(STEPS)] == pytest.approx(expected, rel=1e-9)


def test_one_cycle_warms_up_over_the_first_three_tenths() -> None:
    assert ours(Schedule("one_cycle")) == ours(Schedule("one_cycle", warmup_ratio=0.3))
    assert ours(Schedule("one_cycle")) == pytest.approx(ours(Schedule("one_cycle", warmup_steps=6)))
    assert ours(Schedule("one_cycle", warmup_steps=0))[0] == PEAK


def test_warmup_begins_above_zero() -> None:
    rates = ours(Schedule("constant", warmup_steps=4, warmup_from=0.2))
    assert rates[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("total", [1, 2, 3])
def test_the_shortest_runs_have_a_rate_between_zero_and_the_peak(kind: Any, total: int) -> None:
    for warmup in (None, 0, 1, 5):
        extra = {"decay_steps": 2} if kind == "wsd" else {}
        rate = learning_rate(Schedule(kind, warmup_steps=warmup, **extra), PEAK, total)
        assert all(0 <= rate(step) <= PEAK for step in range(total))


def test_warmup_as_a_ratio_is_rounded_up() -> None:
    assert warmup_steps(Schedule(warmup_ratio=0.1), 25) == 3
    assert warmup_steps(Schedule(warmup_ratio=0.0), 25) == 0
    assert warmup_steps(Schedule(), 25) == 0


def test_warmup_longer_than_the_run_never_passes_the_peak() -> None:
    rates = [learning_rate(Schedule(warmup_steps=50), 1.0, 20)(step) for step in range(20)]
    assert rates == [step / 50 for step in range(20)]


@pytest.mark.parametrize("key", KINDS_OF)
@pytest.mark.parametrize("kind", KINDS)
def test_a_key_that_a_kind_does_not_read_is_refused(key: str, kind: Any) -> None:
    schedule = Schedule(kind, **{key: "cosine" if key == "decay" else 1})
    wheres = [problem.where for problem in schedule_problems(schedule)]
    assert (f"schedule.{key}" in wheres) == (kind not in KINDS_OF[key])


def test_rivals_and_a_fall_without_length_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        compose_recipe(["schedule.kind=wsd", "schedule.warmup_steps=3", "schedule.warmup_ratio=0.1"])
    assert [problem.where for problem in caught.value.problems] == [
        "schedule.warmup_steps=3",
        "schedule.kind=wsd",
    ]
