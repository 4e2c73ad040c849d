"""Twenty real trials on Optuna, of a step each; `make acceptance` runs them in full, on Ray Tune too."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.warm.twenty import check, sweep

SHORT = ("train.max_steps=1", "data.max_samples=32", "eval.every_steps=null", "data.max_length=32")


@pytest.mark.timeout(900)
def test_twenty_short_trials_of_quickstart_end_with_the_front_of_brute_force(tmp_path: Path) -> None:
    check(sweep(tmp_path / "study", "optuna", SHORT, 800))
