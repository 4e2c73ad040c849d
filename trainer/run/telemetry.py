"""Telemetry of a living run: the main rank writes progress.json and metrics.jsonl."""

from __future__ import annotations

import logging
import time

from galley.json_numbers import row_to_json
from galley.rundir import RunFolder, write_atomic
from galley.spec import Progress
from galley.trackers import Tracking

log = logging.getLogger("galley")

PROGRESS_PERIOD_S = 0.5

Row = dict[str, float | int | None]


class Telemetry:
    """Writes progress and metrics on the main rank, nothing on the others.

    Attributes:
        phase: as in `galley.spec.Progress`; error reports name it.
        last: the newest value of every metric that was ever written to the folder; nulls are left out.
        tracking: the experiment trackers, which get every row too.
    """

    def __init__(self, folder: RunFolder, attempt: int, is_main: bool) -> None:
        self._folder = folder
        self._attempt = attempt
        self._is_main = is_main
        self._max_steps = 0
        self._written_at = 0.0
        self._phase_started_at = time.monotonic()
        self._offset_s = 0.0
        self._started_at = time.monotonic()
        self.phase = "starting"
        self.last: Row = {}
        self.tracking = Tracking(None)

    def enter(self, phase: str, step: int = 0, max_steps: int | None = None) -> None:
        """Begin a new phase and write it at once."""
        now = time.monotonic()
        log.info("%s: %.2f s", self.phase, now - self._phase_started_at)
        self.phase, self._phase_started_at = phase, now
        self._max_steps = max_steps if max_steps is not None else self._max_steps
        self._write_progress(step)

    def at_step(self, step: int) -> None:
        """Write the step, but not more often than every `PROGRESS_PERIOD_S`."""
        if self._is_main and time.monotonic() - self._written_at > PROGRESS_PERIOD_S:
            self._write_progress(step)

    def row(self, step: int, epoch: float, values: Row) -> None:
        """Append one row to metrics.jsonl. `time_s` is the time that all attempts together were alive."""
        time_s = round(self._offset_s + time.monotonic() - self._started_at, 3)
        row: Row = {"step": step, "epoch": round(epoch, 4), "time_s": time_s, **values}
        self._remember(row)
        if self._is_main:
            self._folder.append_metrics(row)
            self.tracking.log(step, row)

    def rewind(self, step: int) -> None:
        """Remove the rows after `step`: the resumed run writes them again."""
        if not self._is_main:
            return
        kept = [row for row in self._folder.read_metrics() if row["step"] <= step]
        if self._folder.metrics_file.exists():
            write_atomic(self._folder.metrics_file, "".join(map(row_to_json, kept)))
        for row in kept:
            self._remember(row)
        self._offset_s = max((row["time_s"] for row in kept), default=0.0)

    def metrics(self) -> dict[str, float]:
        """Return the last evaluation (`eval/…`), `train/loss`, energy and emissions."""
        named = ("eval/", "energy_kwh", "co2_eq_kg")
        values = {name: value for name, value in self.last.items() if name.startswith(named)}
        if "loss" in self.last:
            values["train/loss"] = self.last["loss"]
        return {name: float(value) for name, value in values.items() if value is not None}

    def _remember(self, row: Row) -> None:
        """Keep the last value that was measured; null means that none was."""
        self.last |= {name: value for name, value in row.items() if value is not None}

    def _write_progress(self, step: int) -> None:
        if self._is_main:
            self._written_at = time.monotonic()
            self._folder.write_progress(
                Progress(self.phase, step, self._max_steps, self._attempt, time.time())
            )
