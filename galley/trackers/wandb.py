"""Weights & Biases: the only module that imports wandb for runs."""

from __future__ import annotations

import netrc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlparse

import wandb

from galley.trackers.base import About, Tracker

_INIT_TIMEOUT_S = 60.0


class WandbTracker(Tracker):
    """One W&B run. Resumed attempts continue it; offline runs wait in the folder for `wandb sync`."""

    def __init__(self, about: About) -> None:
        with _without_words():
            self._run: Any = self._open(about)

    @staticmethod
    def _open(about: About) -> Any:
        settings = about.settings
        return wandb.init(
            id=about.id,
            name=about.name,
            group=about.group,
            job_type=about.kind,
            project=settings.project,
            entity=settings.entity,
            tags=settings.tags,
            config=about.config,
            dir=str(about.folder),
            mode=wandb_mode(settings.mode, os.environ),
            resume="allow",
            # Neither the console, nor the code, nor the packages of the user are sent anywhere.
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                init_timeout=_INIT_TIMEOUT_S,
            ),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

    def finish(self, summary: Mapping[str, float | int | str], succeeded: bool) -> None:
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if succeeded else 1)
        wandb.teardown()  # which waits for W&B's own process: it closes the records after it has said so


@contextmanager
def _without_words() -> Iterator[None]:
    """W&B records `sys.argv`, and has no setting against it: those of a sweep are the user's words, values
    of `launcher.env` among them."""
    words = sys.argv[1:]
    del sys.argv[1:]
    try:
        yield
    finally:
        sys.argv[1:] = words


def wandb_mode(asked: str, environ: Mapping[str, str]) -> Any:
    """`auto` is $WANDB_MODE, else online where there is a key for the server, else offline."""
    if asked != "auto":
        return asked
    if environ.get("WANDB_MODE"):
        return environ["WANDB_MODE"]
    return "online" if environ.get("WANDB_API_KEY") or _has_login(environ) else "offline"


def _has_login(environ: Mapping[str, str]) -> bool:
    """Whether `wandb login` has left a key in the netrc file. The key itself is not looked at."""
    host = urlparse(environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return host in netrc.netrc(environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
