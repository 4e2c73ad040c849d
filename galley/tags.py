"""Words with tags, checked without torch: as many tags as words, and a name for every number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from galley.datacheck import ROWS_BEFORE_LAUNCH
from galley.datafiles import DataError, SplitName
from galley.errors import Problem
from galley.schema import Data
from galley.tables import MAX_PROBLEMS_PER_FILE, ROLES, Table, load_tables

OUTSIDE = "O"


def check_tags(data: Data) -> list[Problem]:
    """What is wrong with the files of `data.path`, as far as they are read before a launch."""
    try:
        tables = load_tables(data, ROLES["token_classification"], limit=ROWS_BEFORE_LAUNCH)
        name_tags(tables, data.label_names)
    except DataError as error:
        return list(error.problems)
    return []


def name_tags(tables: Mapping[SplitName, Table], names: Sequence[str] | None) -> dict[SplitName, Table]:
    """The tables with tags as text. `names` says what the numbers of a numbered set mean.

    Raises `DataError` for rows of unequal length, and numbers without a name.
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
            problems.append(Problem(where, f"has {len(words)} words and {len(tags)} tags"))
        numbers = [tag for tag in tags if isinstance(tag, int)]
        if numbers and names is None:
            hint = "name them in their order: data.label_names=[O,B-PER,I-PER]"
            return [Problem(table.where, "its tags are numbers without names", hint)]
        if numbers and names is not None and max(numbers) >= len(names):
            problems.append(Problem(where, f"has tag {max(numbers)}, but data.label_names has {len(names)}"))
    rest = len(problems) - MAX_PROBLEMS_PER_FILE
    more = [Problem(table.where, f"{rest} more such problems")] if rest > 0 else []
    return problems[:MAX_PROBLEMS_PER_FILE] + more
