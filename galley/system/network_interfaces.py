"""The networks of this machine that gloo is told to use."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

from galley.errors import Problem, valid_values
from galley.schema import Recipe
from galley.spec import ClusterFacts

GLOO = "GLOO_SOCKET_IFNAME"


def interface_problems(recipe: Recipe, facts: ClusterFacts) -> Iterator[Problem]:
    """A name in `GLOO_SOCKET_IFNAME` that the ranks on this machine cannot use; of nodes elsewhere nothing
    is known. A value of `launcher.env` comes before that of the environment.
    """
    asked = recipe.launcher.env.get(GLOO)
    where = f"{GLOO}={os.environ.get(GLOO)}" if asked is None else f"launcher.env.{GLOO}"
    if not facts.declared and not facts.hosts:
        yield from missing_interfaces(where, os.environ.get(GLOO) if asked is None else asked)


def missing_interfaces(where: str, asked: str | None) -> Iterator[Problem]:
    """Names of `asked`, separated by commas, that this machine has no interface with an address for."""
    known = interfaces() if asked is not None else []
    for name in (asked or "").split(",") if asked else ():
        if name not in known:
            what = f"{socket.gethostname()} has no network interface '{name}'"
            yield Problem(where, what, valid_values(name, known))


def interfaces() -> list[str]:
    """Those that have an address."""
    import psutil

    families = (socket.AF_INET, socket.AF_INET6)
    found = psutil.net_if_addrs().items()
    return sorted(name for name, entries in found if any(entry.family in families for entry in entries))
