"""DeepSpeed itself, and the operators that it compiles on first use.

They are compiled for this machine's processor, one to five minutes each, and kept in a cache of Galley:
only Galley builds there, and only under its lock, which is the kernel's (`flock`) and ends with the
process that holds it. If a compile is killed, torch leaves a lock file behind, for which every later
run would wait for ever; under Galley's lock that file is known to be stale. A finished library is kept
beside the build, under the operator's name, and loaded from there: torch would ask ninja again in every
process, which takes seconds, and compile again for every other environment that shares the cache.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from galley.errors import ConfigError, Problem
from galley.system.locks import held
from galley.system.nvme import kept_on_drive
from trainer.data.cache import cache_root
from trainer.engines.base import Setup


def import_deepspeed(setup: Setup) -> Any:
    """Return DeepSpeed, on the existing process group and device."""
    os.environ.setdefault("DS_ACCELERATOR", setup.layout.device)
    # DeepSpeed takes its device only from this. srun and MPICH do not set it, and a launcher may show each
    # rank its own GPU as the first.
    device, local_rank = setup.ranks.device, setup.ranks.facts.local_rank
    os.environ["LOCAL_RANK"] = str(local_rank if device.type == "cpu" else device.index)
    if "OMPI_COMM_WORLD_LOCAL_RANK" in os.environ:
        os.environ["OMPI_COMM_WORLD_LOCAL_RANK"] = os.environ[
            "LOCAL_RANK"
        ]  # DeepSpeed checks that they agree
    import deepspeed
    from deepspeed.ops import __compatible_ops__

    # This operator serves only inference, but the first process group on CPU would compile it (46 s).
    __compatible_ops__["deepspeed_shm_comm"] = False
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_init_required=False)
    return deepspeed


def load_cpu_adam(setup: Setup) -> None:
    """Load AdamW for host memory. A collective. Raises `ConfigError` if it cannot be built."""
    hint = "it needs g++ and ninja; without them set strategy.engine_options.optimizer.params.torch_adam=true"
    _load(["CPUAdamBuilder"], setup, "strategy.offload_optimizer", hint)


def load_async_io(setup: Setup) -> None:
    """Load the operators that read and write a drive.

    A collective. Raises `ConfigError` if they do not build.
    """
    where = ", ".join(kept_on_drive(setup.recipe.strategy))
    hint = "it needs g++, ninja and libaio-dev; or strategy=zero3_offload"
    _load(["PinMemoryBuilder", "AsyncIOBuilder"], setup, where, hint)


def ops_cache(setup: Setup) -> Path:
    """Return the folder of this processor and these versions: the operators are built for `native`."""
    made_of = (platform.python_version(), torch.__version__, version("deepspeed"), _processor())
    key = hashlib.sha256("\0".join(made_of).encode()).hexdigest()[:20]
    return cache_root(setup.recipe.data) / "deepspeed" / key


def clear_stale_locks(cache: Path) -> None:
    """Remove the lock files of killed compiles. Only the holder of the cache's lock may do so."""
    for lock in cache.glob("*/lock"):
        lock.unlink()


def _processor() -> str:
    """Return what `-march=native` depends on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()} {flags}"


@contextmanager
def _locked(cache: Path) -> Iterator[None]:
    """Hold the cache's lock."""
    cache.mkdir(parents=True, exist_ok=True)
    with held(cache / "galley.lock"):
        yield


def _load(builders: Sequence[str], setup: Setup, where: str, hint: str) -> None:
    """Compile operators on each node's first rank, before the others; later operators link earlier ones."""
    cache = ops_cache(setup)
    os.environ["TORCH_EXTENSIONS_DIR"] = str(cache)
    with setup.ranks.main_first(), _locked(cache):
        clear_stale_locks(cache)
        for builder in builders:
            operator = getattr(importlib.import_module("deepspeed.ops.op_builder"), builder)()
            try:
                _load_kept_or_built(operator, cache / f"{operator.name}.so")
            except (RuntimeError, OSError, ImportError) as error:
                what = f"DeepSpeed's {operator.name} does not build here: {str(error)[-1500:]}"
                raise ConfigError(Problem(where, what, hint)) from error


def _load_kept_or_built(operator: Any, kept: Path) -> None:
    """Load the kept library, or build it and keep a copy."""
    loaded: dict[str, ModuleType] = operator._loaded_ops
    if operator.name not in loaded and kept.exists():
        loaded[operator.name] = _import_library(operator.name, kept)
    operator.load(verbose=False)
    if not kept.exists():
        copy = kept.with_suffix(".tmp")
        shutil.copyfile(str(loaded[operator.name].__file__), copy)
        copy.replace(kept)


def _import_library(name: str, path: Path) -> ModuleType:
    """Import a compiled extension from its file."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # noqa: S101  # it ends in .so
    assert spec.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
