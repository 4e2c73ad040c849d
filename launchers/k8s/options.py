"""Rules between the options of `launcher=k8s` and the rest of a recipe."""

from __future__ import annotations

from collections.abc import Iterator

from galley.config.rules.k8s import k8s_problems
from galley.config.rules.launcher import unread_problems
from galley.errors import Problem
from galley.spec import RunSpec


def option_problems(spec: RunSpec) -> Iterator[Problem]:
    """Yield settings that the manifests cannot express."""
    options = spec.recipe.launcher.k8s
    yield from unread_problems(spec.recipe)
    yield from k8s_problems(spec.recipe)
    if options.claim is None:
        yield from _without_claim(spec)
    if options.transport != "claim" or options.claim_here != options.mount_path:
        yield from _without_common_path(spec)


def _without_common_path(spec: RunSpec) -> Iterator[Problem]:
    """Yield settings that need one path: a checkpoint of another run is named by its path on this machine."""
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
    """Yield settings that need storage which outlives the pods."""
    recipe = spec.recipe
    needs = {
        "launcher.k8s.transport": recipe.launcher.k8s.transport == "claim",
        "checkpoint.every_steps": recipe.checkpoint.every_steps is not None,
        "checkpoint.keep_best": recipe.checkpoint.keep_best is not None,
        "launcher.k8s.max_nodes": recipe.launcher.k8s.max_nodes is not None,
    }
    for key, is_set in needs.items():
        if is_set:
            what = "needs storage that outlives the pods, but launcher.k8s.claim is null"
            yield Problem(key, what, "set launcher.k8s.claim=NAME, a PersistentVolumeClaim")
