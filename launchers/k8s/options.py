"""Rules between the options of `launcher=k8s` and the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from galley.errors import Problem
from galley.spec import RunSpec
from launchers.k8s.manifests import kind_of

_ELASTIC = "launcher.k8s.max_nodes"


def option_problems(spec: RunSpec) -> Iterator[Problem]:
    """What the manifests could not say."""
    options = spec.recipe.launcher.k8s
    if options.max_nodes is None and options.min_nodes is not None:
        yield Problem("launcher.k8s.min_nodes", "is set without max_nodes", f"set {_ELASTIC}=N")
    if kind_of(spec) == "trainjob":
        yield from _train_job(spec)
    if options.claim is None:
        yield from _without_claim(spec)
    if options.transport != "claim" or options.claim_here != options.mount_path:
        yield from _without_common_path(spec)
    if options.claim_here is not None and options.transport != "claim":
        yield Problem("launcher.k8s.claim_here", "is not read", "set launcher.k8s.transport=claim")


def _train_job(spec: RunSpec) -> Iterator[Problem]:
    options = spec.recipe.launcher.k8s
    if options.max_nodes is not None:
        hint = "choose launcher.k8s.kind=pytorchjob, or leave min_nodes and max_nodes out"
        yield Problem(_ELASTIC, "a TrainJob has no elastic policy", hint)
    if options.runtime is None:
        return
    belongs = {
        "gang": options.gang != "none",
        "scheduler": options.scheduler,
        "keep_s": options.keep_s is not None,
    }
    for name, is_set in {**belongs, "priority_class": options.priority_class}.items():
        if is_set:
            what = f"belongs to the runtime, and '{options.runtime}' is there already"
            yield Problem(f"launcher.k8s.{name}", what, "set it in the runtime, or launcher.k8s.runtime=null")


def _without_common_path(spec: RunSpec) -> Iterator[Problem]:
    """A checkpoint of another run is named by its path on this machine."""
    recipe = spec.recipe
    needs = {
        "checkpoint.resume_from": recipe.checkpoint.resume_from is not None,
        "train.stop_at_step": recipe.train.stop_at_step is not None,
    }
    for key, is_set in needs.items():
        if is_set:
            what = "needs run folders that this machine and the pods see at the same path"
            hint = "set launcher.k8s.transport=claim, and claim_here and mount_path to one folder"
            yield Problem(key, what, hint)


def _without_claim(spec: RunSpec) -> Iterator[Problem]:
    recipe = spec.recipe
    needs = {
        "launcher.k8s.transport": recipe.launcher.k8s.transport == "claim",
        "checkpoint.every_steps": recipe.checkpoint.every_steps is not None,
        _ELASTIC: recipe.launcher.k8s.max_nodes is not None,
    }
    for key, is_set in needs.items():
        if is_set:
            what = "needs storage that outlives the pods, but launcher.k8s.claim is null"
            yield Problem(key, what, "set launcher.k8s.claim=NAME, a PersistentVolumeClaim")
