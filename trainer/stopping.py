"""Early stopping: when the watched metric has not improved for `patience` evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from galley.errors import ConfigError, Problem, valid_values
from galley.schema import Eval


@dataclass
class EarlyStopping:
    """`best` is the best value so far, `misses` the evaluations since it."""

    settings: Eval
    best: float | None = None
    misses: int = 0

    def update(self, metrics: dict[str, float]) -> bool:
        """Whether the run should end. A value that is not a number is never an improvement."""
        if self.settings.metric not in metrics:
            hint = valid_values(self.settings.metric, metrics)
            raise ConfigError(Problem(f"eval.metric={self.settings.metric}", "is not measured", hint))
        value = metrics[self.settings.metric]
        sign = 1.0 if self.settings.mode == "max" else -1.0
        if self.best is None or sign * value > sign * self.best:
            self.best, self.misses = value, 0
        else:
            self.misses += 1
        return self.settings.patience is not None and self.misses >= self.settings.patience
