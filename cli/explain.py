"""`explain KEY`: where a value comes from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass

from cli.options import Options
from cli.prepare import settle
from galley.config.compose import compose_recipe, explain_sources
from galley.config.keys import defined_in, is_known, suggest
from galley.errors import ConfigError, Problem


def explain(words: Sequence[str], options: Options) -> int:
    """Print the value of a key, and everything that set it, the winner last."""
    keys = [word for word in words if "=" not in word]
    if len(keys) != 1:
        hint = "explain KEY [OVERRIDES], for example explain optim.lr"
        raise ConfigError(Problem("explain", "takes one key", hint))
    key = keys[0]
    if not is_known(key):
        raise ConfigError(Problem(key, "is not a key", suggest(key)))
    overrides = [word for word in words if word != key]
    overrides, choice = settle(overrides, compose_recipe(overrides, options.config_dirs), options)
    value, sources = explain_sources(overrides, key, options.config_dirs)
    plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
    if options.json:
        print(json.dumps({"key": key, "value": plain, "sources": [asdict(source) for source in sources]}))
        return 0
    print(f"{key} = {json.dumps(plain)}")
    if choice is not None:
        print("  strategy=auto: " + "\n    ".join(choice.lines()))
    if not sources:
        print(f"  default of {defined_in(key)}")
    for source in sources:
        shown = f"{source.key} = {source.value}"
        print(f"  {source.where}" if source.where.startswith(key) else f"  {source.where}  {shown}")
    return 0
