"""What every launcher starts: the worker's command line, its environment, and torchrun's options. Pure."""

from __future__ import annotations

import os
import re
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.schema import Launcher
from galley.spec import ClusterFacts, RunSpec, compact_json
from galley.system.pinning import planned_pins

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TORCHRUN = {"last_call_timeout": "30", "keep_alive_interval": "5"}
_LONE_RANK = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}


def worker_command(python: str, spec: RunSpec, run_dir: Path) -> tuple[str, ...]:
    """The command of one rank."""
    return (python, "-P", "-m", "trainer.worker", *worker_arguments(run_dir), "--sha256", spec.sha256)


def worker_arguments(run_dir: Path) -> tuple[str, str]:
    """The part of a worker's command line by which the processes of a run are found."""
    return ("--run-dir", str(run_dir))


def torchrun(
    python: str, spec: RunSpec, rendezvous: tuple[str, ...], nodes: str | None = None, max_restarts: int = 0
) -> tuple[str, ...]:
    """torchrun for the ranks of one node, up to and without the worker's command.

    `nodes` is `MIN:MAX` of an elastic run.
    """
    return (
        *(python, "-P", "-m", "torch.distributed.run"),
        *rendezvous,
        f"--nnodes={nodes or spec.layout.nodes}",
        f"--nproc-per-node={spec.layout.procs_per_node}",
        f"--max-restarts={max_restarts}",
        "--monitor-interval=0.1",
        "--no-python",
    )


def elastic_conf(launcher: Launcher, last_call_s: int) -> dict[str, str]:
    """What torchrun's agents of an elastic run agree on: how long they wait for further machines, and
    when one that is silent counts as lost (after three intervals). Without what torchrun does anyway."""
    found = {"last_call_timeout": str(last_call_s)}
    if launcher.host_timeout_s is not None:
        found["keep_alive_interval"] = str(max(1, round(launcher.host_timeout_s / 4)))
    return {name: value for name, value in found.items() if _TORCHRUN[name] != value}


def attempt_environment(attempt: int) -> dict[str, str]:
    """Variables that differ from attempt to attempt."""
    return {"GALLEY_ATTEMPT": str(attempt), **({"GALLEY_RESUME": "1"} if attempt > 1 else {})}


def rank_environment(spec: RunSpec, run_dir: Path) -> dict[str, str]:
    """Variables of the ranks, whatever starts them. The recipe's come last: validation refuses the
    names that it must not set.

    Raises `ConfigError` where no process can have such a variable, or such a PYTHONPATH.
    """
    _check_variables(spec.recipe.launcher.env)
    if os.pathsep in str(run_dir):
        what = f"has a '{os.pathsep}' in its path, which PYTHONPATH cannot carry"
        raise ConfigError(Problem(f"run_dir={run_dir}", what, "choose another run_dir"))
    return {
        "OMP_NUM_THREADS": str(spec.layout.threads_per_proc),
        "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads of several ranks starve each other
        "PYTHONPATH": str(run_dir / "code"),
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        **({"LD_PRELOAD": ":".join(spec.layout.preload)} if spec.layout.preload else {}),
        **({"CCL_WORKER_COUNT": str(spec.layout.ccl_workers)} if spec.layout.ccl_workers else {}),
        **(_LONE_RANK if spec.layout.world_size == 1 else {}),
        **({} if spec.sealed is spec else {"GALLEY_LAYOUT": compact_json(spec.layout)}),
        **spec.recipe.launcher.env,
    }


def pin_environment(spec: RunSpec, facts: ClusterFacts) -> dict[str, str]:
    """Where oneCCL's threads run, on a node whose cores are known; elsewhere the ranks find out."""
    pins = None if facts.declared else planned_pins(spec.recipe, spec.layout, facts)
    return {} if pins is None else pins.ccl_environment()


def _check_variables(env: dict[str, str]) -> None:
    hint = "letters, digits and _"
    problems = [
        Problem(f"launcher.env.{name}", "is no name of an environment variable", hint)
        for name in env
        if not _VARIABLE.fullmatch(name)
    ]
    problems += [
        Problem(f"launcher.env.{name}", "has a NUL character", "take it out")
        for name, value in env.items()
        if "\0" in value
    ]
    if problems:
        raise ConfigError(problems)
