"""Names of classes and tags in a model's configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from galley.config.rules.model import is_own_module
from galley.schema import Recipe
from trainer.models.build import find_source
from trainer.models.hub import hub_errors, quiet_transformers

# Transformers' names of the classes of a model that has no names for them.
NO_NAME = re.compile(r"LABEL_\d+")


def name_options(names: Sequence[str]) -> dict[str, Any]:
    """Return the keys of a configuration that name the outputs of a head."""
    by_number = dict(enumerate(names))
    return {"id2label": by_number, "label2id": {name: number for number, name in by_number.items()}}


def class_names(config: Any) -> list[str]:
    """Return the classes of a model in their order; empty if it has no names for them."""
    named = dict(getattr(config, "id2label", None) or {})
    names = [str(named[number]) for number in sorted(named)]
    return [] if all(NO_NAME.fullmatch(name) for name in names) else names


def stored_class_names(recipe: Recipe) -> list[str]:
    """Return the classes of the recipe's model, if it is a stored one; see `class_names`."""
    model = recipe.model
    if is_own_module(model) or model.architecture is not None or model.from_config:
        return []
    from transformers import AutoConfig

    source = find_source(recipe)
    with quiet_transformers(), hub_errors("model.name", model.name, source.local):
        return class_names(AutoConfig.from_pretrained(source.path, trust_remote_code=model.trust_remote_code))
