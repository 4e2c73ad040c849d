"""Error and correlation against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.metrics.regression import ranks, regression_metrics


def test_by_hand() -> None:
    found = regression_metrics(np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 2.0]))
    # deviations (-4/3, -1/3, 5/3) and (-1, 1, 0): covariance 1, norms √(42/9) and √2
    assert found["mse"] == pytest.approx(5 / 3)
    assert found["pearson"] == pytest.approx(1 / np.sqrt(42 / 9 * 2))
    assert found["spearman"] == pytest.approx(0.5)  # 1 - 6·(0+1+1)/(3·8)


def test_equal_values_share_their_ranks() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


def test_what_does_not_vary_correlates_with_nothing() -> None:
    found = regression_metrics(np.zeros(4), np.array([1.0, 2.0, 3.0, 4.0]))
    assert (found["pearson"], found["spearman"]) == (0.0, 0.0)
    assert found["mse"] == pytest.approx(7.5)
