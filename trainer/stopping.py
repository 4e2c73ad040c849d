"""Early stopping: when the watched metric has not improved for `patience` evaluations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from galley.errors import ConfigError, Problem, valid_values
from galley.rules import watched
from galley.schema import Recipe


@dataclass
class EarlyStopping:
    """Watches `metric`, which `mode` wants to grow or to fall.

    `best` is the best value so far, `misses` the evaluations since it.
    """

    metric: str
    mode: Literal["max", "min"]
    patience: int | None
    best: float | None = None
    misses: int = 0

    @classmethod
    def of(cls, recipe: Recipe) -> EarlyStopping:
        return cls(*watched(recipe), recipe.eval.patience)

    def update(self, metrics: dict[str, float]) -> bool:
        """Whether the run should end. A value that is not a number is never an improvement."""
        if self.metric not in metrics:
            hint = valid_values(self.metric, metrics)
            raise ConfigError(Problem(f"eval.metric={self.metric}", "is not measured", hint))
        value = metrics[self.metric]
        sign = 1.0 if self.mode == "max" else -1.0
        if self.best is None or sign * value > sign * self.best:
            self.best, self.misses = value, 0
        else:
            self.misses += 1
        return self.patience is not None and self.misses >= self.patience
