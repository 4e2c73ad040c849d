"""The text of a Slurm job. Pure, and safe for any value: values that cannot be quoted are refused."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.paths import ROOT
from galley.schema import Cluster, Launcher, Slurm
from galley.spec import ClusterFacts, RunSpec
from launchers.slurm.options import further_directives, gpu_request

TEMPLATES = ROOT / "slurm"

_MAX_LEAD_S = 65_535  # sbatch(1), --signal
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
Directives = Iterable[tuple[str, str | int | None]]


def job_script(header: Directives, settings: Mapping[str, str], setup: Iterable[str], body: str) -> str:
    """Return a batch script: directives, the run's own values, the user's lines, and the fixed `body`."""
    lines = [*(directive(name, value) for name, value in header), ""]
    lines += [f"{name}={value}" for name, value in settings.items()]
    return "\n".join(["#!/bin/bash", *lines, *setup, "", ""]) + body


def template(name: str) -> str:
    """Return the fixed part of a script, which is the same for all runs."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def directive(name: str, value: str | int | None = None) -> str:
    """Return one `#SBATCH` line.

    sbatch splits it at spaces that are not within double quotes, and takes the character after a
    backslash as it is. Raises `ConfigError` for a control character, which sbatch cannot read.
    """
    if value is None:
        return f"#SBATCH --{name}"
    text = str(value)
    if _CONTROL.search(text):
        what = f"{text!r} has a control character, which sbatch cannot read"
        raise ConfigError(Problem(f"--{name}", what, "take it out"))
    if re.fullmatch(r"[\w./:,=@%+-]+", text, re.ASCII):
        return f"#SBATCH --{name}={text}"
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'#SBATCH --{name}="{quoted}"'


def quote(value: str) -> str:
    """Return the value as one word of bash."""
    return shlex.quote(value)


def array(words: Iterable[str]) -> str:
    """Return the words as a bash array."""
    return f"({shlex.join(words)})"


def env_file(variables: Mapping[str, str]) -> str:
    """Return exports for bash, sorted by name. Newlines and all other characters are kept."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(variables.items()))


def directives(spec: RunSpec, run_dir: Path, facts: ClusterFacts) -> Iterator[tuple[str, str | int | None]]:
    """Yield everything that the job requests from Slurm."""
    yield "job-name", job_name(run_dir)
    yield "output", log_pattern(run_dir, "%j")
    yield "open-mode", "append"
    yield "export", exported(spec.recipe.launcher)
    yield from _resources(spec)
    yield from _placement(spec.recipe.launcher.slurm, spec.layout.nodes, facts)
    yield from _lifecycle(spec.recipe.launcher.slurm, spec.recipe.cluster, facts)
    yield from further_directives(spec.recipe.launcher.slurm, spec.recipe.cluster)


def exported(launcher: Launcher) -> str:
    """Return which variables of the submitting shell the job gets. Values are never written down."""
    if launcher.slurm.export == "all":
        return "ALL"
    return ",".join(sorted(launcher.forward_env)) or "NONE"


def job_name(run_dir: Path) -> str:
    """Return the run folder's name, sanitized for sbatch."""
    return re.sub(r"[^\w.-]", "_", run_dir.name, flags=re.ASCII)[:64]


def log_pattern(folder: Path, job: str) -> str:
    """Return where the batch script's own output goes. `job` is a pattern of sbatch, such as `%j`."""
    if "\\" in str(folder) or _CONTROL.search(str(folder)):
        what = "has a backslash or a control character in its path, which sbatch cannot carry"
        raise ConfigError(Problem(f"run_dir={str(folder)!r}", what, "choose another run_dir"))
    return f"{folder}/logs/slurm-".replace("%", "%%") + f"{job}.log"


def _resources(spec: RunSpec) -> Iterator[tuple[str, str | int | None]]:
    cluster, layout = spec.recipe.cluster, spec.layout
    spare_nodes = spec.recipe.launcher.slurm.spare_nodes
    yield "nodes", layout.nodes + spare_nodes
    yield "ntasks-per-node", 1
    yield "cpus-per-task", cpus_per_node(spec)
    gpus = cluster.gpus_per_node or (layout.procs_per_node if layout.device == "cuda" else 0)
    yield from gpu_request(spec.recipe.launcher.slurm, gpus)
    if cluster.memory_gib_per_node is not None:
        yield "mem", f"{mebibytes(cluster.memory_gib_per_node)}M"
    if cluster.time_limit_min is not None:
        yield "time", cluster.time_limit_min


def mebibytes(gib: float) -> int:
    """Return MiB. Raises `ConfigError` below one, since `--mem=0` is all memory of the node."""
    if gib * 1024 < 1:
        what = f"{gib} GiB is less than 1 MiB"
        raise ConfigError(Problem("cluster.memory_gib_per_node", what, "GiB of a node; null asks for none"))
    return int(gib * 1024)


def cpus_per_node(spec: RunSpec) -> int:
    return spec.recipe.cluster.cpus_per_node or spec.layout.procs_per_node * spec.layout.threads_per_proc


def _placement(slurm: Slurm, nodes: int, facts: ClusterFacts) -> Iterator[tuple[str, str | int | None]]:
    for name in ("partition", "account", "qos", "constraint", "reservation"):
        two_kinds = name == "constraint" and slurm.spare_constraint is not None
        value = _two_kinds(slurm, nodes) if two_kinds else getattr(slurm, name)
        if value is not None:
            yield name, value
    if slurm.exclusive:
        yield "exclusive", None
    avoided = sorted({*slurm.exclude, *facts.avoid})
    if avoided:
        yield "exclude", ",".join(avoided)
    if slurm.spare_nodes:
        yield "no-kill", None


def _two_kinds(slurm: Slurm, nodes: int) -> str:
    """Return a constraint for nodes of one feature and spare nodes of another, in sbatch's syntax.

    Raises `ConfigError` if they are not two features.
    """
    problems = [
        Problem(f"launcher.slurm.{key}", what, "a word of `sinfo -o %f`, without operators")
        for key, value in (("constraint", slurm.constraint), ("spare_constraint", slurm.spare_constraint))
        if (what := "is needed beside spare_constraint" if value is None else _no_feature(value))
    ]
    if not slurm.spare_nodes:
        what = "means nothing without spare nodes"
        problems.append(Problem("launcher.slurm.spare_constraint", what, "set launcher.slurm.spare_nodes"))
    if problems:
        raise ConfigError(problems)
    return f"[{slurm.constraint}*{nodes}&{slurm.spare_constraint}*{slurm.spare_nodes}]"


def _no_feature(value: str) -> str:
    return "" if re.fullmatch(r"[\w-]+", value, re.ASCII) else f"{value!r} is not one feature"


def _lifecycle(slurm: Slurm, cluster: Cluster, facts: ClusterFacts) -> Iterator[tuple[str, str | int | None]]:
    if cluster.time_limit_min is not None and slurm.save_lead_s >= cluster.time_limit_min * 60:
        what = f"{slurm.save_lead_s} s are not before the time limit of {cluster.time_limit_min} minutes"
        hint = "lower it, or raise cluster.time_limit_min"
        raise ConfigError(Problem("launcher.slurm.save_lead_s", what, hint))
    if slurm.save_lead_s > _MAX_LEAD_S:
        what = f"{slurm.save_lead_s} s are more than sbatch takes"
        raise ConfigError(Problem("launcher.slurm.save_lead_s", what, f"at most {_MAX_LEAD_S}"))
    yield "signal", f"B:USR1@{slurm.save_lead_s}"
    yield ("requeue" if slurm.requeue else "no-requeue"), None
    if facts.after is not None:
        yield "dependency", f"afterok:{facts.after}"
        yield "kill-on-invalid-dep", "yes"
