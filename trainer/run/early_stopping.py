"""Early stopping: the run ends if the watched metric has not improved for `patience` evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from galley.errors import ConfigError, Problem, valid_values
from galley.metrics import Direction, Metric, is_better, unknown_direction, watched
from galley.schema import Recipe


@dataclass
class EarlyStopping:
    """Watches one metric and counts the evaluations since its best value.

    Attributes:
        direction: which values of `metric` are better; None stops nothing.
        best: the best value so far.
        misses: the number of evaluations since the best one.
    """

    metric: str
    direction: Direction | None
    patience: int | None
    best: float | None = None
    misses: int = 0

    @classmethod
    def of(cls, recipe: Recipe, metrics: Mapping[str, Metric]) -> EarlyStopping:
        """Return the stopping rule of a recipe. `metrics` are those of the task.

        Raises `ConfigError` if the metric that may end the run has no direction.
        """
        name, direction = watched(recipe, metrics)
        if direction is None and recipe.eval.patience is not None:
            raise ConfigError(unknown_direction("eval.mode", name, "eval.mode=max or min"))
        return cls(name, direction, recipe.eval.patience)

    def resume(self, metric: str, best: float | None, misses: int) -> None:
        """Continue from a checkpoint's values, unless its run watched another metric."""
        if metric == self.metric:
            self.best, self.misses = best, misses

    def update(self, metrics: Mapping[str, float]) -> bool:
        """Count an evaluation; return whether the run should end.

        A value that is NaN is never an improvement.
        """
        value = measured(f"eval.metric={self.metric}", self.metric, metrics)
        if self.direction is None:
            return False
        if is_better(value, self.best, self.direction):
            self.best, self.misses = value, 0
        else:
            self.misses += 1
        return self.patience is not None and self.misses >= self.patience


def measured(where: str, metric: str, metrics: Mapping[str, float]) -> float:
    """Return the metric's value. Raises `ConfigError` if the evaluation does not report it."""
    if metric not in metrics:
        raise ConfigError(Problem(where, "is not measured", valid_values(metric, metrics)))
    return metrics[metric]
