"""The mean loss of the steps between two rows of the log."""

from __future__ import annotations

import logging

import torch

from trainer.hosts.ranks import Ranks

log = logging.getLogger("galley")


class Losses:
    """Sums on the device, so that nothing waits for it between the rows."""

    def __init__(self, device: torch.device) -> None:
        self.steps = 0
        self._sum = torch.zeros((), device=device)
        self._measured = torch.zeros((), device=device)

    def add(self, loss: torch.Tensor, weight: torch.Tensor) -> None:
        """This rank's part of a step's loss, and what the step's loss is divided by; 0: nothing."""
        self.steps += 1
        self._sum += loss
        self._measured += weight > 0

    def mean(self, ranks: Ranks, step: int) -> float | None:
        """Over the steps that had something to measure; null where none had. Begins anew. A collective."""
        total, measured = ranks.sum_floats([float(self._sum)])[0], round(float(self._measured))
        if measured < self.steps:
            what = "%d of the last %d steps before step %d had nothing to measure: their rows have no target"
            log.warning(what, self.steps - measured, self.steps, step)
        self.steps = 0
        self._sum.zero_()
        self._measured.zero_()
        return total / measured if measured else None


def divisor(weight: torch.Tensor) -> torch.Tensor:
    """What a step's loss is divided by: 1 where there is nothing to measure, so that it stays 0."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))
