"""What is known of a metric: which way is better, its range and its unit; and those that every run reports.

Objectives, bounds, early stopping, best checkpoints, pruning and reports read them. Those of a task are in
its description (`galley.tasks`); a direction that nobody has stated is never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from galley.errors import Problem
from galley.schema import Recipe

Direction = Literal["maximize", "minimize"]
# What a user may write -> what it means.
DIRECTIONS: dict[str, Direction] = {
    "max": "maximize", "maximize": "maximize", "min": "minimize", "minimize": "minimize"
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """`low` and `high` are the least and the greatest possible value; `unit` is empty for a plain number."""

    direction: Direction
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    @property
    def best(self) -> float:
        """The value that no other is better than; infinite if there is none."""
        return self.high if self.direction == "maximize" else self.low


SHARE = Metric("maximize", 0.0, 1.0)
PERCENT = Metric("maximize", 0.0, 100.0, "%")
CORRELATION = Metric("maximize", -1.0, 1.0)
LOSS = Metric("minimize", 0.0, unit="nats")
ERROR = Metric("minimize", 0.0)

# What every run reports, whatever its task.
RUN_METRICS: dict[str, Metric] = {
    "samples_per_s": Metric("maximize", 0.0, unit="samples/s"),
    "tokens_per_s": Metric("maximize", 0.0, unit="tokens/s"),
    "latency_s": Metric("minimize", 0.0, unit="s"),
    "wall_s": Metric("minimize", 0.0, unit="s"),
    "train_s": Metric("minimize", 0.0, unit="s"),
    "peak_memory_gib": Metric("minimize", 0.0, unit="GiB"),
    "cost": Metric("minimize", 0.0),
    "energy_kwh": Metric("minimize", 0.0, unit="kWh"),
    "co2_eq_kg": Metric("minimize", 0.0, unit="kg"),
    "train/loss": Metric("minimize"),
}


def watched(recipe: Recipe, metrics: Mapping[str, Metric]) -> tuple[str, Direction | None]:
    """The metric that early stopping watches, and its direction; None if nobody has stated it.

    `metrics`: of the recipe's task (`task_metrics`).
    """
    kept = kept_best(recipe, metrics)
    name = recipe.eval.metric or (kept[0] if kept else next(iter(metrics)))
    if recipe.eval.mode is not None:
        return name, DIRECTIONS[recipe.eval.mode]
    if kept is not None and kept[0] == name:
        return kept
    return name, metrics[name].direction if name in metrics else None


def kept_best(recipe: Recipe, metrics: Mapping[str, Metric]) -> tuple[str, Direction | None] | None:
    """What `checkpoint.keep_best` names: the metric, and its direction or None; None if it is null."""
    if recipe.checkpoint.keep_best is None:
        return None
    name, direction = split_direction(recipe.checkpoint.keep_best)
    if direction is not None:
        return name, DIRECTIONS.get(direction)
    return name, metrics[name].direction if name in metrics else None


def split_direction(words: str) -> tuple[str, str | None]:
    """`METRIC:max` as the metric and the word behind the colon, which may be no direction."""
    name, colon, direction = words.rpartition(":")
    return (name, direction) if colon else (words, None)


def direction_warnings(recipe: Recipe, known: Mapping[str, Metric]) -> list[str]:
    """What `eval.mode` and `checkpoint.keep_best` say against the metrics of the task, which they override.

    `known`: of the recipe's task (`task_metrics`).
    """
    found = list[str | None]()
    if recipe.eval.mode is not None:
        name, direction = watched(recipe, known)
        found.append(contradiction(f"eval.mode={recipe.eval.mode}", name, direction, known))
    if recipe.checkpoint.keep_best is not None:
        name, word = split_direction(recipe.checkpoint.keep_best)
        where = f"checkpoint.keep_best={recipe.checkpoint.keep_best}"
        found.append(contradiction(where, name, DIRECTIONS.get(word or ""), known))
    return [warning for warning in found if warning is not None]


def contradiction(
    where: str, metric: str, direction: Direction | None, known: Mapping[str, Metric]
) -> str | None:
    """A warning if the stated direction of a metric is not that of its table; None if nothing is stated."""
    if direction is None or metric not in known or known[metric].direction == direction:
        return None
    usual = known[metric].direction
    better = "greater" if usual == "maximize" else "smaller"
    return f"{where} is to {direction} '{metric}', of which the {better} is better ({usual})"


def is_better(value: float, best: float | None, direction: Direction) -> bool:
    """Whether `value` improves on the best one so far; a value that is not a number never does."""
    if math.isnan(value) or best is None:
        return not math.isnan(value)
    return value > best if direction == "maximize" else value < best


def describe_range(metric: Metric) -> str:
    """`0 to 100 %`, `at least 0 s`."""
    if math.isinf(metric.high):
        text = "any number" if math.isinf(metric.low) else f"at least {metric.low:g}"
    else:
        text = f"{metric.low:g} to {metric.high:g}"
    return f"{text} {metric.unit}".rstrip()


def unknown_direction(where: str, metric: str, hint: str) -> Problem:
    """Of a metric of the user's own that needs a direction; `hint`: how to state one at this place."""
    own = f"reports = {{'{metric.removeprefix('eval/')}': 'min'}} in the class of the task"
    return Problem(where, f"does not say which way '{metric}' is better", f"{hint}; or {own}")
