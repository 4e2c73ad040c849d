"""Errors of training, and the failure class that any error belongs to."""

from __future__ import annotations

import errno

from galley.errors import CheckpointError, ConfigError, RunFailedError
from galley.spec import FailureClass


class NonFiniteLossError(RunFailedError):
    """The loss or the gradients are NaN or infinite: the run diverged."""


class EngagementError(RunFailedError):
    """The run would not be carried by the strategy that was asked for."""


class DiskFullError(RunFailedError):
    """The next file would not fit; what was saved before is intact."""


# What gloo and nccl say when a peer is gone, and when it is silent for the timeout.
LOST_PEER = ("connection closed by peer", "connection reset by peer", "socket closed", "broken pipe")
SILENT_PEER = ("timed out", "timeout")


def classify(error: BaseException, phase: str) -> FailureClass:
    """The class by which a failed run is retried; `phase` is that of `galley.spec.Progress`."""
    if isinstance(error, EngagementError):
        return "configuration"
    if isinstance(error, ConfigError):
        return "data" if phase == "data" else "configuration"
    if isinstance(error, CheckpointError):
        return "checkpoint"
    if isinstance(error, NonFiniteLossError | FloatingPointError):
        return "nan"
    if isinstance(error, DiskFullError):
        return "disk_full"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk_full"
    if isinstance(error, MemoryError):
        return "oom"
    return _classify_torch(error)


def _classify_torch(error: BaseException) -> FailureClass:
    """Torch raises plain RuntimeErrors: only their text tells them apart."""
    text = str(error).lower()
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return "oom"
    if isinstance(error, RuntimeError):
        if any(part in text for part in LOST_PEER):
            return "node"
        if any(part in text for part in SILENT_PEER):
            return "hang"
        if "no space left on device" in text:
            return "disk_full"
    return "user"
