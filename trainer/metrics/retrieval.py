"""How well texts find their partners by the similarity of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 1024


def retrieval_metrics(queries: NDArray[Any], partners: NDArray[Any]) -> dict[str, float]:
    """Return the metrics of two arrays [samples, width]; row i of one belongs to row i of the other.

    `accuracy`: share of queries whose partner is the nearest of all; `mrr`: mean of 1 / rank of the
    partner. Other partners that are as near as the right one are ranked before it.
    """
    ranks = np.concatenate(
        [
            _ranks(queries[first : first + ROWS_AT_ONCE], partners, first)
            for first in range(0, len(queries), ROWS_AT_ONCE)
        ]
    )
    return {"accuracy": float((ranks == 1).mean()), "mrr": float((1 / ranks).mean())}


def _ranks(queries: NDArray[Any], partners: NDArray[Any], first: int) -> NDArray[np.int64]:
    """Return the rank of each query's partner, from 1. `first` is the row of the first query."""
    scores = queries.astype(np.float64) @ partners.T.astype(np.float64)
    partner_scores = scores[np.arange(len(queries)), np.arange(first, first + len(queries))]
    by_query: NDArray[np.int64] = (scores >= partner_scores[:, None]).sum(axis=1)
    return by_query
