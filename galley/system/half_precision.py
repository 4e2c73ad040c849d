"""What half precision costs on a CPU: its instructions, which the kernel names, and a measurement.

CPUs without the instructions emulate bf16 and fp16, tens of times slower than fp32. torch is measured by
`trainer.engines.half_precision`, in a process of its own, once for each kind of CPU: the answer is kept in
the user's cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from galley.errors import SubmissionError
from galley.paths import ROOT, user_cache
from galley.rundir import write_atomic
from galley.schema import Dtype, Recipe
from galley.spec import ClusterFacts
from galley.system import proc

INSTRUCTIONS: dict[Dtype, tuple[str, ...]] = {
    "bf16": ("amx_bf16", "avx512_bf16", "svebf16", "bf16"),
    "fp16": ("amx_fp16", "avx512_fp16", "asimdhp"),
}
"""Format -> the flags of /proc/cpuinfo that stand for it, on x86 and ARM."""
WORTH_IT = 0.9
"""A format is taken of itself only if it takes less than this share of fp32's time: less is noise."""
_CPUINFO = Path("/proc/cpuinfo")
_TIMEOUT_S = 120.0  # to import torch on a busy machine; the measurement itself takes milliseconds


@dataclass(frozen=True)
class Cpu:
    """A kind of CPU. `flags` are the instruction sets by the kernel's names."""

    model: str
    flags: frozenset[str]

    @property
    def instructions(self) -> tuple[str, ...]:
        """Those for half precision."""
        return tuple(flag for flags in INSTRUCTIONS.values() for flag in flags if flag in self.flags)


def read_cpu(cpuinfo: str) -> Cpu:
    """The first processor of /proc/cpuinfo."""
    rows = (line.partition(":") for line in cpuinfo.partition("\n\n")[0].splitlines())
    found = {name.strip(): value.strip() for name, _, value in rows}
    flags = found.get("flags") or found.get("Features") or ""
    model = found.get("model name") or " ".join(
        f"{name} {found[name]}" for name in ("CPU implementer", "CPU part") if name in found
    )
    return Cpu(model, frozenset(flags.split()))


@cache
def this_cpu() -> Cpu:
    """Without a name and flags where the system does not tell them."""
    try:
        return read_cpu(_CPUINFO.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Cpu("", frozenset())


def has_instructions(compute: Dtype, instructions: tuple[str, ...]) -> bool:
    """Whether a CPU with these computes in the format, rather than emulates it."""
    return compute == "fp32" or any(flag in instructions for flag in INSTRUCTIONS[compute])


def with_cost(facts: ClusterFacts, recipe: Recipe) -> ClusterFacts:
    """`facts` of this machine with `half_cost`, if the recipe computes on its CPUs and depends on it.

    `precision=auto` does not without instructions: what is emulated is never faster.
    """
    asked = recipe.precision.compute
    on_cpu = recipe.cluster.device == "cpu" or not facts.gpus
    depends = has_instructions("bf16", facts.instructions) if asked == "auto" else asked != "fp32"
    return replace(facts, half_cost=half_cost()) if on_cpu and depends else facts


@cache
def half_cost() -> dict[Dtype, float]:
    """Time of `bf16` and `fp16` in units of fp32's on this machine; empty if torch cannot be asked.

    From the user's cache where this kind of CPU was measured with this torch.
    """
    path = _record()
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {"bf16": float(kept["bf16"]), "fp16": float(kept["fp16"])}
    except (OSError, ValueError, KeyError, TypeError):
        return measure_here()


def measure_here() -> dict[Dtype, float]:
    """As `half_cost`, measured now; the answer is kept for later."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    try:
        said = proc.run(
            (sys.executable, "-P", "-m", "trainer.engines.half_precision"), timeout_s=_TIMEOUT_S, env=env
        )
        found: dict[Dtype, float] = json.loads(said.splitlines()[-1])
    except (SubmissionError, ValueError, IndexError):
        return {}
    try:
        write_atomic(_record(), json.dumps(found))
    except OSError:
        return found  # a cache that cannot be written: it is measured again
    return found


def _record() -> Path:
    cpu = this_cpu()
    try:
        torch = version("torch")
    except PackageNotFoundError:
        torch = "none"
    kind = hashlib.sha256(f"{cpu.model}\0{sorted(cpu.flags)}\0{torch}".encode()).hexdigest()
    return user_cache() / "half-cost" / f"{kind[:16]}.json"


def cost_text(compute: Dtype, cost: float) -> str:
    """`bf16 takes 15 times as long as fp32`"""
    if cost >= 1:
        return f"{compute} takes {cost:.{0 if cost >= 10 else 1}f} times as long as fp32"
    return f"{compute} takes {cost:.0%} of the time of fp32"
