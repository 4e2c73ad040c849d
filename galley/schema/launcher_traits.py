"""What the rules of a recipe have to know of its launcher: where the ranks run, and which options are read.

It is data, by the names of Galley's launchers, because recipes are checked before a launcher is imported, and
nothing below the launchers may import them. A launcher from outside Galley has the traits of one whose ranks
run elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from galley.schema.recipe import Recipe


@dataclass(frozen=True)
class LauncherTraits:
    """What is true of a launcher, whatever the recipe.

    Attributes:
        section: of `launcher` that it reads; null: `launcher.options`.
        shares_files: the ranks see the files of this machine at the same paths, and may write them.
        inherits_environment: the ranks have the variables of the user's shell.
        in_pods: the ranks run in pods, which see none of this machine's folders.
        job: the kind of job on Kubernetes that its name asks for.
        keeps_time_limit: something ends a run at `cluster.time_limit_min`.
    """

    section: str | None = None
    shares_files: bool = False
    inherits_environment: bool = False
    in_pods: bool = False
    job: str | None = None
    keeps_time_limit: bool = True


TRAITS: dict[str, LauncherTraits] = {
    "local": LauncherTraits("torchrun", shares_files=True, inherits_environment=True, keeps_time_limit=False),
    "mpi": LauncherTraits("mpi", shares_files=True, keeps_time_limit=False),
    "slurm": LauncherTraits("slurm"),
    "k8s": LauncherTraits("k8s", in_pods=True),
    "pytorchjob": LauncherTraits("k8s", in_pods=True, job="pytorchjob"),
    "trainjob": LauncherTraits("k8s", in_pods=True, job="trainjob"),
    "ray": LauncherTraits("ray", keeps_time_limit=False),
}


def traits(recipe: Recipe) -> LauncherTraits:
    """Those of the recipe's launcher."""
    return TRAITS.get(recipe.launcher.kind, LauncherTraits())
