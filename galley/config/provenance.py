"""Which file and line, or which override, set a key. Read only for `explain` and for errors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from galley.paths import ROOT


@dataclass(frozen=True)
class Source:
    """One setting of a key: `where` is `file:line` or the override as it was typed."""

    key: str
    where: str
    value: Any


def display_path(path: Path) -> str:
    """Relative to the checkout where it lies inside, else absolute."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def file_sources(path: Path, package: str) -> Iterator[Source]:
    """Every value of one YAML file under its dotted key, in file order."""
    with path.open(encoding="utf-8") as stream:
        node = yaml.compose(stream, Loader=yaml.SafeLoader)
    if isinstance(node, yaml.MappingNode):
        yield from _walk(node, package, display_path(path))


def _walk(node: yaml.MappingNode, prefix: str, file: str) -> Iterator[Source]:
    for key_node, value_node in node.value:
        if not prefix and key_node.value == "defaults":
            continue
        key = f"{prefix}.{key_node.value}" if prefix else str(key_node.value)
        if isinstance(value_node, yaml.MappingNode) and value_node.value:
            yield from _walk(value_node, key, file)
        else:
            line = key_node.start_mark.line + 1
            yield Source(key, f"{file}:{line}", _plain(value_node))


def _plain(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child) for child in node.value]
    return node.value if isinstance(node, yaml.ScalarNode) else {}


def last_source(sources: Sequence[Source], key: str) -> Source | None:
    """The setting of `key` (or of a key inside it) that won; None if it has its default."""
    matching = [s for s in sources if s.key == key or s.key.startswith(f"{key}.")]
    return matching[-1] if matching else None


def choice_sources(path: Path) -> Iterator[Source]:
    """Each option that a recipe chooses, under the name of its group, in its defaults or by a plain word."""
    with path.open(encoding="utf-8") as stream:
        node = yaml.compose(stream, Loader=yaml.SafeLoader)
    pairs = list(node.value) if isinstance(node, yaml.MappingNode) else []
    lists = [value for key, value in pairs if key.value == "defaults"]
    entries = [entry for one in lists if isinstance(one, yaml.SequenceNode) for entry in one.value]
    pairs += [pair for entry in entries if isinstance(entry, yaml.MappingNode) for pair in entry.value]
    for key, value in pairs:
        if isinstance(value, yaml.ScalarNode):
            group = key.value.removeprefix("override ").strip().removeprefix("/")
            yield Source(group, f"{display_path(path)}:{key.start_mark.line + 1}", value.value)
