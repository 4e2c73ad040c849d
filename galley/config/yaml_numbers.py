"""Numbers that YAML 1.1 reads in base 8 or 60: `010` is 8, `12:30:00` is 45000. Refused in a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from galley.config.keys import text_mappings
from galley.config.provenance import display_path
from galley.errors import Problem

_OCTAL = re.compile(r"[-+]?0[0-7_]*[0-7][0-7_]*")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
# Parsing every file would double the time of composition: most have nothing that looks like one.
_SUSPECT = re.compile(rf"(?<![\w.:'\"])(?:{_OCTAL.pattern}|{_SEXAGESIMAL.pattern})(?![\w.'\"])")
_PER_UNIT = {"_s": 1, "_min": 60}


def number_problems(files: Sequence[tuple[Path, str]]) -> Iterator[Problem]:
    """Each number of `files`, (file, package), that is another one than its digits say in base 10.

    The entries of a mapping of texts keep what is written, and are left out.
    """
    for path, package in files:
        text = path.read_text(encoding="utf-8")
        if _SUSPECT.search(text):
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            for scalar, key in _scalars(node, package) if node is not None else ():
                yield from _problem(scalar, key, display_path(path))


def _scalars(node: yaml.Node, key: str) -> Iterator[tuple[yaml.ScalarNode, str]]:
    if isinstance(node, yaml.ScalarNode):
        yield node, key
    elif isinstance(node, yaml.SequenceNode):
        for child in node.value:
            yield from _scalars(child, key)
    elif isinstance(node, yaml.MappingNode):
        for name, child in node.value:
            inner = f"{key}.{name.value}" if key else str(name.value)
            if isinstance(name, yaml.ScalarNode):
                yield name, inner
            if key not in text_mappings():
                yield from _scalars(child, inner)


def _problem(node: yaml.ScalarNode, key: str, file: str) -> Iterator[Problem]:
    text, number = node.value, as_read(node)
    if number is None:
        return
    base = 60 if ":" in text else 8
    where = f"{file}:{node.start_mark.line + 1}: {key}"
    yield Problem(
        where, f"YAML reads {text} as {_decimal(number)}, a number in base {base}", _hint(text, number, key)
    )


def as_read(node: yaml.ScalarNode) -> float | None:
    """The number that is read, if the text is one of another base; None for text in quotes, too."""
    if node.style is not None or not (_OCTAL.fullmatch(node.value) or _SEXAGESIMAL.fullmatch(node.value)):
        return None
    sign = -1 if node.value.startswith("-") else 1
    digits = node.value.lstrip("+-").replace("_", "")
    if ":" not in digits:
        found = int(digits, 8)
        return None if found == int(digits) else float(sign * found)
    total = 0.0
    for part in digits.split(":"):
        total = total * 60 + float(part)
    return sign * total


def _hint(text: str, number: float, key: str) -> str:
    quoted = f"for the text write '{text}'"
    if ":" not in text:
        decimal = text.replace("_", "").lstrip("+").replace("-", "").lstrip("0")
        sign = "-" if text.startswith("-") else ""
        return f"for the decimal number write {sign}{decimal}, for this one {_decimal(number)}, {quoted}"
    unit = next((seconds for suffix, seconds in _PER_UNIT.items() if key.endswith(suffix)), None)
    if unit is not None and text.count(":") == 2:
        return f"for this time of hours, minutes and seconds write {_decimal(number / unit)}, {quoted}"
    return f"for the number write {_decimal(number)}, {quoted}"


def _decimal(number: float) -> str:
    return str(int(number) if number.is_integer() else number)
