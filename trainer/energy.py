"""What the machines of a run draw, as CodeCarbon tells it: measured where the processor or the GPU says
it, elsewhere computed from its rated power and its load.
"""

from __future__ import annotations

import math
from typing import Any

from galley.errors import ConfigError, Problem
from trainer.ranks import Ranks

METRIC = "energy_kwh"
_PERIOD_S = 5.0  # between two looks at the power


class EnergyMeter:
    """Runs from its making to `stop`, in a thread of each machine's first rank; counts the whole machine."""

    def __init__(self, ranks: Ranks, wanted: bool) -> None:
        """Raises `ConfigError` where it is wanted and there is no CodeCarbon."""
        self._ranks = ranks
        self._wanted = wanted
        self._tracker: Any = _start() if wanted and ranks.facts.is_local_main else None

    def stop(self) -> dict[str, float]:
        """`energy_kwh` of all machines together; empty where it was not wanted. A collective."""
        if not self._wanted:
            return {}
        own = 0.0
        if self._tracker is not None:
            self._tracker.stop()
            data = self._tracker.final_emissions_data
            # CodeCarbon swallows its own errors; a metric that is no number is not passed off as one.
            own = math.nan if data is None else float(data.energy_consumed)
        return {METRIC: self._ranks.sum_floats([own])[0]}


def _start() -> Any:
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        hint = "pip install 'galley[energy]'"
        raise ConfigError(Problem("train.energy", "CodeCarbon is not installed", hint)) from error
    tracker = OfflineEmissionsTracker(
        country_iso_code="USA",  # only its emissions depend on it, which are not used
        measure_power_secs=_PERIOD_S,
        save_to_file=False,
        log_level="error",
        allow_multiple_runs=True,
        tracking_mode="machine",
    )
    tracker.start()
    return tracker
