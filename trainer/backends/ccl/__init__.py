"""The c10d backend `ccl`: oneCCL from PyPI, bound by a small C++ extension.

`register` makes `init_process_group("ccl")` work in this process. Nothing binary is part of the
project: the extension is compiled on the user's machine against the packages installed there.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from trainer.backends.ccl.toolchain import MODULE_NAME, BackendUnavailable, build, find_parts

__all__ = ["BackendUnavailable", "environment", "register"]

BACKEND = "ccl"
_SHARED_MEMORY_OF_A_RANK = 32 * 2**20  # libfabric's shm provider uses 24 MiB of its 64


def register(cache: Path, local_rank: int, local_size: int) -> str:
    """Compile the extension if need be, load it, and register the backend, once per process.

    Sets the variables of `environment` that are not set. Returns oneCCL's version.

    Raises:
        BackendUnavailable: the package, a library or the compiler is missing, or it does not build.
    """
    parts = find_parts()
    for name, value in environment(local_rank, local_size, parts.fabric_dir).items():
        os.environ.setdefault(name, value)
    extension = _load(build(parts, cache))
    _register(extension)
    return str(extension.version())


def environment(local_rank: int, local_size: int, fabric_dir: Path) -> Mapping[str, str]:
    """Return oneCCL's variables for one of `local_size` ranks on this node.

    The ranks find each other through the process group's own store and libfabric, whatever started
    them. Shared memory carries the traffic inside the node, if /dev/shm has room for it. Without
    its own workers (`CCL_WORKER_OFFLOAD=0`) the backend's one thread does oneCCL's work, and
    uses no core while nothing is under way.
    """
    return {
        "CCL_ATL_SHM": "1" if _shared_memory_bytes() >= local_size * _SHARED_MEMORY_OF_A_RANK else "0",
        "CCL_ATL_TRANSPORT": "ofi",
        "CCL_LOCAL_RANK": str(local_rank),
        "CCL_LOCAL_SIZE": str(local_size),
        "CCL_LOG_LEVEL": "error",
        "CCL_PROCESS_LAUNCHER": "none",
        "CCL_WORKER_OFFLOAD": "1" if "CCL_WORKER_COUNT" in os.environ else "0",
        "FI_PROVIDER_PATH": str(fabric_dir),
    }


def _shared_memory_bytes() -> int:
    """Return the size of /dev/shm: 64 MiB in a container without other settings."""
    try:
        size = os.statvfs("/dev/shm")  # noqa: S108
    except FileNotFoundError:
        return 0
    return size.f_blocks * size.f_frsize


def _load(path: Path) -> ModuleType:
    """Load the compiled extension, once per process."""
    if MODULE_NAME in sys.modules:
        return sys.modules[MODULE_NAME]
    spec = importlib.util.spec_from_file_location(MODULE_NAME, path)
    if spec is None or spec.loader is None:
        raise BackendUnavailable(f"{path} is no extension module")
    try:
        extension = importlib.util.module_from_spec(spec)
    except ImportError as error:
        raise BackendUnavailable(f"the compiled extension cannot be loaded: {error}") from error
    spec.loader.exec_module(extension)
    sys.modules[MODULE_NAME] = extension
    return extension


def _register(extension: ModuleType) -> None:
    """Register the backend in torch, unless it is registered already."""
    import torch.distributed as dist

    if BACKEND in dist.Backend.backend_list:
        return

    def create(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        return extension.create(store, rank, size, timeout)

    dist.Backend.register_backend(BACKEND, create, devices=["cpu"])
    # The backend's thread must stop before the interpreter and oneCCL's globals are destroyed.
    atexit.register(extension.prepare_exit)
