"""Words with tags, checked without torch: as many tags as words, and a name for every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from galley.counting import counted
from galley.data.arrow_files import declared_names
from galley.data.files import SplitName, find_files, listing, read_rows, shortened
from galley.data.local import ROWS_BEFORE_LAUNCH, local_problems
from galley.data.roles import Need, Role, Table, column_names, data_folder, joined, load_tables
from galley.data.text_files import format_of
from galley.errors import DataError, Problem, nearest
from galley.quoting import shell_word
from galley.schema import Data

OUTSIDE = "O"


def is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) and word for word in value)


def is_tags(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(tag, str | int) for tag in value)


ROLES = (
    Role("tokens", ("tokens", "words"), "a list of words", is_words),
    Role("tags", ("tags", "ner_tags", "labels"), "a list of tags", is_tags),
)


def check_tags(data: Data, need: Need = "both") -> list[Problem]:
    """What is wrong with the local files of the data, and with the tags of both splits."""
    return local_problems(
        data,
        lambda source: _load(source, data.label_names, need),
        joined,
        lambda splits: tag_problems(splits, data.label_names or declared_tags(data)),
    )


def _load(source: Data, names: Sequence[str] | None, need: Need) -> dict[SplitName, Table]:
    tables = load_tables(source, ROLES, ROWS_BEFORE_LAUNCH, need)
    return name_tags(tables, names or declared_tags(source))


def declared_tags(data: Data) -> list[str] | None:
    """The names of the tags' numbers, where `datasets` wrote them to the training files."""
    if data.path is None:
        return None
    path = find_files(data_folder(data), "train")[0]
    if format_of(path) not in (".parquet", ".arrow"):
        return None
    _, first = next(iter(read_rows(path)), (0, {}))
    column = column_names(list(first), ROLES, data, str(path))["tags"]
    return declared_names(path, column)


def tag_problems(splits: Mapping[SplitName, Table], names: Sequence[str] | None = None) -> list[Problem]:
    """Tags of evaluation that training lacks; `names` are all tags where the data names them."""
    if names is not None or "train" not in splits or "eval" not in splits:
        return []
    known = tag_names(splits["train"])
    unseen = [tag for tag in tag_names(splits["eval"]) if tag not in known]
    if not unseen or not splits["train"].complete:
        return []
    what = f"has tags that {splits['train'].where} does not have: {listing(unseen)}"
    hint = f"name all tags: {shell_word(['data', 'label_names'], [*known, *unseen])}"
    return [Problem(splits["eval"].where, what, hint)]


def name_tags(tables: Mapping[SplitName, Table], names: Sequence[str] | None) -> dict[SplitName, Table]:
    """The tables with tags as text. `names` says what the numbers of a numbered set mean.

    Raises `DataError` for rows of unequal length, numbers without a name, and unknown names.
    """
    found: dict[SplitName, Table] = {}
    problems: list[Problem] = []
    for split, table in tables.items():
        own = _problems(table, names)
        problems += own
        if not own:
            tags = [[_named(tag, names) for tag in row] for row in table.columns["tags"]]
            found[split] = Table(
                {"tokens": table.columns["tokens"], "tags": tags}, table.where, table.complete
            )
    if problems:
        raise DataError(problems)
    return found


def tag_names(table: Table) -> list[str]:
    """All tags that occur, `O` first, so that their numbers do not depend on the order of the rows."""
    found = {tag for row in table.columns["tags"] for tag in row}
    return sorted(found, key=lambda tag: (tag != OUTSIDE, tag))


def _named(tag: Any, names: Sequence[str] | None) -> str:
    return names[tag] if isinstance(tag, int) and names is not None else str(tag)


def _problems(table: Table, names: Sequence[str] | None) -> list[Problem]:
    problems = []
    for number, (words, tags) in enumerate(zip(*table.columns.values(), strict=True), 1):
        where = f"{table.where}: sample {number}"
        if len(words) != len(tags):
            problems.append(
                Problem(where, f"has {counted(len(words), 'word')} and {counted(len(tags), 'tag')}")
            )
        numbers = [tag for tag in tags if isinstance(tag, int)]
        if numbers and names is None:
            hint = "name them in their order: 'data.label_names=[O,B-PER,I-PER]'"
            return [Problem(table.where, "its tags are numbers without names", hint)]
        problems += [_without_name(where, tag, names) for tag in tags if names and not _has_name(tag, names)]
    return shortened(problems, table.where)


def _has_name(tag: Any, names: Sequence[str]) -> bool:
    return 0 <= tag < len(names) if isinstance(tag, int) else tag in names


def _without_name(where: str, tag: Any, names: Sequence[str]) -> Problem:
    if isinstance(tag, int):
        return Problem(where, f"has tag {tag}, but data.label_names has {len(names)}")
    return Problem(where, f"has tag '{tag}', which data.label_names has not", nearest(tag, names))
