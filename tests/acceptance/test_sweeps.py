"""Twenty trials of `quickstart` as it is, two ranks each, on Optuna and on Ray Tune.

Not part of `make test`: some twenty minutes a backend on two idle cores.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.warm.twenty import check, sweep


@pytest.mark.timeout(9000)
@pytest.mark.parametrize("backend", ["optuna", "ray"])
def test_twenty_trials_of_quickstart_end_with_the_front_of_brute_force(backend: str, tmp_path: Path) -> None:
    check(sweep(tmp_path / "study", backend, (), 8900))
