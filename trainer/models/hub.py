"""Handle a hub that cannot be reached, and the messages of the Hugging Face libraries."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies

from galley.errors import ConfigError, Problem
from trainer.compatibility import is_hub_offline

DEFAULT_ENDPOINT = "https://huggingface.co"
PROBE_TIMEOUT_S = 5.0
# Modules that read HF_HUB_OFFLINE once, at import.
READ_AT_IMPORT = {"huggingface_hub.constants", "datasets.config"}
TRUE_VALUES = {"1", "ON", "YES", "TRUE"}


def is_offline() -> bool:
    """Return whether the user, or the network, keeps this machine from the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE_VALUES or not _reachable()


def use_cache_if_unreachable() -> None:
    """Make the libraries use only their caches if the hub is unreachable: they would retry for a minute."""
    if not is_offline():
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in READ_AT_IMPORT & sys.modules.keys():
        vars(sys.modules[name])["HF_HUB_OFFLINE"] = True


def _reachable() -> bool:
    """Return whether the hub, or the proxy on the way to it, accepts a connection."""
    endpoint = urlparse(os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT))
    proxies = getproxies()
    proxy = proxies.get(endpoint.scheme) or proxies.get("all")
    target = endpoint
    if proxy:
        target = urlparse(proxy if "://" in proxy else f"http://{proxy}")
    try:
        port = target.port or (443 if target.scheme == "https" else 80)
        socket.create_connection((target.hostname or "", port), PROBE_TIMEOUT_S).close()
    except (OSError, ValueError):
        return False
    return True


@contextmanager
def hub_errors(key: str, name: str, local: bool = False) -> Iterator[None]:
    """Turn what the libraries raise about `name` into a problem of the recipe key `key`.

    `local`: it is loaded from a folder, so the hub has no part in the failure.
    """
    try:
        yield
    except (OSError, ValueError) as error:  # the libraries' errors of network, cache, names and contents
        raise ConfigError(_problem(f"{key}={name}", error, local)) from error


def _problem(where: str, error: Exception, local: bool) -> Problem:
    """Describe the error: the hub cannot be reached, or what the library says."""
    if not local and (is_hub_offline() or isinstance(error, ConnectionError)):
        what = (
            "is not in the local cache, and the Hugging Face hub cannot be reached:"
            " use profile=small, or a local model with data.path=DIR"
        )
        return Problem(where, what)
    lines = (line.strip() for line in str(error).splitlines())
    reason = next(filter(None, lines), type(error).__name__)
    hint = "" if local else "check the name, and HF_TOKEN for a private one"
    return Problem(where, f"cannot be loaded: {reason}", hint)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Switch off progress bars and warnings of Transformers: Galley itself reports what matters."""
    from transformers.utils import logging

    theirs: Any = logging  # untyped
    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()
