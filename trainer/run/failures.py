"""The errors of training, and the failure class of any error."""

from __future__ import annotations

from galley.errors import CheckpointError, ConfigError, DiskFullError, RunFailedError
from galley.spec import FailureClass
from galley.system.os_errors import NO_ROOM


class NonFiniteLossError(RunFailedError):
    """The loss or the gradients are NaN or infinite: the run diverged."""


class EngagementError(RunFailedError):
    """The requested strategy is not active in this process."""


class StepMemoryError(RunFailedError):
    """Memory ran out in an optimizer step that cannot be repeated in this process.

    Attributes:
        micro_size: the largest micro-batch to start again with; None if a rank held one sample already.
    """

    def __init__(self, message: str, micro_size: int | None) -> None:
        super().__init__(message)
        self.micro_size = micro_size


# Parts of the messages of gloo and NCCL when a peer is gone, and when it is silent for the timeout.
LOST_PEER = ("connection closed by peer", "connection reset by peer", "socket closed", "broken pipe")
SILENT_PEER = ("timed out", "timeout")
# Parts of the messages of torch's allocators, and of cuBLAS and cuDNN when they cannot allocate.
NO_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed")


def classify(error: BaseException, phase: str) -> FailureClass:
    """Return the class by which a failed run is retried. `phase` is that of `galley.spec.Progress`."""
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
    """Return whether the device or the host had no memory left. On CPU torch raises a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(part in text for part in NO_MEMORY)


def _classify_torch(error: BaseException) -> FailureClass:
    """Classify an error by its text: torch raises plain RuntimeErrors for different causes."""
    text = str(error).lower()
    if isinstance(error, RuntimeError):
        if any(part in text for part in LOST_PEER):
            return "node"
        if any(part in text for part in SILENT_PEER):
            return "hang"
    # safetensors raises its own error type, without an errno.
    return "disk_full" if "no space left on device" in text else "user"
