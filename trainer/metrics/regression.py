"""How well numbers are predicted: squared error, and correlation by value and by rank."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating[Any]]


def regression_metrics(predicted: Numbers, target: Numbers) -> dict[str, float]:
    """Return `mse`, `pearson` and `spearman` of two arrays [samples]."""
    mine, theirs = predicted.astype(np.float64), target.astype(np.float64)
    return {
        "mse": float(((mine - theirs) ** 2).mean()),
        "pearson": pearson(mine, theirs),
        "spearman": pearson(ranks(mine), ranks(theirs)),
    }


def pearson(a: Numbers, b: Numbers) -> float:
    """Return the covariance divided by both standard deviations; 0 if either array is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a * a).sum()) * np.sqrt((b * b).sum()))
    return float((a * b).sum()) / norm if norm else 0.0


def ranks(values: Numbers) -> Numbers:
    """Return the rank of each value from 1. Equal values share the mean of their ranks."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum()
    return (last - (counts - 1) / 2)[inverse]
