"""Tokenized splits on disk: memory-mapped, keyed by content, written by one process.

One Arrow file a split: `input_ids` and `token_type_ids` (lists of uint32 and uint8), `label`; a
checksum of all values is in the metadata of its schema.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galley.datacheck import Split
from trainer.tasks.base import Sample

log = logging.getLogger("galley")

FORMAT = 2
CHECKSUM = b"crc32"
SCHEMA = pa.schema(
    [("input_ids", pa.list_(pa.uint32())), ("token_type_ids", pa.list_(pa.uint8())), ("label", pa.int32())]
)


class ArrowDataset:
    """A tokenized split. Reads from the memory map; holds no sample in memory."""

    def __init__(self, table: pa.Table, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        self._ids, self._types = _flat(table, "input_ids"), _flat(table, "token_type_ids")
        self.labels: NDArray[np.int64] = table["label"].to_numpy().astype(np.int64)
        self.lengths: NDArray[np.int32] = np.diff(self._ids[1]).astype(np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, indices: Sequence[int]) -> list[Sample]:
        """`input_ids` and `token_type_ids` as arrays, `label` as int."""
        return [
            {
                "input_ids": _slice(self._ids, index),
                "token_type_ids": _slice(self._types, index),
                "label": int(self.labels[index]),
            }
            for index in indices
        ]


Flat = tuple[NDArray[Any], NDArray[np.int64]]
"""All values one after the other, and where each sample begins."""


def _flat(table: pa.Table, name: str) -> Flat:
    column = table[name].combine_chunks()
    return column.flatten().to_numpy(), column.offsets.to_numpy().astype(np.int64)


def _slice(flat: Flat, index: int) -> NDArray[Any]:
    values, offsets = flat
    start = offsets[0]
    return values[offsets[index] - start : offsets[index + 1] - start]


def content_key(split: Split, tokenizer: Any, max_length: int) -> str:
    """sha256 of all that decides the tokens: texts, labels, tokenizer, truncation."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    # Left over from the last call; this module states its own truncation and never pads.
    del backend["truncation"], backend["padding"]
    settings = {"format": FORMAT, "max_length": max_length, "tokenizer": backend}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for column in split.texts:
        for text in column:
            digest.update(f"{len(text)}:".encode())
            digest.update(text.encode("utf-8", "surrogatepass"))
    digest.update(np.asarray(split.labels, dtype=np.int32).tobytes())
    return digest.hexdigest()


def tokenized(split: Split, tokenizer: Any, max_length: int, cache: Path) -> ArrowDataset:
    """The split from the cache, or tokenized now and put there.

    A file that is cut short or otherwise unreadable is made again, which is said in the log.
    """
    key = content_key(split, tokenizer, max_length)
    path = cache / "tokenized" / f"{key}.arrow"
    if path.exists():
        try:
            return ArrowDataset(_open(path), key)
        except (pa.ArrowException, OSError) as error:
            log.warning("%s is damaged (%s): tokenizing again", path, error)
    _write(_encode(split, tokenizer, max_length), path)
    return ArrowDataset(_open(path), key)


def _encode(split: Split, tokenizer: Any, max_length: int) -> pa.Table:
    encoded = tokenizer(*split.texts, truncation=True, max_length=max_length, return_token_type_ids=True)
    full = sum(len(ids) == max_length for ids in encoded["input_ids"])
    if full:
        log.info("%s: %d samples reach data.max_length=%d tokens", split.where, full, max_length)
    columns = [encoded["input_ids"], encoded["token_type_ids"], split.labels]
    return pa.table(columns, schema=SCHEMA)


def _write(table: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as stream:
        partial = Path(stream.name)
        schema = table.schema.with_metadata({CHECKSUM: _checksum(table)})
        try:
            with pa.ipc.new_file(stream, schema) as writer:
                writer.write_table(table.cast(schema))
            stream.flush()
            partial.chmod(0o644)
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def _open(path: Path) -> pa.Table:
    """The table, mapped into memory. Raises `pa.ArrowException` or `OSError` for a damaged file."""
    with pa.memory_map(str(path)) as source:
        table = pa.ipc.open_file(source).read_all()
    table.validate(full=True)
    if (table.schema.metadata or {}).get(CHECKSUM) != _checksum(table):
        raise pa.ArrowInvalid("checksum differs")
    return table


def _checksum(table: pa.Table) -> bytes:
    """CRC-32 of every value and of the lengths of all lists."""
    crc = 0
    for name in ("input_ids", "token_type_ids"):
        values, offsets = _flat(table, name)
        crc = zlib.crc32(np.diff(offsets).tobytes(), zlib.crc32(np.ascontiguousarray(values).data, crc))
    return str(zlib.crc32(table["label"].to_numpy().tobytes(), crc)).encode()
