"""Versions of the installed packages that decide the result of a run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from galley.registry import CHOSEN_BY_RECIPES, EMBEDDED, EMBEDDED_PREFIX
from galley.schema import Recipe

PACKAGES = (
    "accelerate", "datasets", "deepspeed", "hydra-core", "numpy", "omegaconf", "peft", "pyarrow",
    "pydantic",
    "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip

TRIED = {
    "torch": ("2.9.0", "2.11.0", "2.13.0"),
    "transformers": ("4.57.1", "5.17.0", "5.23.0"),
    "accelerate": ("1.10.0", "1.13.0", "1.15.0"),
    "deepspeed": ("0.17.0", "0.18.9", "0.19.8"),
    "datasets": ("4.0.0", "4.8.5", "5.2.0"),
}
"""The pins of constraints-oldest.txt, constraints-middle.txt and constraints.txt, in that order."""


def tried(name: str, installed: str) -> str:
    """Return the versions that were tried, as words; empty if `installed` is one of them."""
    oldest, *_, newest = TRIED[name]
    if installed.partition("+")[0] in TRIED[name]:
        return ""
    if numbers(oldest) <= numbers(installed) <= numbers(newest):
        return f"tried: {', '.join(TRIED[name])}"
    return f"outside of what was tried: {oldest} to {newest}"


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release: 2, 9, 0 for `2.9.0+cu128`, and for `2.9.0a0+nv25.10`, too."""
    return tuple(map(int, re.findall(r"\d+", re.split(r"[+a-z]", version)[0])))


def package_versions(further: Iterable[str] = ()) -> dict[str, str]:
    """Return the installed versions of the packages that decide every result, and of `further` ones."""
    versions = {}
    for name in (*PACKAGES, *further):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def extension_versions(recipe: Recipe) -> dict[str, str]:
    """Return the versions of the packages from outside Galley that bring what the recipe names."""
    versions: dict[str, str] = {}
    for registry in CHOSEN_BY_RECIPES:
        versions |= registry.provider(registry.chosen(recipe))
    for registry in EMBEDDED:
        name = registry.chosen(recipe)
        if name.startswith(EMBEDDED_PREFIX):
            versions |= registry.provider(name.removeprefix(EMBEDDED_PREFIX))
    return versions
