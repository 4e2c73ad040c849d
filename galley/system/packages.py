"""Versions of the installed packages that decide the result of a run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

PACKAGES = (
    "accelerate", "datasets", "deepspeed", "hydra-core", "numpy", "omegaconf", "peft", "pyarrow",
    "pydantic",
    "safetensors", "tokenizers", "torch", "transformers",
)  # fmt: skip


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that decide a result."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
