"""Errors of training, and the failure class that any error belongs to."""

from __future__ import annotations

from galley.errors import CheckpointError, ConfigError, DiskFullError, RunFailedError
from galley.spec import FailureClass
from galley.system.os_errors import NO_ROOM


class NonFiniteLossError(RunFailedError):
    """The loss or the gradients are NaN or infinite: the run diverged."""


class EngagementError(RunFailedError):
    """The run would not be carried by the strategy that was asked for."""


class StepMemoryError(RunFailedError):
    """Memory ran out in an optimizer step that cannot be repeated in this process.

    Attributes:
        micro_size: the largest micro-batch to start again with; null where a rank held one sample.
    """

    def __init__(self, message: str, micro_size: int | None) -> None:
        super().__init__(message)
        self.micro_size = micro_size


# What gloo and nccl say when a peer is gone, and when it is silent for the timeout.
LOST_PEER = ("connection closed by peer", "connection reset by peer", "socket closed", "broken pipe")
SILENT_PEER = ("timed out", "timeout")
# What torch's allocators say, and cuBLAS and cuDNN where theirs is what is missing.
NO_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed")


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
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return "disk_full"
    if isinstance(error, StepMemoryError) or is_out_of_memory(error):
        return "oom"
    return _classify_torch(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the host, had no memory left. On CPU torch raises a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in NO_MEMORY)


def _classify_torch(error: BaseException) -> FailureClass:
    """Torch raises plain RuntimeErrors: only their text tells them apart."""
    text = str(error).lower()
    if isinstance(error, RuntimeError):
        if any(part in text for part in LOST_PEER):
            return "node"
        if any(part in text for part in SILENT_PEER):
            return "hang"
    # safetensors has an error of its own.
    return "disk_full" if "no space left on device" in text else "user"
