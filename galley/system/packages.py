"""Versions of the installed packages that decide the result of a run."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "accelerate", "datasets", "deepspeed", "hydra-core", "numpy", "omegaconf", "peft", "pyarrow",
    "pydantic",
    "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip

TESTED = {
    "torch": ("2.9.0", "2.11.0", "2.13.0"),
    "transformers": ("4.57.1", "5.17.0", "5.23.0"),
    "accelerate": ("1.10.0", "1.13.0", "1.15.0"),
    "deepspeed": ("0.17.0", "0.18.9", "0.19.8"),
    "datasets": ("4.0.0", "4.8.5", "5.2.0"),
}
"""The pins of constraints-oldest.txt, constraints-middle.txt and constraints.txt, in that order."""


def tested(name: str, installed: str) -> str:
    """Return the tested versions of a package of `TESTED` as words; empty if `installed` is one of them."""
    oldest, *_, newest = TESTED[name]
    if installed.partition("+")[0] in TESTED[name]:
        return ""
    if numbers(oldest) <= numbers(installed) <= numbers(newest):
        return f"tested: {', '.join(TESTED[name])}"
    return f"outside of what is tested: {oldest} to {newest}"


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a release: 2, 9, 0 for `2.9.0+cu128`, and for `2.9.0a0+nv25.10`, too."""
    return tuple(map(int, re.findall(r"\d+", re.split(r"[+a-z]", version)[0])))


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
