"""A task that reports one more metric: what planning and sweeps know of it. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from galley.metrics import Metric
from galley.tasks.sequence_classification import TASK as CLASSIFICATION

TASK = replace(
    CLASSIFICATION,
    name="error_rate",
    implementation="galley_extras.error_rate_torch:ErrorRate",
    metrics={"eval/error": Metric("minimize", 0.0, 1.0), **CLASSIFICATION.metrics},
)
