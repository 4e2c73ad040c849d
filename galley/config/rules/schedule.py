"""Which keys of `schedule` belong together."""

from __future__ import annotations

from collections.abc import Iterator

from galley.errors import Problem
from galley.schema import Schedule

_FALLING = ("linear", "cosine", "cosine_restarts", "polynomial", "wsd", "one_cycle")
KINDS_OF: dict[str, tuple[str, ...]] = {
    "min_ratio": _FALLING,
    "power": ("polynomial",),
    "cycles": ("cosine_restarts",),
    "decay_steps": ("wsd",),
    "decay_ratio": ("wsd",),
    "decay": ("wsd",),
    "timescale": ("inverse_sqrt",),
}
"""A key -> the kinds of schedule that read it; all kinds read the others."""
RIVALS = (("warmup_steps", "warmup_ratio"), ("decay_steps", "decay_ratio"))


def schedule_problems(schedule: Schedule) -> Iterator[Problem]:
    """Keys that contradict each other, that this kind does not read, or that it needs."""
    for first, second in RIVALS:
        if getattr(schedule, first) is not None and getattr(schedule, second) is not None:
            what = f"{first} and {second} are both set"
            yield Problem(f"schedule.{first}", what, "keep one of them: null for the other")
    for key, kinds in KINDS_OF.items():
        if getattr(schedule, key) is not None and schedule.kind not in kinds:
            what = f"schedule.kind={schedule.kind} has no {key}"
            yield Problem(f"schedule.{key}", what, f"null, or schedule.kind={'|'.join(kinds)}")
    if schedule.kind == "wsd" and schedule.decay_steps is None and schedule.decay_ratio is None:
        hint = "schedule.decay_ratio=0.1, or schedule.decay_steps=N"
        yield Problem("schedule.kind", "the length of the fall of wsd is missing", hint)
