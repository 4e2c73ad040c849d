"""Throughput of training, without evaluation, saving and the first steps; and of evaluation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

from trainer.hosts.ranks import Ranks

# The first steps allocate memory and build DDP's buckets: they are slower than the rest of the run.
WARMUP_STEPS = 3


@dataclass(frozen=True)
class Rates:
    """Rates summed over all ranks."""

    samples_per_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class EvalSpeed:
    """Speed of one evaluation.

    Attributes:
        rates: summed over all ranks.
        latency_s: seconds per batch, the median of the slowest rank.
    """

    rates: Rates
    latency_s: float


class EvalMeter:
    """Measures the batches of one evaluation on this rank, from collation to predictions."""

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._samples: list[int] = []
        self._tokens: list[int] = []

    def count(self, seconds: float, samples: int, tokens: int) -> None:
        self._seconds.append(seconds)
        self._samples.append(samples)
        self._tokens.append(tokens)

    def speed(self, ranks: Ranks) -> EvalSpeed:
        """Return the speed of the evaluation. A collective.

        The first batch, which allocates memory, is left out if there are others. A rank has no batch if
        there are fewer batches than ranks.
        """
        first = 1 if len(self._seconds) > 1 else 0
        seconds = max(sum(self._seconds[first:]), 1e-9)
        rank_rates = [sum(self._samples[first:]) / seconds, sum(self._tokens[first:]) / seconds]
        rates = Rates(*ranks.sum_floats(rank_rates))
        latency_s = median(self._seconds[first:]) if self._seconds else 0.0
        return EvalSpeed(rates, ranks.max_floats([latency_s])[0])


class Meter:
    """Measures training while it runs. `cut` ends a window of time and begins the next."""

    def __init__(self) -> None:
        self.train_s = 0.0
        self._running_since: float | None = None
        self._steps = self._samples = self._tokens = 0
        self._window = (0.0, 0, 0)
        self._warm = (0.0, 0, 0)

    def resume(self) -> None:
        self._running_since = time.perf_counter()

    def pause(self) -> None:
        self._settle()
        self._running_since = None

    def count(self, samples: int, tokens: int) -> None:
        """Count one finished optimizer step."""
        self._steps += 1
        self._samples += samples
        self._tokens += tokens
        if self._steps == WARMUP_STEPS:
            self._settle()
            self._warm = self._now()

    def cut(self) -> Rates:
        """Return the rates since the last cut."""
        self._settle()
        rates = self._rates(self._window)
        self._window = self._now()
        return rates

    def steady(self) -> Rates | None:
        """Return the rates of all steps after the warm-up; None if there was no step."""
        self._settle()
        if self._steps == 0:
            return None
        return self._rates(self._warm if self._steps > WARMUP_STEPS else (0.0, 0, 0))

    def _settle(self) -> None:
        """Add the time since the last call to the training time."""
        if self._running_since is not None:
            now = time.perf_counter()
            self.train_s += now - self._running_since
            self._running_since = now

    def _now(self) -> tuple[float, int, int]:
        return self.train_s, self._samples, self._tokens

    def _rates(self, since: tuple[float, int, int]) -> Rates:
        seconds, samples, tokens = since
        elapsed = max(self.train_s - seconds, 1e-9)
        return Rates((self._samples - samples) / elapsed, (self._tokens - tokens) / elapsed)
