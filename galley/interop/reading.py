"""What one outside file says, key by key against a table of the keys that its engine knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from galley.config.provenance import Source, display_path
from galley.errors import Problem, nearest
from galley.interop.document import Document
from galley.interop.values import FALSE, Reader, is_auto, mapping

OPTIONS = "strategy.engine_options"


@dataclass(frozen=True)
class Take:
    """The recipe has a word for it; the reader of the file says which."""


@dataclass(frozen=True)
class Keep:
    """Passed on to the engine as it is, under its own name."""

    read: Reader


@dataclass(frozen=True)
class Refuse:
    """Cannot be honored. `ok` are values that ask for nothing; switched off is always one."""

    why: str
    ok: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Settled:
    """Asks for nothing by itself: it tells the outside launcher how to start processes, which ours
    settles, or is a detail of a feature whose own key is refused."""


Entry = Take | Keep | Refuse | Settled
Table = Mapping[str, Entry]


@dataclass
class Reading:
    """What was found in one file, mistakes included.

    Attributes:
        sources: recipe keys with their value and place.
        left_to_recipe: recipe keys that the file calls `auto`.
    """

    document: Document
    sources: list[Source] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    left_to_recipe: set[str] = field(default_factory=set)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    alike: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def take(self, key: str, value: Any, name: str) -> None:
        """The file's key `name` sets the recipe's `key`."""
        self.sources.append(Source(key, self.document.where(name), value))

    def refuse(self, name: str, why: str, hint: str = "") -> None:
        self.problems.append(Problem(self.document.where(name), why, hint))

    def refuse_alike(self, name: str, why: str, hint: str) -> None:
        """Keys that are refused for one reason become one problem."""
        self.alike.setdefault((why, hint), []).append(name)

    def value(self, key: str) -> Any:
        """What the file sets the recipe's `key` to; None if it does not."""
        return next((source.value for source in self.sources if source.key == key), None)

    def close(self) -> None:
        """Keys refused alike, and all unknown keys with the nearest names, in one problem each."""
        for (why, hint), (first, *others) in self.alike.items():
            self.refuse(first, f"{why}; the same holds for {', '.join(others)}" if others else why, hint)
        if self.unknown:
            count = "an unknown key" if len(self.unknown) == 1 else f"{len(self.unknown)} unknown keys"
            listing = "; ".join(f"'{name}' {guess}".strip() for name, guess in self.unknown)
            what = f"{count}: {listing}"
            self.problems.append(Problem(display_path(self.document.path), what))


class Block:
    """One mapping of the file, already held against its table: unknown and refused keys are noted
    in the reading and kept options are in its sources; what is left is read by name.

    Args:
        prefix: where the mapping lies in the file, with a final dot; empty for the whole file.
        aliases: other names of keys, as older versions of the engine wrote them.
    """

    def __init__(
        self,
        reading: Reading,
        prefix: str,
        data: Mapping[str, Any],
        table: Table,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.reading = reading
        self.prefix = prefix
        self._aliases = dict(aliases or {})
        self._data: dict[str, tuple[str, Any]] = {}
        for written, value in data.items():
            name = self._aliases.get(written, str(written))
            if name not in table and is_comment(str(written)):
                continue
            if name not in table:
                known = nearest(str(written), [*table, *self._aliases])
                reading.unknown.append((f"{prefix}{written}", f"({known})" if known else ""))
            elif value is not None:
                self._sort(name, str(written), value, table[name])

    def _sort(self, name: str, written: str, value: Any, entry: Entry) -> None:
        full = f"{self.prefix}{written}"
        match entry:
            case Keep(read) if not is_auto(value):
                self._keep(name, full, value, read)
            case Refuse(why, ok) if not (is_off(value) or value in ok):
                self.reading.refuse_alike(full, why, "switch it off" if _can_be_off(value) else "remove it")
            case Take() if name in self._data and self._data[name][1] != value:
                first, other = self._data[name]
                self.reading.refuse(full, f"is {value!r}, but its other name {first} is {other!r}")
            case Take():
                self._data[name] = (written, value)

    def _keep(self, name: str, full: str, value: Any, read: Reader) -> None:
        try:
            self.reading.take(f"{OPTIONS}.{self.prefix}{name}", read(value), full)
        except ValueError as error:
            self.reading.refuse(full, f"{value!r} is not a valid value", str(error))

    def name(self, name: str) -> str:
        """The key as the file writes it, with its prefix."""
        return self.prefix + self._data[name][0] if name in self._data else self.prefix + name

    def read(self, name: str, reader: Reader) -> Any:
        """The value; None if it is absent, null or `auto`, or wrong, which is then noted."""
        if name not in self._data or is_auto(self._data[name][1]):
            return None
        try:
            return reader(self._data[name][1])
        except ValueError as error:
            what = f"{self._data[name][1]!r} is not a valid value"
            self.reading.refuse(self.name(name), what, str(error))
            return None

    def take(self, name: str, key: str, reader: Reader) -> Any:
        """Read the value into the recipe's `key`; `auto` leaves the key to the recipe."""
        if self.is_auto(name):
            self.reading.left_to_recipe.add(key)
        value = self.read(name, reader)
        if value is not None:
            self.reading.take(key, value, self.name(name))
        return value

    def is_auto(self, name: str) -> bool:
        return name in self._data and is_auto(self._data[name][1])

    def has(self, name: str) -> bool:
        return name in self._data

    def block(self, name: str, table: Table, aliases: Mapping[str, str] | None = None) -> Block:
        """The mapping under `name`; an empty one where it is absent."""
        data = self.read(name, mapping) or {}
        return Block(self.reading, f"{self.name(name)}.", data, table, aliases)


def is_comment(name: str) -> bool:
    """Whether a key is a remark, as JSON has no comments: `_comment`, `//`, `#`."""
    return name.startswith(("_comment", "__comment", "//", "#"))


def is_off(value: Any) -> bool:
    """Whether a value asks for nothing. A block is off if it says so, or if all that it holds do."""
    if isinstance(value, dict):
        said = [value["enabled"]] if "enabled" in value else list(_switches(value))
        return not value or (bool(said) and all(map(is_off, said)))
    if isinstance(value, str):
        return value.lower() in (*FALSE, "", "none", "auto")
    return not value


def _switches(block: Mapping[str, Any]) -> Iterator[Any]:
    """Every `enabled` of the blocks in a block."""
    for name, value in block.items():
        if name == "enabled":
            yield value
        elif isinstance(value, dict):
            yield from _switches(value)


def _can_be_off(value: Any) -> bool:
    return isinstance(value, bool) or (isinstance(value, dict) and "enabled" in value)
