"""The mean loss of the steps between two rows of the log."""

from __future__ import annotations

import logging

import torch

from trainer.hosts.ranks import Ranks

log = logging.getLogger("galley")


class Losses:
    """Sums the losses on the device, so that nothing waits for the device between two rows."""

    def __init__(self, device: torch.device) -> None:
        self.steps = 0
        self._sum = torch.zeros((), device=device)
        self._measured = torch.zeros((), device=device)

    def add(self, loss: torch.Tensor, weight: torch.Tensor) -> None:
        """Add this rank's part of a step's loss.

        `weight` is the step's divisor; 0 if nothing was measured.
        """
        self.steps += 1
        self._sum += loss
        self._measured += weight > 0

    def mean(self, ranks: Ranks, step: int) -> float | None:
        """Return the mean over the steps that measured something, None if none did, and begin anew. A
        collective.
        """
        total = ranks.sum_floats([float(self._sum)])[0]
        measured = round(float(self._measured))
        if measured < self.steps:
            what = "%d of the last %d steps before step %d had nothing to measure: their rows have no target"
            log.warning(what, self.steps - measured, self.steps, step)
        self.steps = 0
        self._sum.zero_()
        self._measured.zero_()
        return total / measured if measured else None


def divisor(weight: torch.Tensor) -> torch.Tensor:
    """Return what a step's loss is divided by: 1 if there is nothing to measure, so that the loss stays 0."""
    return torch.where(weight > 0, weight, torch.ones_like(weight))
