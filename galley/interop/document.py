"""An outside configuration file as a mapping, with the line of each key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from galley.config.provenance import display_path
from galley.errors import ConfigError, Problem


@dataclass(frozen=True)
class Document:
    """A file that was read.

    Attributes:
        data: its content.
        lines: dotted key -> line, counted from 1; empty where no line could be told.
    """

    path: Path
    data: Mapping[str, Any]
    lines: Mapping[str, int]

    def where(self, name: str) -> str:
        """`FILE:LINE (KEY)` of one key."""
        line = f":{self.lines[name]}" if name in self.lines else ""
        return f"{display_path(self.path)}{line} ({name})"


def read_json(path: Path, named_by: str) -> Document:
    """A DeepSpeed file, read as DeepSpeed does: with Hjson's comments and trailing commas.

    Raises `ConfigError` if it is missing, neither JSON nor Hjson, or gives a key twice. `named_by` is
    the setting that names the file, for the message.
    """
    text = _read_text(path, named_by)
    try:
        data = _parsed(text)
    except json.JSONDecodeError as error:
        where = f"{display_path(path)}:{error.lineno}"
        raise ConfigError(Problem(where, error.msg, "the file is not valid JSON")) from error
    except _DuplicateKeyError as error:
        raise ConfigError(_duplicate(display_path(path), str(error))) from error
    try:  # JSON is YAML, but for tabs and comments: with tabs only the lines are lost
        lines = dict(_lines(yaml.compose(_COMMENT.sub(_blank, text), Loader=yaml.SafeLoader)))
    except yaml.YAMLError:
        lines = {}
    return Document(path, _mapping(data, path), lines)


def _parsed(text: str) -> Any:
    """Raises JSON's own error, which is the clearer one, for what is not Hjson either."""
    try:
        return json.loads(text, object_pairs_hook=_unique_pairs)
    except json.JSONDecodeError as error:
        import hjson

        try:
            data = hjson.loads(text, object_pairs_hook=_unique_pairs)
        except hjson.HjsonDecodeError:
            raise error from None
        if not isinstance(data, dict):  # a text without quotes is Hjson, too
            raise
        return data


# A string, or a comment outside of one.
_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|\#[^\n]*|/\*.*?\*/', re.DOTALL)


def _blank(found: re.Match[str]) -> str:
    text = found[0]
    return text if text.startswith('"') else "\n" * text.count("\n")


def read_yaml(path: Path, named_by: str) -> Document:
    """An Accelerate file. Raises `ConfigError` if it is missing, not YAML, or gives a key twice."""
    text = _read_text(path, named_by)
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is not None:
            _refuse_duplicates(node, path)
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = Problem(f"{display_path(path)}{line}", str(error.problem), "the file is not valid YAML")
        raise ConfigError(problem) from error
    finally:
        loader.dispose()
    return Document(path, _mapping(data, path), dict(_lines(node)))


class _DuplicateKeyError(ValueError):
    pass


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _DuplicateKeyError(next(name for name in names if names.count(name) > 1))
    return found


def _refuse_duplicates(node: yaml.Node, path: Path) -> None:
    """PyYAML itself would keep the last value without a word; where all are equal nothing is lost."""
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, str] = {}
        for key, value in node.value:
            written = yaml.serialize(value)
            if seen.setdefault(key.value, written) != written:
                where = f"{display_path(path)}:{key.start_mark.line + 1}"
                raise ConfigError(_duplicate(where, str(key.value)))
            _refuse_duplicates(value, path)


def _duplicate(where: str, name: str) -> Problem:
    return Problem(where, f"'{name}' is given twice", "keep one of them")


def _read_text(path: Path, named_by: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        raise ConfigError(Problem(named_by, f"'{path}' {reason}", "a path is relative to here")) from error


def _mapping(data: Any, path: Path) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        what = f"holds a {type(data).__name__}, not a mapping of keys"
        raise ConfigError(Problem(display_path(path), what))
    return data


def _lines(node: yaml.Node | None, prefix: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = f"{prefix}{key.value}"
            yield name, key.start_mark.line + 1
            yield from _lines(value, f"{name}.")
