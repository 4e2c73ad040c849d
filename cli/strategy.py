"""`strategy export --format deepspeed|accelerate|fsdp`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from cli.options import Options
from cli.prepare import settle
from galley.config.compose import compose_recipe
from galley.errors import ConfigError, Problem, valid_values
from galley.interop.export import FORMATS, export_strategy
from galley.strategy.layout import compute_format
from galley.system.half_precision import with_cost
from galley.system.machine import probe

ACTIONS = ("export",)


def strategy(words: Sequence[str], options: Options) -> int:
    """Print the composed recipe's strategy as a file of another system; nothing else goes to stdout."""
    action, *rest = words or [""]
    if action not in ACTIONS:
        raise ConfigError(
            Problem(f"strategy {action}".strip(), "is not an action", valid_values(action, ACTIONS))
        )
    chosen = options.format or ""
    if chosen not in FORMATS:
        what = f"has no format '{chosen}'" if chosen else "needs --format"
        raise ConfigError(Problem("strategy export", what, valid_values(chosen, FORMATS)))
    recipe = compose_recipe(rest, options.config_dirs)
    rest, choice = settle(rest, recipe, options)
    if choice is not None:
        recipe = compose_recipe(rest, options.config_dirs)
    precision = replace(recipe.precision, compute=compute_format(recipe, with_cost(probe(), recipe)))
    text = export_strategy(replace(recipe, precision=precision), chosen)
    if options.json:
        print(json.dumps({"format": chosen, "text": text}))
    else:
        print(text, end="")
    return 0
