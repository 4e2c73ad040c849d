"""A sealed run -> a launch plan -> a running job.

Launchers are named here and imported only when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from galley.errors import ConfigError, Problem, valid_values

if TYPE_CHECKING:
    from launchers.base import Launcher

LAUNCHERS = {
    "local": "launchers.local.launcher:LocalLauncher",
    # Chosen by a sweep, for its trials on this machine; a recipe names `local`.
    "warm": "launchers.warm.launcher:WarmLauncher",
    "mpi": "launchers.mpi.launcher:MpiLauncher",
    "slurm": "launchers.slurm.launcher:SlurmLauncher",
    "ray": "launchers.ray.launcher:RayLauncher",
    "k8s": "launchers.k8s.launcher:K8sLauncher",
    # The kind of job may be named at once: `launcher=k8s launcher.kind=trainjob`.
    "pytorchjob": "launchers.k8s.launcher:K8sLauncher",
    "trainjob": "launchers.k8s.launcher:K8sLauncher",
}


def make_launcher(name: str) -> Launcher:
    """The launcher called `name`. Raises `ConfigError` where there is none."""
    if name not in LAUNCHERS:
        raise ConfigError(Problem(f"launcher={name}", "is not a launcher", valid_values(name, LAUNCHERS)))
    module, attribute = LAUNCHERS[name].split(":")
    launcher: Launcher = getattr(import_module(module), attribute)()
    return launcher
