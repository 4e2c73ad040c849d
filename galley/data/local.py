"""Local data files checked before anything is started: read as the worker reads them, and no further
than takes about a second."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from galley.data.files import SplitName
from galley.data.sampling import Join, R, gathered, sources_of
from galley.errors import DataError, Problem
from galley.schema import Data

# Rows of each file that are read before a launch; the worker reads and checks all.
ROWS_BEFORE_LAUNCH = 100_000


def local_problems(
    data: Data,
    read: Callable[[Data], Mapping[SplitName, R]],
    join: Join[R],
    judge: Callable[[Mapping[SplitName, R]], list[Problem]] = lambda splits: [],
) -> list[Problem]:
    """What `read` refuses of every local source; `judge` sees what is held out of them and mixed.

    What is not local, or longer than is read here, is judged by the worker alone.
    """
    sources = sources_of(data)
    found, problems = [], list[Problem]()
    for source in sources:
        if source.path is not None:
            try:
                found.append(read(source))
            except DataError as error:
                problems += error.problems
    whole = all(splits["train"].complete for splits in found if "train" in splits)
    if problems or len(found) < len(sources) or not whole:
        return list(dict.fromkeys(problems))
    try:
        return judge(gathered(data, found, join))
    except DataError as error:
        return list(error.problems)


def cache_problems(data: Data) -> list[Problem]:
    """A `data.cache_dir` that cannot be made on this machine."""
    if data.cache_dir is None:
        return []
    folder = Path(data.cache_dir).expanduser()
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    where, hint = f"data.cache_dir={data.cache_dir}", "a folder that you may write"
    if not there.is_dir():
        return [Problem(where, f"cannot be made: {there} is a file", hint)]
    if there != folder and not os.access(there, os.W_OK | os.X_OK):
        return [Problem(where, f"cannot be made: {there} may not be written", hint)]
    return []
