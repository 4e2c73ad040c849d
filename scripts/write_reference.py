"""Write docs/reference/keys.md and recipes.md from galley/schema, conf/ and recipes/.

    python scripts/write_reference.py [--check]

`--check` writes nothing and exits with 1 when a file is not what the source says.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
import typing
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from galley.schema import Recipe
from galley.schema.types import NameIn

REPO = Path(__file__).resolve().parent.parent
FOLDER = REPO / "docs" / "reference"
NOTICE = "<!-- Written by scripts/write_reference.py (`make reference`). Do not edit. -->\n"


def type_text(hint: Any) -> str:
    """A type as a user reads it: `int > 0`, `fp32 | bf16`, `list of str`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "null"
    named = next((one for one in arguments[1:] if isinstance(one, NameIn)), None)
    if origin is typing.Annotated and named is not None:
        return " | ".join([*named.also, *named.registry.built_in, *(["MODULE:CLASS"] if named.own else [])])
    if origin is typing.Annotated:
        return f"{type_text(arguments[0])} {bounds_text(arguments[1:])}".strip()
    if origin is typing.Literal:
        return " | ".join(str(value) for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(argument) for argument in arguments)
    if origin is list:
        return f"list of {type_text(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(type_text(argument) for argument in arguments)}]"
    if origin is dict:
        return f"{type_text(arguments[0])}: {type_text(arguments[1])}"
    return str(hint.__name__)


def bounds_text(metadata: tuple[Any, ...]) -> str:
    """`≥ 0, ≤ 1` from the bounds that Pydantic checks."""
    limits = [limit for item in metadata if isinstance(item, FieldInfo) for limit in item.metadata]
    signs = {Gt: (">", "gt"), Ge: ("≥", "ge"), Lt: ("<", "lt"), Le: ("≤", "le")}
    known = [(signs[type(limit)], limit) for limit in limits if type(limit) in signs]
    return ", ".join(f"{sign} {getattr(limit, name)}" for (sign, name), limit in known)


def default_text(field: dataclasses.Field[Any]) -> str:
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(list(value)) if isinstance(value, tuple) else str(value)


def split_docstring(group: type) -> tuple[str, dict[str, str]]:
    """The text of a docstring, and what its `Attributes:` say, by name."""
    text, _, listing = (inspect.getdoc(group) or "").partition("\nAttributes:\n")
    entries = re.split(r"^    (?=\S)", listing, flags=re.MULTILINE)[1:]
    attributes: dict[str, str] = {}
    for entry in entries:
        names, _, meaning = " ".join(entry.split()).partition(": ")
        attributes |= dict.fromkeys(names.split(", "), meaning)
    return text.strip(), attributes


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def key_table(group: type, prefix: str, fields: list[dataclasses.Field[Any]]) -> str:
    hints = typing.get_type_hints(group, include_extras=True)
    _, meanings = split_docstring(group)
    rows = [
        f"| `{prefix}{field.name}` | {cell(type_text(hints[field.name]))} | `{cell(default_text(field))}` "
        f"| {cell(meanings.get(field.name, ''))} |"
        for field in fields
    ]
    return "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])


def options_text(name: str) -> str:
    """The choices of a config group, `GROUP=OPTION` on the command line."""
    options = sorted(file.stem for file in (REPO / "conf" / name).glob("*.yaml"))
    return f"\n\nOptions: {', '.join(f'`{name}={option}`' for option in options)}" if options else ""


def groups_of(kind: type) -> dict[str, type]:
    """The fields of a dataclass that are dataclasses themselves, by name."""
    hints = typing.get_type_hints(kind)
    return {name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)}


def section(kind: type, path: str) -> list[str]:
    """A heading and a table for one group, then the same for each group inside it."""
    inner = groups_of(kind)
    text, _ = split_docstring(kind)
    plain = [field for field in dataclasses.fields(kind) if field.name not in inner]
    parts = [f"\n{'#' * (path.count('.') + 2)} {path}\n", text + options_text(path) + "\n"]
    parts.append(key_table(kind, f"{path}.", plain))
    for name, group in inner.items():
        parts += section(group, f"{path}.{name}")
    return parts


def keys_page() -> str:
    groups = groups_of(Recipe)
    plain = [field for field in dataclasses.fields(Recipe) if field.name not in groups]
    parts = [
        NOTICE,
        "# Recipe keys\n",
        "Every key that a recipe, a file of a config group, or an override on the command line may set.",
        "A key that is not here is an error. `explain KEY` says where the value of a run came from.\n",
        "## Top level\n",
        key_table(Recipe, "", plain),
    ]
    for name, group in groups.items():
        parts += section(group, name)
    return "\n".join(parts) + "\n"


def header(file: Path) -> list[str]:
    """The comment that heads a YAML file, without its signs."""
    lines: list[str] = []
    for line in file.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def recipes_page() -> str:
    parts = [NOTICE, "# Recipes\n", "What `recipes/` holds. `recipes show NAME` prints one, resolved.\n"]
    for file in sorted((REPO / "recipes").glob("*.yaml")):
        command, *text = header(file)
        variants = sorted(f.stem for f in (REPO / "recipes" / file.stem).glob("*.yaml"))
        parts += [f"## {file.stem}\n", f"```\n{command}\n```\n", " ".join(text).strip() + "\n"]
        if variants:
            parts.append(f"Settings of its own for: {', '.join(f'`{name}`' for name in variants)}.\n")
    return "\n".join(parts)


PAGES = {"keys.md": keys_page, "recipes.md": recipes_page}


def main() -> int:
    is_check = "--check" in sys.argv[1:]
    stale = []
    for name, page in PAGES.items():
        file, text = FOLDER / name, page()
        if file.exists() and file.read_text() == text:
            continue
        stale.append(name)
        if not is_check:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    if is_check and stale:
        print(f"out of date: {', '.join(stale)}; run `make reference`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
