"""Energy and emissions of a run's machines, as CodeCarbon reports them.

CodeCarbon measures power if the processor or the GPU reports it, and else computes it from rated power and
load. Emissions follow from the energy mix of the country in the recipe; without a country none are reported.
"""

from __future__ import annotations

import math
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from galley.errors import ConfigError, Problem
from galley.schema import Train
from trainer.hosts.ranks import Ranks

METRIC = "energy_kwh"
EMISSIONS_METRIC = "co2_eq_kg"
_PERIOD_S = 5.0  # between two looks at the power
_NO_COUNTRY = "USA"  # CodeCarbon wants one; what follows from it is not reported


class EnergyMeter:
    """Measures the whole machine from construction to `stop`, in a thread of each machine's first rank."""

    def __init__(self, ranks: Ranks, train: Train, folder: Path) -> None:
        """Start measuring. Raises `ConfigError` without CodeCarbon, or if it does not know the country or
        region.
        """
        self._ranks = ranks
        self._wanted = train.energy
        self._placed = train.country is not None
        self._tracker: Any = None
        if train.energy and ranks.facts.is_local_main:
            self._tracker = _start(
                train, folder, "emissions.csv" if ranks.is_main else f"emissions-rank-{ranks.rank}.csv"
            )

    def stop(self) -> dict[str, float]:
        """Return `energy_kwh`, and with a country `co2_eq_kg`, summed over all machines. A collective.

        Empty if the recipe did not ask for it.
        """
        if not self._wanted:
            return {}
        measured = [0.0, 0.0]
        if self._tracker is not None:
            self._tracker.stop()
            data = self._tracker.final_emissions_data
            # CodeCarbon logs its own errors and returns None: report NaN, never an invented number.
            measured = (
                [math.nan] * 2 if data is None else [float(data.energy_consumed), float(data.emissions)]
            )
        energy, emissions = self._ranks.sum_floats(measured)
        return {METRIC: energy, **({EMISSIONS_METRIC: emissions} if self._placed else {})}


def _start(train: Train, folder: Path, file: str) -> Any:
    """Start and return CodeCarbon's offline tracker, which asks no server for the machine's location."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        hint = "pip install 'galley[energy]'"
        raise ConfigError(Problem("train.energy", "CodeCarbon is not installed", hint)) from error
    _check_place(train)
    tracker = OfflineEmissionsTracker(
        country_iso_code=train.country or _NO_COUNTRY,
        region=None if train.region is None else train.region.lower(),
        measure_power_secs=_PERIOD_S,
        save_to_file=train.country is not None,
        output_dir=str(folder),
        output_file=file,
        log_level="error",
        allow_multiple_runs=True,
        tracking_mode="machine",
    )
    tracker.start()
    return tracker


def _check_place(train: Train) -> None:
    """Raise `ConfigError` for an unknown country or region.

    CodeCarbon itself would only log it, and continue with the energy mix of another place.
    """
    if train.country is not None:
        _check_known("country", train.country, list(_energy_data().get_global_energy_mix_data()))
    if train.region is not None and train.country is not None:
        _check_known("region", train.region.lower(), _regions(train.country))


def _energy_data() -> Any:
    """Return CodeCarbon's tables. They have no type annotations."""
    from codecarbon import input as tables

    untyped: Any = tables
    return untyped.DataSource()


def _regions(country: str) -> list[str]:
    """Return the regions of a country that CodeCarbon knows. The USA has a table of its own."""
    source = _energy_data()
    known: Any = (
        source.get_country_emissions_data("usa")
        if country == "USA"
        else source.get_country_energy_mix_data(country.lower())
    )
    return [str(name).lower() for name in known if not str(name).startswith("_")]


def _check_known(key: str, value: str, known: list[str]) -> None:
    """Raise `ConfigError`, with similar names, if `value` is not known."""
    if value in known:
        return
    near = get_close_matches(value, known, n=3, cutoff=0.5) or known[:5]
    hint = f"did you mean {', '.join(near)}?"
    raise ConfigError(Problem(f"train.{key}={value}", f"CodeCarbon knows no such {key}", hint))
