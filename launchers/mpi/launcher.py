"""mpirun of Open MPI, MPICH or Intel MPI: it starts the ranks on this machine, or on several by ssh.

The ranks communicate over gloo or NCCL; from MPI they only read their rank and the world size (`OMPI_*`,
`PMI_*`). mpirun is a child of this command, like torchrun with `launcher=local`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.rundir import RunFolder
from galley.schema import Mpi, Recipe
from galley.spec import ClusterFacts, LaunchPlan, MpiFacts, MpiFlavor, RunHandle, RunSpec
from galley.strategy.layout import declared_facts
from galley.system.half_precision import with_cost
from galley.system.machine import probe
from launchers.base import Diagnosis
from launchers.common.worker_command import (
    attempt_environment,
    pin_environment,
    rank_environment,
    worker_command,
)
from launchers.local.launcher import LocalLauncher
from launchers.mpi.dialect import MpiJob, speak
from launchers.mpi.hosts import host_name, hosts_of
from launchers.mpi.probe import find_mpi

_PROGRAMS: dict[MpiFlavor, str] = {"openmpi": "mpirun", "mpich": "mpiexec.hydra", "intel": "mpiexec.hydra"}

_MASK = re.compile(r"0x[0-9A-Fa-f]+")
# The reports of the first failed rank: Open MPI (three forms), Intel MPI, MPICH (two forms without a rank).
_FELL = (
    re.compile(r"lost communication with a remote daemon[\s\S]*Remote daemon: \S+ on node (?P<lost>\S+)"),
    re.compile(
        r"process rank (?P<rank>\d+) with PID \d+ on node (?P<node>\S+) exited on signal (?P<signal>\d+)"
    ),
    re.compile(r"Process name: \[\[\d+,\d+\],(?P<rank>\d+)\]\s+Exit code:\s+(?P<code>\d+)"),
    re.compile(
        r"RANK (?P<rank>\d+) PID \d+ RUNNING AT (?P<node>\S+)\s+=\s+KILLED BY SIGNAL: (?P<signal>\d+)"
    ),
    re.compile(r"PID \d+ RUNNING AT (?P<node>\S+)[\s\S]*EXIT STRING: .* \(signal (?P<signal>\d+)\)"),
    re.compile(r"PID \d+ RUNNING AT (?P<node>\S+)\s+=\s+EXIT CODE: (?P<code>\d+)"),
)


class MpiLauncher(LocalLauncher):
    """mpirun, found on this machine."""

    name = "mpi"

    def facts(
        self, recipe: Recipe, earlier: RunFolder | None = None, after: RunFolder | None = None
    ) -> ClusterFacts:
        self.refuse_waiting(after)
        hosts = hosts_of(recipe)
        check_request(recipe, hosts)
        nodes = declared_facts(recipe) if hosts else with_cost(probe(), recipe)
        return replace(nodes, mpi=find_mpi(recipe.launcher.mpi), hosts=hosts)

    def plan(self, spec: RunSpec, run_dir: Path, facts: ClusterFacts, attempt: int) -> LaunchPlan:
        launcher = spec.recipe.launcher
        mpi, hosts = facts.mpi or usual(launcher.mpi), facts.hosts or ("localhost",)
        env = {
            **attempt_environment(attempt),
            **pin_environment(spec, facts),
            **rank_environment(spec, run_dir),
            **rendezvous(facts.hosts, run_dir, attempt),
        }

        names = sorted({*env, *launcher.forward_env})
        silence_s = launcher.host_timeout_s or launcher.timeout_s
        request = MpiJob(launcher.mpi, hosts, spec.layout, names, run_dir / "plan", silence_s)
        spoken = speak(mpi, request)

        return LaunchPlan(
            launcher=self.name,
            argv=(*spoken.argv, *worker_command(self.python, spec, run_dir)),
            env={**env, **spoken.env},
            forward_env=tuple(launcher.forward_env),
            files=spoken.files,
            attempt=attempt,
        )

    def joining(self) -> None:
        return None

    def preloaded(self, spec: RunSpec) -> None:
        return None

    def invitation(self, spec: RunSpec, folder: RunFolder) -> str:
        return ""

    def failing(self, handle: RunHandle, folder: RunFolder) -> bool:
        return _read_fall(folder, handle.attempt) is not None

    def diagnose(self, handle: RunHandle, folder: RunFolder) -> Diagnosis:
        fall = _read_fall(folder, handle.attempt)
        if fall is None:
            log = folder.launcher_log(handle.attempt)
            last_lines = log.read_text(errors="replace").strip().splitlines()[-20:] if log.exists() else []
            return Diagnosis(
                "\n".join(
                    ["mpirun ended without a result" + (", it said:" if last_lines else ""), *last_lines]
                )
            )

        parts = fall.groupdict()
        if parts.get("lost"):
            return Diagnosis(f"no answer from {parts['lost']}: mpirun has lost it", failure_class="node")
        who = f"rank {parts['rank']}" if parts.get("rank") else "a rank"
        where = f" on {parts['node']}" if parts.get("node") else ""
        rank = int(parts["rank"]) if parts.get("rank") else None
        if parts.get("signal"):
            return Diagnosis(f"{who}{where} was killed by signal {parts['signal']}", rank, "node")
        return Diagnosis(f"{who}{where} ended with exit code {parts['code']}", rank)


def usual(mpi: Mpi) -> MpiFacts:
    """Return the facts that a machine with MPI usually has, for a plan on a machine without MPI."""
    flavor = "openmpi" if mpi.flavor == "auto" else mpi.flavor
    return MpiFacts(flavor, mpi.program or _PROGRAMS[flavor], version="")


def rendezvous(hosts: Sequence[str], run_dir: Path, attempt: int) -> dict[str, str]:
    """Return where the ranks meet: on the first host, at a port that belongs to this attempt."""
    digest = hashlib.sha256(f"{run_dir}\0{attempt}".encode()).digest()
    port = 20000 + int.from_bytes(digest[:4]) % 10000
    return {"MASTER_ADDR": host_name(hosts[0]) if hosts else "127.0.0.1", "MASTER_PORT": str(port)}


def check_request(recipe: Recipe, hosts: Sequence[str]) -> None:
    """Raise `ConfigError` if hosts, nodes and masks do not fit together."""
    mpi, nodes = recipe.launcher.mpi, recipe.cluster.nodes
    problems = [
        Problem(f"launcher.mpi.pin_masks: {mask!r}", "is no mask of CPUs", 'hexadecimal in quotes: "0x3"')
        for mask in mpi.pin_masks
        if not _MASK.fullmatch(mask)
    ]

    if nodes != max(1, len(hosts)):
        key = "hosts" if mpi.hostfile is None else "hostfile"
        what = f"launcher.mpi.{key} names {len(hosts) or 'no'} hosts"
        hint = "name as many hosts as there are nodes; without any it is this machine"
        problems.append(Problem(f"cluster.nodes={nodes}", what, hint))

    procs = recipe.cluster.procs_per_node
    if mpi.pin_masks and procs is not None and len(mpi.pin_masks) != procs:
        what = f"{len(mpi.pin_masks)} masks for {procs} ranks a node"
        problems.append(Problem("launcher.mpi.pin_masks", what, "give one mask a rank of a node"))
    if problems:
        raise ConfigError(problems)


def _read_fall(folder: RunFolder, attempt: int) -> re.Match[str] | None:
    """Return the report of the first failed rank in mpirun's log; None if there is none."""
    log = folder.launcher_log(attempt)
    text = log.read_text(errors="replace") if log.exists() else ""
    return next((report for pattern in _FELL if (report := pattern.search(text))), None)
