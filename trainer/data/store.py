"""Prepared samples on disk: memory-mapped, keyed by content, written by one process.

One Arrow file per split, with the columns that its task needs: lists of integers, single numbers,
texts. A checksum of all values is in the metadata of its schema.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from trainer.data.cache import cache_errors
from trainer.tasks.base import Sample

log = logging.getLogger("galley")

CHECKSUM = b"crc32"
TOKENS = "input_ids"

Flat = tuple[NDArray[Any], NDArray[np.int64]]
"""All values one after the other, and where each sample begins."""


class ArrowDataset:
    """Prepared samples; implements `TokenizedDataset`. Reads from the memory map, and keeps none in memory.

    A sample has every column of the table: lists as arrays, numbers as int or float, texts as str.
    """

    def __init__(self, table: pa.Table, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._size: int = table.num_rows
        self._lists = {name: _flat(table, name) for name in _columns(table, pa.types.is_list)}
        self._texts = {name: table[name].combine_chunks() for name in _columns(table, pa.types.is_string)}
        self._numbers = {
            name: table[name].to_numpy()
            for name in table.column_names
            if name not in self._lists and name not in self._texts
        }
        self.lengths: NDArray[np.int32] = np.diff(self._lists[TOKENS][1]).astype(np.int32)

    def __len__(self) -> int:
        return self._size

    @property
    def labels(self) -> NDArray[np.int64]:
        """Return the column `label`, if the samples are labeled with one class."""
        return self.numbers("label").astype(np.int64)

    def numbers(self, name: str) -> NDArray[Any]:
        """Return a whole column of single numbers."""
        values: NDArray[Any] = self._numbers[name]
        return values

    def texts(self, name: str) -> list[str]:
        """Return a whole column of texts."""
        values: list[str] = self._texts[name].to_pylist()
        return values

    def rows(self, indices: Sequence[int]) -> list[Sample]:
        return [self._row(index) for index in indices]

    def _row(self, index: int) -> Sample:
        row: Sample = {name: _slice(flat, index) for name, flat in self._lists.items()}
        row |= {name: column[index].item() for name, column in self._numbers.items()}
        return row | {name: column[index].as_py() for name, column in self._texts.items()}


def digest(settings: dict[str, Any], columns: Iterable[Sequence[Any]]) -> str:
    """Return the sha256 of all that decides the samples.

    That is settings (JSON), and columns of texts or other JSON.
    """
    running = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for column in columns:
        for value in column:
            text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            running.update(f"{len(text)}:".encode())
            running.update(text.encode("utf-8", "surrogatepass"))
    return running.hexdigest()


def stored(key: str, make: Callable[[], pa.Table], cache: Path) -> ArrowDataset:
    """Return the samples of this content key from the cache, or make them and put them there.

    A file that is cut short or otherwise unreadable is made again, with a warning in the log.
    """
    path = cache / "tokenized" / f"{key}.arrow"
    if path.exists():
        try:
            return ArrowDataset(_open(path), key)
        except (pa.ArrowException, OSError) as error:
            log.warning("%s is damaged (%s): tokenizing again", path, error)
    made = make()
    with cache_errors(path.parent):
        _write(made, path)
    return ArrowDataset(_open(path), key)


def _columns(table: pa.Table, kind: Callable[[pa.DataType], bool]) -> list[str]:
    return [field.name for field in table.schema if kind(field.type)]


def _flat(table: pa.Table, name: str) -> Flat:
    """Return a column of lists as all its values and the offsets of the lists."""
    column = table[name].combine_chunks()
    return column.flatten().to_numpy(), column.offsets.to_numpy().astype(np.int64)


def _slice(flat: Flat, index: int) -> NDArray[Any]:
    """Return one list of a flat column."""
    values, offsets = flat
    start = offsets[0]  # not 0 if the column is a slice of another
    return values[offsets[index] - start : offsets[index + 1] - start]


def _write(table: pa.Table, path: Path) -> None:
    """Write the table under a temporary name, and rename it: readers never see half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
        partial = Path(stream.name)
        schema = table.schema.with_metadata({CHECKSUM: _checksum(table)})
        try:
            with pa.ipc.new_file(stream, schema) as writer:
                writer.write_table(table.cast(schema))
            stream.flush()
            partial.chmod(
                0o644
            )  # temporary files have 0600, which other users of a shared cache could not read
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _open(path: Path) -> pa.Table:
    """Return the table, mapped into memory. Raises `pa.ArrowException` or `OSError` for a damaged file."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    table.validate(full=True)
    if (table.schema.metadata or {}).get(CHECKSUM) != _checksum(table):
        raise pa.ArrowInvalid("checksum differs")
    return table


def _checksum(table: pa.Table) -> bytes:
    """Return the CRC-32 of every value, and of the lengths of all lists and texts."""
    crc = 0
    for field in table.schema:
        if pa.types.is_list(field.type):
            values, offsets = _flat(table, field.name)
            crc = zlib.crc32(np.diff(offsets).tobytes(), crc)
            crc = zlib.crc32(np.ascontiguousarray(values).data, crc)
        elif pa.types.is_string(field.type):
            for text in table[field.name].to_pylist():
                crc = zlib.crc32(f"{len(text)}:{text}".encode(), crc)
        else:
            crc = zlib.crc32(table[field.name].to_numpy().tobytes(), crc)
    return str(crc).encode()
