"""What this machine can give to a run: `probe`, without torch, in a few milliseconds."""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path

from galley.errors import SubmissionError
from galley.spec import ClusterFacts
from galley.system import proc
from galley.system.half_precision import this_cpu
from galley.system.nvme import has_libaio
from galley.system.pinning import read_cores
from galley.system.preload import find_libraries, inherited_preload, library_folders

_GIB = 1024**3
_BF16_SINCE = 8.0  # compute capability (Ampere)


@cache
def probe() -> ClusterFacts:
    """The facts of this host, as far as this process may use it (affinity, cgroup, visible GPUs).

    Asked once a process.
    """
    gpus = [_gib(memory) for memory in visible_gpus(_nvidia_smi("memory.total"), os.environ)]
    # A question of its own: a driver that does not know the field answers none at all.
    capabilities = visible_gpus(_nvidia_smi("compute_cap"), os.environ) if gpus else []
    return ClusterFacts(
        hostname=socket.gethostname(),
        gpus=len(gpus),
        gpu_memory_gib=min(gpus, default=0.0),
        physical_cores=physical_cores(Path("/sys"), os.sched_getaffinity(0)),
        bf16=bool(gpus) and len(capabilities) == len(gpus) and all(map(has_bf16, capabilities)),
        memory_gib=memory_gib(Path("/sys"), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        libaio=has_libaio(),
        libraries=find_libraries(library_folders(os.environ)),
        preloaded=inherited_preload(os.environ),
        cores=read_cores(Path("/sys"), os.sched_getaffinity(0)),
        instructions=this_cpu().instructions,
    )


def _nvidia_smi(field: str) -> str:
    """Its table of `index, uuid, FIELD`; nothing where there is no such tool, field or driver."""
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ("nvidia-smi", f"--query-gpu=index,uuid,{field}", "--format=csv,noheader,nounits")
    try:
        return proc.run(query, timeout_s=20)
    except SubmissionError:
        return ""


def visible_gpus(table: str, env: Mapping[str, str]) -> list[str]:
    """The value of every GPU that CUDA will show, given `index, uuid, value` lines.

    `CUDA_VISIBLE_DEVICES` as CUDA reads it: indices or prefixes of UUIDs; the first entry that
    names no device ends the list. An index into MIG slices counts as its whole GPU.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in table.splitlines() if line.count(",") == 2]
    gpus = {index: (uuid, value) for index, uuid, value in rows}
    chosen = env.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return [value for _, value in gpus.values()]
    visible: list[str] = []
    for name in (part.strip() for part in chosen.split(",")):
        matches = [
            value
            for index, (uuid, value) in gpus.items()
            if name == index or (name[:1] == "G" and uuid.startswith(name))
        ]
        if len(matches) != 1:
            break
        visible += matches
    return visible


def has_bf16(capability: str) -> bool:
    """Whether a GPU of this compute capability (`8.0`) computes in bf16; false where it is not known."""
    return re.fullmatch(r"\d+\.\d+", capability) is not None and float(capability) >= _BF16_SINCE


def _gib(text: str) -> float:
    """GiB of a number of MiB; 0 where the driver does not say (`[N/A]` on unified memory)."""
    return float(text) / 1024 if re.fullmatch(r"\d+", text) else 0.0


def physical_cores(sys_root: Path, allowed: Set[int]) -> int:
    """Cores (not hardware threads) among the CPUs `allowed`, at most the cgroup's quota; at least 1."""
    cores = {_core_of(sys_root, cpu) for cpu in allowed}
    quota = _cgroup_cpus(sys_root)
    return max(1, len(cores) if quota is None else min(len(cores), int(quota)))


def _core_of(sys_root: Path, cpu: int) -> str:
    """What two hardware threads of one core share; the CPU itself where the kernel tells nothing."""
    topology = sys_root / f"devices/system/cpu/cpu{cpu}/topology"
    for name in ("core_cpus_list", "thread_siblings_list"):
        text = _read(topology / name)
        if text:
            return text
    return str(cpu)


def _cgroup_cpus(sys_root: Path) -> float | None:
    """CPUs that the cgroup (version 2) may use on average; None without a limit."""
    quota, _, period = (_read(sys_root / "fs/cgroup/cpu.max") or "max 1").partition(" ")
    return None if quota == "max" else int(quota) / int(period)


def memory_gib(sys_root: Path, physical_bytes: int) -> float:
    """Memory of the machine, or of the cgroup (version 2) where that is less."""
    limit = _read(sys_root / "fs/cgroup/memory.max") or "max"
    usable = physical_bytes if limit == "max" else min(physical_bytes, int(limit))
    return round(usable / _GIB, 2)


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
