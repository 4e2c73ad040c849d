"""Objects -> YAML that every parser reads alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Object = dict[str, Any]


class _Dumper(yaml.SafeDumper):
    """Writes keys plain, and every text quoted or as a block.

    kubectl's parser reads more unquoted texts as numbers than PyYAML does (`1e5`, `0o17`).
    """

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        node = super().represent_mapping(tag, mapping, flow_style)
        for key, _ in node.value:
            key.style = None
        return node


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = "|" if value.count("\n") > 1 else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(objects: Sequence[Mapping[str, Any]], head: str) -> str:
    """Return all objects as one stream of documents below the comment `head`."""
    documents = yaml.dump_all(
        objects,
        Dumper=_Dumper,
        sort_keys=False,
        explicit_start=True,
        allow_unicode=True,
        width=10**6,
        default_flow_style=False,
    )
    return f"# {head}\n{documents}"


def from_yaml(text: str) -> list[Object]:
    """Return the objects of a stream."""
    return [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document is not None]
