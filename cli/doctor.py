"""`doctor`: what this machine can do, and what is missing for what it cannot."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.options import Options
from galley.paths import ROOT, install
from galley.system.half_precision import cost_text, measure_here, this_cpu
from galley.system.machine import probe
from galley.system.packages import TRIED, package_versions, tried

PROGRAMS = ("git", "gcc", "nvidia-smi", "mpirun", "mpiexec", "sbatch", "srun", "squeue", "kubectl")
CREDENTIALS = ("HF_TOKEN", "WANDB_API_KEY", "KUBECONFIG")


@dataclass(frozen=True)
class Finding:
    """One line of the report. `ok` is null where nothing depends on it."""

    topic: str
    found: str
    ok: bool | None = None


def doctor(words: Sequence[str], options: Options) -> int:
    """Report devices, packages, programs, disk and which credentials are present, never their values."""
    findings = [*_machine(), *_packages(), *_programs(), *_credentials()]
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
        return 0
    for finding in findings:
        mark = {True: "ok", False: "missing", None: ""}[finding.ok]
        print(f"{finding.topic:<16}{mark:<9}{finding.found}")
    return 0


def _machine() -> list[Finding]:
    facts = probe()
    gpus = f"{facts.gpus} ({facts.gpu_memory_gib:.0f} GiB each)" if facts.gpus else "none: runs use the CPU"
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return [
        Finding("program", str(ROOT)),
        Finding("host", f"{facts.hostname}, {system}"),
        Finding("GPUs", gpus),
        Finding("CPU", f"{facts.physical_cores} physical cores, {facts.memory_gib:.0f} GiB"),
        *_formats(),
        Finding("disk", f"{free:.0f} GiB free in the current folder", free > 5),
    ]


def _formats() -> list[Finding]:
    """Measured anew: what an earlier measurement said of another moment is replaced."""
    cost = measure_here()
    shown = "; ".join(cost_text(compute, cost[compute]) for compute in cost)
    return [
        Finding("half precision", ", ".join(this_cpu().instructions) or "the CPU has no instructions for it"),
        Finding("  measured", shown or "not measured: needs torch"),
    ]


def _packages() -> list[Finding]:
    """`ok` is null for a version outside of what was tried."""
    found = package_versions()
    return [
        _package(name, found[name]) if name in found else Finding(name, install("train"), False)
        for name in TRIED
    ]


def _package(name: str, installed: str) -> Finding:
    note = tried(name, installed)
    is_outside = note.startswith("outside")
    return Finding(name, f"{installed} ({note})" if note else installed, None if is_outside else True)


def _programs() -> list[Finding]:
    return [Finding(name, shutil.which(name) or "not on PATH") for name in PROGRAMS]


def _credentials() -> list[Finding]:
    return [Finding(name, "set" if os.environ.get(name) else "not set") for name in CREDENTIALS]
