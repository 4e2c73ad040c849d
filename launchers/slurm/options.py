"""Options that a user adds to sbatch and srun. None may silently change what the recipe says.

The last of two options wins, and both programs accept any unambiguous beginning of a long option
(`--part=gpu`). Options that Galley sets itself are refused, also by their beginning, with the key to use
instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from galley.errors import ConfigError, Problem
from galley.schema import Cluster, Slurm

Options = Iterator[tuple[str, str | None]]

_OPTION = re.compile(r"--([a-z][a-z0-9-]*)(?:=(.*))?", re.DOTALL)
_KEYS = ("partition", "account", "qos", "constraint", "reservation", "exclude")
_RANKS = "cluster.nodes and cluster.procs_per_node"
_CPUS, _LOGS, _REQUEUE = "cluster.cpus_per_node", "`logs RUN`", "launcher.slurm.requeue"
_EXPORT = "launcher.slurm.export and launcher.env"
_GPU_OPTIONS = ("gpus", "gpus-per-node", "gpus-per-task", "gpus-per-socket", "tres-per-task", "tres-per-node")
_GPUS = "cluster.gpus_per_node, launcher.slurm.gpu_type and launcher.slurm.gpu_request"
_NONE = ""

_OF_SBATCH = {
    **{name: f"launcher.slurm.{name}" for name in _KEYS},
    **dict.fromkeys(("nodes", "ntasks", "tasks-per-node", "ntasks-per-core"), _RANKS),
    **dict.fromkeys(("ntasks-per-gpu", "ntasks-per-node", "ntasks-per-socket"), _RANKS),
    **dict.fromkeys(("cpus-per-task", "cpus-per-gpu"), _CPUS),
    **dict.fromkeys(("output", "error", "open-mode"), _LOGS),
    **dict.fromkeys(("requeue", "no-requeue"), _REQUEUE),
    **dict.fromkeys(("export", "export-file", "get-user-env"), _EXPORT),
    **dict.fromkeys(("chdir", "help", "parsable", "test-only", "usage", "version", "wait", "wrap"), _NONE),
    "array": "hpo.array",
    "dependency": "after=RUN",
    "job-name": "run_dir, whose name the job has",
    "mem": "cluster.memory_gib_per_node",
    "no-kill": "launcher.slurm.spare_nodes",
    "signal": "launcher.slurm.save_lead_s",
    "time": "cluster.time_limit_min",
}
_OF_SRUN = {
    **dict.fromkeys(("nodes", "ntasks", "tasks-per-node", "ntasks-per-node"), _RANKS),
    **dict.fromkeys(("nodelist", "exclude"), "launcher.slurm.exclude"),
    **dict.fromkeys(("output", "error", "open-mode"), _LOGS),
    **dict.fromkeys(("chdir", "help", "kill-on-bad-exit", "multi-prog", "pty", "usage", "version"), _NONE),
    **dict.fromkeys(("container-image", "container-mounts"), "launcher.slurm.container_*"),
    **dict.fromkeys(("het-group", "jobid", "pack-group"), _NONE),
    "cpus-per-task": _CPUS,
    "export": _EXPORT,
    "time": "cluster.time_limit_min",
}


def further_directives(slurm: Slurm, cluster: Cluster) -> Options:
    """Yield `launcher.slurm.directives`, checked."""
    refused = dict(_OF_SBATCH)
    if slurm.exclusive:
        refused |= dict.fromkeys(("exclusive", "oversubscribe", "share"), "launcher.slurm.exclusive")
    if cluster.memory_gib_per_node is not None:
        refused |= dict.fromkeys(("mem-per-cpu", "mem-per-gpu"), "cluster.memory_gib_per_node")
    refused |= _gpu_options(slurm)
    for name, value, problem in _read("directives", slurm.directives, refused):
        if name == "exclusive" and value is None:
            raise ConfigError(_own(problem, "launcher.slurm.exclusive"))
        if name == "gres" and slurm.gpu_request != "none" and "gpu" in (value or ""):
            raise ConfigError(_own(problem, f"{_GPUS}; or gpu_request=none and the whole --gres here"))
        yield name, value


def further_srun_options(slurm: Slurm) -> tuple[str, ...]:
    """Return `launcher.slurm.srun_options`, checked, as they are."""
    gpus = {} if slurm.gpu_request == "none" else {**_gpu_options(slurm), "gres": _GPUS}
    list(_read("srun_options", slurm.srun_options, _OF_SRUN | gpus))
    return tuple(slurm.srun_options)


def setup_lines(slurm: Slurm) -> list[str]:
    """Return `launcher.slurm.setup`.

    Raises `ConfigError` for a directive, which sbatch reads only before the first command.
    """
    for line in slurm.setup:
        if any(part.lstrip().startswith("#SBATCH") for part in line.splitlines()):
            hint = "write it into launcher.slurm.directives"
            raise ConfigError(
                Problem(f"launcher.slurm.setup: {line!r}", "sbatch would not read it there", hint)
            )
    return slurm.setup


def gpu_request(slurm: Slurm, gpus: int) -> Options:
    """Yield the option that requests the GPUs of a node. One task is a node, so "per task" means the same."""
    if slurm.gpu_type is not None and not re.fullmatch(r"[\w.-]+", slurm.gpu_type, re.ASCII):
        what = f"{slurm.gpu_type!r} is no type of GPU"
        raise ConfigError(Problem("launcher.slurm.gpu_type", what, "a name as in `sinfo -o %G`: a100"))
    if not gpus or slurm.gpu_request == "none":
        if slurm.gpu_type is not None:
            what = "nothing asks for GPUs: " + ("gpu_request is none" if gpus else "the ranks need none")
            raise ConfigError(Problem(f"launcher.slurm.gpu_type={slurm.gpu_type}", what, "leave it out"))
        return
    counted = f"{slurm.gpu_type}:{gpus}" if slurm.gpu_type else str(gpus)
    yield slurm.gpu_request, f"gpu:{counted}" if slurm.gpu_request == "gres" else counted


def _gpu_options(slurm: Slurm) -> dict[str, str]:
    """Return all options for GPUs, unless they are left to the user.

    A second --gres would replace the first.
    """
    if slurm.gpu_request == "none":
        return {}
    whole = {"gres": f"{_GPUS}; or gpu_request=none and the whole --gres here"}
    return dict.fromkeys(_GPU_OPTIONS, _GPUS) | (whole if slurm.gpu_request == "gres" else {})


def _read(
    key: str, texts: Iterable[str], refused: Mapping[str, str]
) -> Iterator[tuple[str, str | None, Problem]]:
    """Yield name and value of each option, with the problem to report if the caller refuses it.

    Raises `ConfigError` for what is no option, what is refused, and what is given twice.
    """
    seen: set[str] = set()
    for text in texts:
        where = f"launcher.slurm.{key}: {text!r}"
        problem = Problem(where, "is set by Galley itself")
        option = _OPTION.fullmatch(text)
        if option is None:
            program = "srun" if key == "srun_options" else "sbatch"
            hint = "write it as --NAME=VALUE"
            if "hetjob" in text:
                hint = "a heterogeneous job is 'launcher.slurm.constraint=\"[a*2&b*2]\"'"
            raise ConfigError(Problem(where, f"is not an option of {program}", hint))
        meant = [name for name in refused if name.startswith(option[1])]
        if meant:
            name = option[1] if option[1] in meant else meant[0]
            raise ConfigError(_own(problem, refused[name]))
        if option[1] in seen:
            raise ConfigError(Problem(where, f"--{option[1]} is given twice, and the last would win"))
        seen.add(option[1])
        yield option[1], option[2], problem


def _own(problem: Problem, instead: str) -> Problem:
    return Problem(problem.where, problem.what, f"use {instead}" if instead else "leave it out")
