"""How well texts find their partners by the similarity of embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_AT_ONCE = 1024


def retrieval_metrics(queries: NDArray[Any], partners: NDArray[Any]) -> dict[str, float]:
    """Two arrays [samples, width]; row i of one belongs to row i of the other.

    `accuracy`: share of queries whose own partner is the nearest of all; `mrr`: mean of 1 / rank of the
    partner. Partners that are as near as the right one come before it.
    """
    ranks = np.concatenate(
        [
            _ranks(queries[first : first + ROWS_AT_ONCE], partners, first)
            for first in range(0, len(queries), ROWS_AT_ONCE)
        ]
    )
    return {"accuracy": float((ranks == 1).mean()), "mrr": float((1 / ranks).mean())}


def _ranks(queries: NDArray[Any], partners: NDArray[Any], first: int) -> NDArray[np.int64]:
    scores = queries.astype(np.float64) @ partners.T.astype(np.float64)
    own = scores[np.arange(len(queries)), np.arange(first, first + len(queries))]
    found: NDArray[np.int64] = (scores >= own[:, None]).sum(axis=1)
    return found
