"""Options of a launcher that nothing reads beside other options: one table for all launchers.

`launcher.k8s.…` under `launcher=slurm` is another matter: a recipe may describe several clusters. What is
set for another one than it is started on is a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from galley.errors import Problem
from galley.schema import Launcher, Recipe
from galley.schema.launcher_traits import TRAITS, traits


@dataclass(frozen=True)
class Unread:
    """Options that nothing reads in some recipes.

    Attributes:
        names: of the options, in the launcher's section.
        because: why, as the end of a sentence; for a recipe that reads them null.
        hint: what to do.
    """

    names: tuple[str, ...]
    because: Callable[[Recipe], str | None]
    hint: str


def job_kind(launcher: Launcher) -> str:
    """The kind of job on Kubernetes, which `launcher.kind` may name itself."""
    return TRAITS[launcher.kind].job or launcher.k8s.kind


def _elastic_torchrun(recipe: Recipe) -> str | None:
    return None if recipe.launcher.torchrun.max_nodes is not None else "only an elastic run reads it"


def _several_nodes(recipe: Recipe) -> str | None:
    elastic = recipe.launcher.torchrun.max_nodes is not None
    return None if recipe.cluster.nodes > 1 or elastic else "the run has one node, whose ranks need no other"


def _own_masks(recipe: Recipe) -> str | None:
    return "pin_masks say already which CPUs a rank has" if recipe.launcher.mpi.pin_masks else None


def _image(recipe: Recipe) -> str | None:
    return None if recipe.launcher.slurm.container_image is not None else "there is no container_image"


def _spare(recipe: Recipe) -> str | None:
    return None if recipe.launcher.slurm.spare_nodes else "there are no spare_nodes"


def _elastic_job(recipe: Recipe) -> str | None:
    return None if recipe.launcher.k8s.max_nodes is not None else "only an elastic job reads it"


def _runtime(recipe: Recipe) -> str | None:
    runtime = recipe.launcher.k8s.runtime
    if job_kind(recipe.launcher) != "trainjob" or runtime is None:
        return None
    return f"it belongs to the runtime, and '{runtime}' is there already"


def _train_job(recipe: Recipe) -> str | None:
    return "a TrainJob keeps its pods" if job_kind(recipe.launcher) == "trainjob" else None


def _rigid(recipe: Recipe) -> str | None:
    return "a TrainJob has no elastic policy" if job_kind(recipe.launcher) == "trainjob" else None


def _pytorch_job(recipe: Recipe) -> str | None:
    return "a PyTorchJob has no runtime" if job_kind(recipe.launcher) == "pytorchjob" else None


def _own_runtime(recipe: Recipe) -> str | None:
    named = recipe.launcher.k8s.runtime is not None or job_kind(recipe.launcher) == "pytorchjob"
    return None if named else "no runtime is named: Galley brings a ClusterTrainingRuntime"


def _no_gang(recipe: Recipe) -> str | None:
    launcher = recipe.launcher
    if _runtime(recipe) is not None:
        return None
    if launcher.k8s.gang == "none":
        return "the pods do not wait for each other: gang is 'none'"
    volcano = launcher.k8s.gang == "volcano" and job_kind(launcher) == "trainjob"
    return "the volcano gang of a TrainJob has no time limit" if volcano else None


def _by_config_map(recipe: Recipe) -> str | None:
    return None if recipe.launcher.k8s.transport == "claim" else "transport is 'configmap'"


def _no_claim(recipe: Recipe) -> str | None:
    return None if recipe.launcher.k8s.claim is not None else "there is no claim"


def _no_names(recipe: Recipe) -> str | None:
    return None if recipe.launcher.forward_env else "launcher.forward_env names no variable"


UNREAD: dict[str, tuple[Unread, ...]] = {
    "torchrun": (
        Unread(("rendezvous", "backend"), _several_nodes, "set cluster.nodes=N, or leave it out"),
        Unread(
            ("min_nodes", "max_restarts", "last_call_s"),
            _elastic_torchrun,
            "set launcher.torchrun.max_nodes=N, or leave it out",
        ),
    ),
    "mpi": (Unread(("bind",), _own_masks, "keep one of them"),),
    "slurm": (
        Unread(
            ("container_runtime", "container_mounts", "container_options", "container_python"),
            _image,
            "set launcher.slurm.container_image=IMAGE, or leave it out",
        ),
        Unread(("spare_constraint",), _spare, "set launcher.slurm.spare_nodes=N, or leave it out"),
    ),
    "k8s": (
        Unread(
            ("min_nodes", "max_nodes"),
            _rigid,
            "choose launcher.k8s.kind=pytorchjob, or leave min_nodes and max_nodes out",
        ),
        Unread(
            ("min_nodes", "last_call_s"), _elastic_job, "set launcher.k8s.max_nodes=N, or leave it out"
        ),
        Unread(
            (
                *("gang", "gang_timeout_s", "scheduler", "priority_class"),
                *("keep_s", "max_restarts", "image_pull_policy"),
                *("env_from", "topology_spread", "host_network", "dns_policy", "init_containers"),
            ),
            _runtime,
            "set it in the runtime, or launcher.k8s.runtime=null",
        ),
        Unread(("clean_pods",), _train_job, "choose launcher.k8s.kind=pytorchjob, or leave it out"),
        Unread(
            ("runtime", "runtime_kind"), _pytorch_job, "choose launcher.k8s.kind=trainjob, or leave it out"
        ),
        Unread(("runtime_kind",), _own_runtime, "set launcher.k8s.runtime=NAME, or leave it out"),
        Unread(("gang_timeout_s",), _no_gang, "set launcher.k8s.gang=coscheduling, or leave it out"),
        Unread(("claim_here",), _by_config_map, "set launcher.k8s.transport=claim, or leave it out"),
        Unread(("sub_path",), _no_claim, "set launcher.k8s.claim=NAME, or leave it out"),
        Unread(("secret",), _no_names, "name the variables in launcher.forward_env, or leave it out"),
    ),
    "ray": (),
}  # fmt: skip
"""Section of `launcher` -> what of it may be set in vain."""


def unread_problems(recipe: Recipe) -> Iterator[Problem]:
    """Options of the launcher in force that are set, and that nothing would read; each once."""
    section = traits(recipe).section
    if section is None:  # of a launcher from outside Galley, whose options are its own
        return
    told = set[str]()
    for row in UNREAD[section]:
        because = row.because(recipe)
        for name in row.names if because is not None else ():
            if name in _set_options(recipe, section) and name not in told:
                told.add(name)
                yield Problem(f"launcher.{section}.{name}", f"is set, but {because}", row.hint)


def _set_options(recipe: Recipe, section: str) -> list[str]:
    """The options of a section that differ from their defaults."""
    found: Any = getattr(recipe.launcher, section)
    unset = type(found)()
    return [f.name for f in fields(found) if getattr(found, f.name) != getattr(unset, f.name)]


def unread_warnings(recipe: Recipe) -> list[str]:
    """Options of launchers that the run is not started by, and a time limit that nobody keeps."""
    kind, own, found = recipe.launcher.kind, traits(recipe), []
    for section in UNREAD:
        names = _set_options(recipe, section) if section != own.section else []
        if names:
            found.append(f"launcher={kind} does not read launcher.{section}: {', '.join(names)}")
    if recipe.cluster.time_limit_min is not None and not own.keeps_time_limit:
        found.append(f"launcher={kind} does not read cluster.time_limit_min: nothing ends the run")
    return found
