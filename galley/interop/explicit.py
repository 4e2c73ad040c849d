"""Which keys a person set, as opposed to the defaults that every recipe starts from."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from galley.config.provenance import Source, file_sources
from galley.paths import CONF


def explicit_sources(
    files: Sequence[tuple[Path, str]], typed_groups: Collection[str], typed: Sequence[Source]
) -> dict[str, Source]:
    """Key -> the last setting of it by the recipe or the command line.

    `files` are the composed files with their package, in merge order. The recipe's own choice of a
    strategy is not counted: an outside file is named in its place.
    """
    defaults = _default_options()
    choices = {source.key: source.where for source in typed if source.key in typed_groups}
    found: dict[str, Source] = {}
    for path, package in files:
        group = package.split(".")[0]
        chosen = group != "strategy" and path.stem != defaults.get(group)
        if not group or group in choices or chosen:
            for source in file_sources(path, package):
                where = f"{choices[group]} ({source.where})" if group in choices else source.where
                found[source.key] = replace(source, where=where)
    return found | {source.key: source for source in typed}


def _default_options() -> dict[str, str]:
    """Config group -> the option that `conf/config.yaml` starts from."""
    return dict(_options(yaml.safe_load((CONF / "config.yaml").read_text(encoding="utf-8"))["defaults"]))


def _options(entries: Sequence[object]) -> Iterator[tuple[str, str]]:
    for entry in entries:
        if isinstance(entry, dict):
            yield from entry.items()
