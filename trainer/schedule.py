"""The learning rate as a pure function of the optimizer step.

Formulas as in `transformers.optimization` (get_linear_schedule_with_warmup and its siblings):
warm-up rises linearly from 0, then `linear` falls to 0 at the last step, `cosine` follows half a
cosine to 0, `constant` stays.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from galley.schema import Schedule

LearningRate = Callable[[int], float]


def _linear(progress: float) -> float:
    return 1.0 - progress


def _cosine(progress: float) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _constant(progress: float) -> float:
    return 1.0


DECAYS: dict[str, Callable[[float], float]] = {"linear": _linear, "cosine": _cosine, "constant": _constant}


def warmup_steps(schedule: Schedule, total_steps: int) -> int:
    """Steps of warm-up; a ratio is rounded up, as in Transformers."""
    if schedule.warmup_steps is not None:
        return schedule.warmup_steps
    return math.ceil((schedule.warmup_ratio or 0.0) * total_steps)


def learning_rate(schedule: Schedule, peak: float, total_steps: int) -> LearningRate:
    """`lr(step)`, step counted from 0: what optimizer step `step` uses.

    lr(s) = peak · s / warmup                            for s < warmup
    lr(s) = peak · decay((s − warmup) / (total − warmup))  after it
    """
    warmup = warmup_steps(schedule, total_steps)
    decay = DECAYS[schedule.kind]

    def lr(step: int) -> float:
        if step < warmup:
            return peak * step / warmup
        return peak * decay(min(1.0, (step - warmup) / max(1, total_steps - warmup)))

    return lr
