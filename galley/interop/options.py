"""What `strategy.engine_options` may hold for each engine: a tree of names, None at its leaves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from galley.interop.deepspeed_keys import ADAM, OFFLOAD, OPTIMIZER, TOP, ZERO
from galley.interop.reading import Keep, Table

Tree = Mapping[str, Any]


def _kept(table: Table) -> dict[str, Any]:
    return {name: None for name, entry in table.items() if isinstance(entry, Keep)}


# The two kinds of offload may differ in these; the recipe has one word for both.
_OFFLOAD = {**_kept(OFFLOAD), "nvme_path": None, "pin_memory": None}
OPTIONS: Mapping[str, Tree] = {
    "torch": {},
    "fsdp": {"forward_prefetch": None},
    "deepspeed": {
        **_kept(TOP),
        "zero_optimization": {**_kept(ZERO), "offload_optimizer": _OFFLOAD, "offload_param": _OFFLOAD},
        "optimizer": {**_kept(OPTIMIZER), "params": _kept(ADAM)},
    },
}


def leaves(options: Mapping[str, Any], tree: Tree | None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of each option; a mapping that is one option's value stays whole."""
    for name, value in options.items():
        inner = (tree or {}).get(name)
        if isinstance(value, dict) and inner is not None:
            yield from leaves(value, inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def names(tree: Tree, prefix: str = "") -> Iterator[str]:
    """Dotted names of all options of a tree."""
    for name, inner in tree.items():
        if inner is None:
            yield f"{prefix}{name}"
        else:
            yield from names(inner, f"{prefix}{name}.")
