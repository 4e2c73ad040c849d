"""Text that YAML and Hydra read as a number is kept as it was written: `1.10`, `12:30`, `0777`, `0x3`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from galley.config.keys import text_mappings
from galley.config.provenance import Source, last_source


def keep_written(container: dict[str, Any], sources: Callable[[], Sequence[Source]]) -> None:
    """Put the written text in the place of each number in a mapping of texts, such as `launcher.env`.

    `sources` reads every setting, with the numbers of the command line as they were typed. It is called
    only if there is a number. One whose text is not found, behind a reference, stays a number.
    """
    numbers = [
        (mapping, name, section) for mapping, section in _sections(container) for name in _numbers(section)
    ]
    known = sources() if numbers else []
    for mapping, name, section in numbers:
        written = _written(last_source(known, f"{mapping}.{name}"), last_source(known, mapping), name)
        if written is not None:
            section[name] = written


def _sections(container: dict[str, Any]) -> Iterator[tuple[str, dict[Any, Any]]]:
    for mapping in text_mappings():
        section: Any = container
        for name in mapping.split("."):
            section = section.get(name) if isinstance(section, dict) else None
        if isinstance(section, dict):
            yield mapping, section


def _numbers(section: dict[Any, Any]) -> list[Any]:
    return [
        name
        for name, value in section.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _written(own: Source | None, whole: Source | None, name: Any) -> str | None:
    """Of the key itself, or of a mapping that was typed at once, whichever came last."""
    last = whole if whole is not None and isinstance(whole.value, dict) else own
    value = last.value.get(name) if last is not None and isinstance(last.value, dict) else None
    found = value if value is not None else None if own is None else own.value
    return found if isinstance(found, str) and "${" not in found else None
