"""DeepSpeed itself and the operators that it compiles on first use.

Compiled for this machine's processor, about a minute each, and kept in a cache of Galley's own:
only Galley builds there and only under its lock, which is the kernel's (`flock`) and ends with the
process that holds it. So the lock file that torch leaves behind when a compile is killed, at which
every later run would wait for ever, is known to be stale.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from galley.errors import ConfigError, Problem
from galley.schema import Strategy
from trainer.cache import cache_root
from trainer.strategies.base import Setup


def import_deepspeed(device: str) -> Any:
    """DeepSpeed, on the process group that there is."""
    os.environ.setdefault("DS_ACCELERATOR", device)
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # Serves inference only, but would be compiled (46 s) by the first process group on CPU.
    __compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_init_required=False)
    return deepspeed


def load_cpu_adam(setup: Setup) -> None:
    """Have DeepSpeed's AdamW compiled, by each node's first rank before the others. A collective.

    Raises `ConfigError` where it cannot be built.
    """
    cache = ops_cache(setup)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(cache)
    with setup.ranks.main_first(), _locked(cache):
        clear_stale_locks(cache)
        _load_cpu_adam()


def refuse_nvme(strategy: Strategy) -> None:
    """Raises `ConfigError` where something is to live on an NVMe drive."""
    where = {"offload_optimizer": strategy.offload_optimizer, "offload_params": strategy.offload_params}
    keys = [f"strategy.{key}" for key, device in where.items() if device == "nvme"]
    if not keys:
        return
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if AsyncIOBuilder().is_compatible():
        what = "state on an NVMe drive cannot be saved in a checkpoint"
    else:
        what = "DeepSpeed's async_io does not build here: libaio is missing (apt-get install libaio-dev)"
    raise ConfigError(Problem(", ".join(keys), what, "valid: cpu, none; or choose strategy=zero3_offload"))


def ops_cache(setup: Setup) -> Path:
    """One folder for each processor and set of versions: the operators are built for `native`."""
    made_of = (platform.python_version(), torch.__version__, version("deepspeed"), _processor())
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:20]
    return cache_root(setup.recipe.data) / "deepspeed" / key


def clear_stale_locks(cache: Path) -> None:
    """Remove what killed compiles left; only for the holder of the cache's lock."""
    for lock in cache.glob("*/lock"):
        lock.unlink()


def _processor() -> str:
    """What `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()} {flags}"


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "galley.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _load_cpu_adam() -> None:
    from deepspeed.ops.op_builder import CPUAdamBuilder

    try:
        CPUAdamBuilder().load(verbose=False)
    except (RuntimeError, OSError, ImportError) as error:
        what = f"DeepSpeed's AdamW for host memory does not build here: {str(error)[-1500:]}"
        hint = (
            "it needs g++ and ninja; without them set "
            "strategy.engine_options.optimizer.params.torch_adam=true"
        )
        raise ConfigError(Problem("strategy.offload_optimizer=cpu", what, hint)) from error
