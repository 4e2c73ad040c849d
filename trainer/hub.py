"""The Hugging Face hub, and the one line that a user sees when it cannot be reached."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlparse

from galley.errors import ConfigError, Problem

DEFAULT_ENDPOINT = "https://huggingface.co"
PROBE_TIMEOUT_S = 5.0


def use_cache_if_unreachable() -> None:
    """Before a Hugging Face library is imported: without the hub it shall look into its cache only.

    Their clients would retry for minutes, for every file.
    """
    if os.environ.get("HF_HUB_OFFLINE") is None and not _reachable():
        os.environ["HF_HUB_OFFLINE"] = "1"


def _reachable() -> bool:
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True  # only the proxy can tell
    url = urlparse(os.environ.get("HF_ENDPOINT", DEFAULT_ENDPOINT))
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True


@contextmanager
def hub_errors(key: str, name: str) -> Iterator[None]:
    """Turns what the libraries raise about `name` into a problem of the recipe key `key`."""
    try:
        yield
    except (OSError, ValueError) as error:  # their errors of network, cache and names are of these
        reason = next(
            (line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__
        )
        if os.environ.get("HF_HUB_OFFLINE") == "1":
            what = "is not in the local cache, and the Hugging Face hub cannot be reached"
            hint = "offline: profile=small, or model=minilm and data.path=DIR"
        else:
            what, hint = f"cannot be loaded: {reason}", "check the name, and HF_TOKEN for a private one"
        raise ConfigError(Problem(f"{key}={name}", what, hint)) from error
