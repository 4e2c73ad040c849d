"""URLs that carry credentials: what is written down names a variable instead.

A recipe is written into run.json, plans, logs and trackers. So a URL with a password is refused there, and
`env:NAME` names the variable that holds it. What a library then says of the URL is cleaned of it.
"""

from __future__ import annotations

import os
import re
from urllib.parse import unquote

from galley.errors import ConfigError, Problem

BY_NAME = "env:"
# `user:password@`, wherever the password ends: it may itself have a slash, a question mark or an `@`.
_USER = re.compile(r"(?:^(?!.*//)|//)[^/@:]*:(?P<secret>.+)@")
_TOKEN = re.compile(r"^https?://(?P<secret>[^/@:?#]+)@", re.IGNORECASE)  # a key in the place of the user
_WORD = r"pass|pwd|token|secret|credential|api_?key|access_?key|signature"
_QUERY = re.compile(
    rf"(?:^|[?&;#\s{{])[\w.\-]*(?:{_WORD})[\w.\-]*\s*=\s*(?P<secret>[^&;#\s}}]+)", re.IGNORECASE
)
_FILES = re.compile(r"(?:^|[?&;])passfile=[^&;#]*", re.IGNORECASE)  # a path, whose content is the secret

_BETWEEN = re.compile(r"[@/:?#&]")  # what a library splits a URL at
_SHORTEST = 3  # characters of a part: shorter ones would be found in every text


def secrets_in(url: str) -> list[str]:
    """Parts of the URL that are credentials, or look like credentials; as written and decoded."""
    found: list[str] = []
    for text in dict.fromkeys((url, unquote(url), unquote(unquote(url)))):
        kept = _FILES.sub("", text)
        for pattern in (_USER, _TOKEN, _QUERY):
            found += [match["secret"] for match in pattern.finditer(kept)]
    return list(dict.fromkeys(found))


def url_problem(key: str, url: str | None) -> Problem | None:
    """Why the URL of this key cannot be written down; null if it can. The message does not repeat it."""
    if url is None or url.startswith(BY_NAME) or not secrets_in(url):
        return None
    hint = f"put the URL into a variable, and set {key}={BY_NAME}NAME"
    return Problem(key, "carries a password, which would be written down", hint)


def resolved(key: str, url: str) -> str:
    """The URL itself, or the one that the variable of `env:NAME` holds.

    Raises `ConfigError` for a URL with credentials, and for a variable that is not set.
    """
    problem = url_problem(key, url)
    if problem is not None:
        raise ConfigError(problem)
    name = variable(url)
    if name is None:
        return url
    if not os.environ.get(name):
        raise ConfigError(Problem(f"{key}={url}", f"the variable {name} is not set"))
    return os.environ[name]


def variable(url: str | None) -> str | None:
    """NAME of `env:NAME`; null for a URL."""
    return url.removeprefix(BY_NAME) if url is not None and url.startswith(BY_NAME) else None


def cleaned(text: str, url: str | None) -> str:
    """The text without the credentials of the URL: for what a library says of it, which may have taken a
    part of a password for something else."""
    secrets = secrets_in(url or "")
    parts = [part for secret in secrets for part in _BETWEEN.split(secret) if len(part) >= _SHORTEST]
    for secret in sorted({*secrets, *parts}, key=len, reverse=True):
        text = text.replace(secret, "…")
    return text
