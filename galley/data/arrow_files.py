"""Rows of parquet and arrow files, which need pyarrow."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from galley.data.text_files import format_of
from galley.errors import DataError, Problem


def records(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from _parquet_records(path) if format_of(path) == ".parquet" else _arrow_records(path)
    except ImportError as error:
        hint = "install Galley's extra `train`, or convert the file to csv or jsonl"
        what = f"{format_of(path)[1:]} needs the package pyarrow"
        raise DataError(Problem(str(path), what, hint)) from error


def _arrow_records(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow as arrow

    with _errors(path), arrow.memory_map(str(path)) as stored:
        opened = _opened(stored)
        _check_names(opened.schema.names, path)
        count = getattr(opened, "num_record_batches", None)  # the file format has it alone
        for batch in opened if count is None else map(opened.get_batch, range(count)):
            yield from batch.to_pylist()


def _parquet_records(path: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    with _errors(path), parquet.ParquetFile(path) as stored:
        _check_names(stored.schema_arrow.names, path)
        for batch in stored.iter_batches():
            yield from batch.to_pylist()


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Raise `DataError` for damaged files, and for text whose bytes nobody has checked."""
    import pyarrow as arrow

    try:
        yield
    except arrow.ArrowException as error:
        raise DataError(Problem(str(path), f"is not a whole {format_of(path)[1:]} file: {error}")) from error
    except UnicodeDecodeError as error:
        raise DataError(Problem(str(path), f"holds text that is not UTF-8: {error.object!r:.60}")) from error


def _check_names(names: Sequence[str], path: Path) -> None:
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice:
        what = f"has the column '{twice[0]}' more than once"
        raise DataError(Problem(str(path), what, "rename or remove all but one"))


def declared_names(path: Path, column: str) -> list[str] | None:
    """The names of the classes that a column's numbers stand for, where `datasets` wrote them to the file."""
    kind = format_of(path)
    if kind not in (".parquet", ".arrow"):
        return None
    stated = (_schema(path, kind).metadata or {}).get(b"huggingface", b"{}")
    try:
        feature = json.loads(stated)["info"]["features"][column]
        while not isinstance(feature, dict) or "names" not in feature:  # a list of classes
            feature = feature[0] if isinstance(feature, list) else feature["feature"]
    except (ValueError, LookupError, TypeError):
        return None
    names: list[str] = feature["names"]
    return names


def _schema(path: Path, kind: str) -> Any:
    import pyarrow as arrow
    from pyarrow import parquet

    with _errors(path):
        if kind == ".parquet":
            return parquet.read_schema(path)
        with arrow.memory_map(str(path)) as stored:
            return _opened(stored).schema


def _opened(stored: Any) -> Any:
    """A reader of either format of Arrow: the stream, which `datasets` writes, or the file."""
    import pyarrow as arrow

    is_file = stored.read(6) == b"ARROW1"
    stored.seek(0)
    return arrow.ipc.open_file(stored) if is_file else arrow.ipc.open_stream(stored)
