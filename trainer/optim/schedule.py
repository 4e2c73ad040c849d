"""The learning rate as a pure function of the optimizer step.

The formulas are those of `transformers.optimization` (get_linear_schedule_with_warmup and its siblings), with
two additions for all of them: a warm-up may begin above zero, and a decay may end above zero. `one_cycle` is
`torch.optim.lr_scheduler.OneCycleLR` (Smith and Topin 2017, arXiv:1708.07120) without its momentum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from galley.schema import Recipe, Schedule

LearningRate = Callable[[int], float]
Shape = Callable[[float], float]
"""Progress after the warm-up (0 to 1) -> share of the peak above the lowest rate."""

ONE_CYCLE_WARMUP = 0.3
ONE_CYCLE_FROM = 1 / 25
ONE_CYCLE_MIN = ONE_CYCLE_FROM / 1e4
INVERSE_SQRT_TIMESCALE = 10_000


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _one_minus_sqrt(progress: float) -> float:
    return 1.0 - math.sqrt(progress)


def _constant(progress: float) -> float:
    return 1.0


SHAPES: dict[str, Shape] = {
    "linear": _linear,
    "cosine": _cosine,
    "1-sqrt": _one_minus_sqrt,
    "constant": _constant,
}


def length_warnings(recipe: Recipe, total_steps: int) -> Iterator[str]:
    """Yield a warning for each part of the run's length or its schedule that is never reached.

    `total_steps` is 0 for an evaluation.
    """
    train, warmup = recipe.train, warmup_steps(recipe.schedule, total_steps)
    if train.max_steps is not None and 0 < total_steps < train.max_steps:
        yield (
            f"train.max_steps={train.max_steps} is never reached: train.epochs={train.epochs:g} of the data "
            f"are {total_steps} steps; raise train.epochs to train longer"
        )
    if 0 < total_steps <= warmup:
        yield (
            f"the warm-up takes {warmup} steps and the training {total_steps}: the learning rate never "
            "reaches optim.lr; shorten schedule.warmup_steps or schedule.warmup_ratio"
        )


def warmup_steps(schedule: Schedule, total_steps: int) -> int:
    """Return the steps of warm-up. A ratio is rounded up, as in Transformers."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return math.ceil((schedule.warmup_ratio or 0.0) * total_steps)


def learning_rate(schedule: Schedule, peak: float, total_steps: int) -> LearningRate:
    """Return `lr(step)`, the rate that optimizer step `step` uses, counted from 0.

    lr(s) = peak · (from + (1 − from) · s / warmup)                               for s < warmup
    lr(s) = peak · (min + (1 − min) · shape((s − warmup) / (total − warmup)))     after it
    """
    if schedule.kind == "one_cycle":
        return _one_cycle(schedule, peak, total_steps)
    warmup = warmup_steps(schedule, total_steps)
    first = schedule.warmup_from or 0.0
    fall = _fall(schedule, warmup, total_steps)

    def lr(step: int) -> float:
        if step < warmup:
            return peak * (first + (1.0 - first) * step / warmup)
        return peak * fall(step)

    return lr


def _fall(schedule: Schedule, warmup: int, total_steps: int) -> LearningRate:
    """Return the function from a step after the warm-up to the share of the peak."""
    if schedule.kind == "inverse_sqrt":
        timescale = schedule.timescale or warmup or INVERSE_SQRT_TIMESCALE
        return lambda step: 1.0 / math.sqrt((step + timescale - warmup) / timescale)
    lowest, begin, shape = schedule.min_ratio or 0.0, warmup, _shape(schedule)
    if schedule.kind == "wsd":
        begin = max(warmup, total_steps - _decay_steps(schedule, total_steps))
    length = max(1, total_steps - begin)

    def fall(step: int) -> float:
        progress = min(1.0, max(0, step - begin) / length)
        return lowest + (1.0 - lowest) * shape(progress)

    return fall


def _decay_steps(schedule: Schedule, total_steps: int) -> int:
    """Return the steps of the decay of `wsd`. A ratio is rounded up, like that of the warm-up."""
    if schedule.decay_steps is not None:
        return schedule.decay_steps
    return math.ceil((schedule.decay_ratio or 0.0) * total_steps)


def _shape(schedule: Schedule) -> Shape:
    """Return the shape of the decay: progress after the warm-up -> share of the peak above the minimum."""
    if schedule.kind == "polynomial":
        power = schedule.power or 1.0
        return lambda progress: (1.0 - progress) ** power
    if schedule.kind == "cosine_restarts":
        cycles = schedule.cycles or 1
        return lambda progress: 0.0 if progress >= 1.0 else _cosine(cycles * progress % 1.0)
    return SHAPES[(schedule.decay or "linear") if schedule.kind == "wsd" else schedule.kind]


def _one_cycle(schedule: Schedule, peak: float, total_steps: int) -> LearningRate:
    """Rise along half a cosine to the peak, then fall along half a cosine.

    As in torch, the last step has the lowest rate.
    """
    first = ONE_CYCLE_FROM if schedule.warmup_from is None else schedule.warmup_from
    lowest = ONE_CYCLE_MIN if schedule.min_ratio is None else schedule.min_ratio
    warmup = float(schedule.warmup_steps or 0)
    if schedule.warmup_steps is None:
        ratio = ONE_CYCLE_WARMUP if schedule.warmup_ratio is None else schedule.warmup_ratio
        warmup = ratio * total_steps
    top, last = warmup - 1.0, total_steps - 1.0

    def lr(step: int) -> float:
        if step <= top:
            return peak * (1.0 + (first - 1.0) * _cosine(step / top if top > 0 else 1.0))
        progress = min(1.0, (step - max(top, 0.0)) / max(1.0, last - max(top, 0.0)))
        return peak * (lowest + (1.0 - lowest) * _cosine(progress))

    return lr
