"""Outside files for the tests, and the recipe or the problems that come of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from galley.config.compose import compose_recipe
from galley.config.hydra_bridge import open_loader
from galley.config.provenance import Source
from galley.config.rules.recipe import recipe_problems
from galley.config.validate import validate
from galley.errors import ConfigError, Problem
from galley.interop import absorb
from galley.interop.explicit import explicit_sources
from galley.schema import Recipe


def deepspeed_file(folder: Path, config: Mapping[str, Any]) -> str:
    """`strategy.deepspeed_config=…` for a file with this content."""
    file = folder / "ds.json"
    file.write_text(json.dumps(config, indent=1))
    return f"strategy.deepspeed_config={file}"


def accelerate_file(folder: Path, config: Mapping[str, Any]) -> str:
    """`strategy.accelerate_config=…` for a file with this content."""
    file = folder / "acc.yaml"
    file.write_text(yaml.safe_dump(dict(config)))
    return f"strategy.accelerate_config={file}"


def fsdp(**block: Any) -> dict[str, Any]:
    """An Accelerate file of FSDP with these keys of `fsdp_config`."""
    return {"distributed_type": "FSDP", "fsdp_config": block}


def zero(stage: int | str = 2, **top: Any) -> dict[str, Any]:
    """A DeepSpeed file of this stage with these further keys."""
    return {"zero_optimization": {"stage": stage}, **top}


@cache
def _quickstart() -> tuple[dict[str, Any], dict[str, Source]]:
    """The default recipe as composed, and what it states itself: composed once, for speed."""
    with open_loader() as loader:
        return loader.merged([]), explicit_sources(loader.files([]), (), ())


def _read(override: str) -> Recipe:
    """The default recipe with one outside file, as `compose_recipe` makes it."""
    container, explicit = _quickstart()
    key, _, file = override.partition("=")
    named = {**container, "strategy": {**container["strategy"], key.removeprefix("strategy."): file}}
    absorbed = absorb(named, {**explicit, key: Source(key, override, file)})
    recipe, mistakes = validate(absorbed.container)
    wrong = [Problem(mistake.key, mistake.what, mistake.hint) for mistake in mistakes]
    found = [*absorbed.problems, *wrong, *recipe_problems(recipe)]
    if found:
        raise ConfigError(found)
    return recipe


def compose(*overrides: str) -> Recipe:
    """The recipe of one command."""
    alone = len(overrides) == 1 and "_config=" in overrides[0]
    return _read(overrides[0]) if alone else compose_recipe(overrides)


def problems(*overrides: str) -> list[str]:
    """What `compose` reports; fails if it composes."""
    with pytest.raises(ConfigError) as caught:
        compose(*overrides)
    return [str(problem) for problem in caught.value.problems]


def problem(*overrides: str) -> str:
    """The one problem that there is."""
    found = problems(*overrides)
    assert len(found) == 1, "\n".join(found)
    return found[0]
