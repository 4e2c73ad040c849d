"""These tests train on the GPUs that torch sees, one rank each; elsewhere they are skipped by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
MOST_RANKS = 4


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    reason = f"torch {torch.__version__} sees no CUDA device on this machine"
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def num_gpus() -> int:
    return min(torch.cuda.device_count(), MOST_RANKS)
