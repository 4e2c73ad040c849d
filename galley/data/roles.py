"""What a task reads from every row of its data, by role, and rows checked against it; without torch.

A role is what a column means to a task: `text`, `source`, `target`. Columns are found by the names
in `data.columns`, else by the usual ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from galley.data.files import Row, SplitName, find_files, read_rows, shortened
from galley.data.local import ROWS_BEFORE_LAUNCH, local_problems
from galley.data.sampling import Classes
from galley.errors import DataError, Problem, nearest
from galley.schema import Data, Recipe

Need = Literal["both", "train", "eval"]
"""Splits that a run reads: one alone where it only measures, or does not measure at all."""


def is_text(value: Any) -> bool:
    return isinstance(value, str)


@dataclass(frozen=True)
class Role:
    """One thing that a task reads from a row.

    Attributes:
        name: its key in `data.columns`.
        usual: names of columns by which it is recognized, the likeliest first.
        holds: what its values are, for messages; `accepts` tells whether a value is one.
        optional: a table may lack it; where it has the column, every row has a value.
    """

    name: str
    usual: tuple[str, ...]
    holds: str = "text"
    accepts: Callable[[Any], bool] = is_text
    optional: bool = False


TEXT = Role("text", ("text", "content", "sentence"))


@dataclass(frozen=True)
class Table:
    """One split, read and checked: a list of values for each role, all of the same length.

    Attributes:
        where: the file or dataset, for messages.
        complete: whether all rows were read, not only the first.
    """

    columns: dict[str, list[Any]]
    where: str
    complete: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def classes(self) -> Classes:
        """The tags of every row, where rows have tags."""
        rows = self.columns.get("tags")
        return rows and [tuple(sorted({str(tag) for tag in row})) for row in rows]

    def take(self, indices: Sequence[int], where: str | None = None) -> Table:
        """The rows at `indices`, in that order."""
        chosen = {name: [values[index] for index in indices] for name, values in self.columns.items()}
        return Table(chosen, where or self.where, self.complete)


def check_tables(data: Data, roles: Sequence[Role], need: Need = "both") -> list[Problem]:
    """What is wrong with the local files of the data, as far as they are read before a launch."""
    return local_problems(data, lambda source: load_tables(source, roles, ROWS_BEFORE_LAUNCH, need), joined)


def load_tables(
    data: Data, roles: Sequence[Role], limit: int | None = None, need: Need = "both"
) -> dict[SplitName, Table]:
    """The splits of `data.path` that are read (`splits_read`), of each file the first `limit` rows.

    Raises `DataError` with the problems of all.
    """
    folder = data_folder(data)
    found: dict[SplitName, Table] = {}
    problems: list[Problem] = []
    for name in splits_read(data, need):
        try:
            parts = [_load(path, roles, data, limit) for path in find_files(folder, name)]
            found[name] = joined(parts)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return found


def needed(recipe: Recipe, learns: bool = False) -> Need:
    """What the recipe reads: all of it, unless it only measures or does not measure.

    `learns`: the task takes classes or tags from the training rows, also where it only measures.
    """
    if recipe.eval.only:
        return "both" if learns else "eval"
    return "both" if recipe.eval.enabled else "train"


def splits_read(data: Data, need: Need = "both") -> tuple[SplitName, ...]:
    """What is read and kept: with `data.hold_out` evaluation is taken from training, which may stream."""
    if data.streaming:
        return () if need == "train" else ("eval",)
    if data.hold_out:
        return ("train",)
    return ("train", "eval") if need == "both" else (need,)


def _load(path: Path, roles: Sequence[Role], data: Data, limit: int | None) -> Table:
    rows = list(islice(read_rows(path, data.documents), limit))
    return to_table(rows, roles, data, str(path), limit is None or len(rows) < limit)


def joined(parts: Sequence[Table]) -> Table:
    """The rows of all parts, one after the other; None where a part lacks an optional column."""
    if len(parts) == 1:
        return parts[0]
    names = dict.fromkeys(name for part in parts for name in part.columns)
    columns = {
        name: list(chain(*(part.columns.get(name, [None] * len(part)) for part in parts))) for name in names
    }
    where = f"{parts[0].where} and {len(parts) - 1} more"
    return Table(columns, where, all(part.complete for part in parts))


def data_folder(data: Data) -> Path:
    """The folder of `data.path`. Raises `DataError` where it is none."""
    folder = Path(str(data.path)).expanduser()
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(Problem(f"data.path={data.path}", what, "a folder with train.* and dev.* files"))
    return folder


def to_table(
    rows: Sequence[Row], roles: Sequence[Role], data: Data, where: str, complete: bool = True
) -> Table:
    """The values of the rows by role. Raises `DataError` for no rows, missing columns, wrong values."""
    if not rows:
        raise DataError(Problem(where, "has no samples"))
    names = column_names(list(rows[0][1]), roles, data, where)
    present = [role for role in roles if role.name in names]
    problems = [
        _wrong_value(f"{where}:{line}", names[role.name], row, role)
        for line, row in rows
        for role in present
        if not role.accepts(row.get(names[role.name]))
    ]
    if problems:
        raise DataError(shortened(problems, where))
    columns = {role.name: [row[names[role.name]] for _, row in rows] for role in present}
    return Table(columns, where, complete)


def column_names(header: Sequence[str], roles: Sequence[Role], data: Data, where: str) -> dict[str, str]:
    """The column of each role: as `data.columns` says, else by its usual names; none of an optional role
    that is not there.

    Raises `DataError` with the nearest names, all missing columns at once.
    """
    found: dict[str, str] = {}
    problems = []
    for role in roles:
        named = data.columns.get(role.name)
        taken = set(found.values())
        name = named or next((name for name in role.usual if name in header and name not in taken), None)
        if role.optional and name is None:
            continue
        if name is None or name not in header:
            what = f"has no column '{named}'" if named else f"has no column that is recognized as {role.name}"
            near = nearest(named or role.name, header)
            hint = f"{near} set data.columns.{role.name}; columns: {', '.join(header)}"
            problems.append(Problem(where, what, hint.strip()))
        else:
            found[role.name] = name
    if problems:
        raise DataError(problems)
    return found


def mixture_problems(data: Data) -> list[Problem]:
    """Sources of `data.mix` that name nothing, or two things, or are none where batches need them."""
    alone = data.one_source_batches and len(data.mix) < 2
    what, hint = f"needs several sources; data.mix has {len(data.mix)}", "'data.mix=[{name: A}, {name: B}]'"
    problems = [Problem("data.one_source_batches", what, hint)] if alone else []
    return problems + [
        Problem(f"data.mix[{number}]", "needs a name or a path, and not both", "{name: …} or {path: …}")
        for number, source in enumerate(data.mix)
        if bool(source.name) == bool(source.path)
    ]


def _wrong_value(where: str, name: str, row: Mapping[str, Any], role: Role) -> Problem:
    text = repr(row.get(name))
    shown = text if len(text) <= 40 else f"{text[:39]}…"
    return Problem(where, f"column '{name}': {shown} is not {role.holds}")
