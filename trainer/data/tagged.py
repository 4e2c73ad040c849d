"""Words with tags, as word pieces: `input_ids`, `token_type_ids`, `labels`.

The first piece of a word carries its tag's number, every other position `IGNORED`. Words that lie
beyond `max_length` tokens have no piece.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galley.datafiles import DataError, SplitName
from galley.schema import Data
from galley.tables import ROLES, Need, Table, column_names
from galley.tags import name_tags, tag_names, tag_problems
from trainer.assets import is_embedded
from trainer.data.raw import hub_splits, taken, whole_tables
from trainer.data.store import ArrowDataset, digest, stored, tokenizer_settings

log = logging.getLogger("galley")

FORMAT = 1
IGNORED = -100
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.uint32())),
        ("token_type_ids", pa.list_(pa.uint8())),
        ("labels", pa.list_(pa.int32())),
    ]
)


def read_tag_tables(data: Data, need: Need = "both") -> tuple[dict[SplitName, Table], list[str]]:
    """The splits with tags as text, and the names of all tags: `data.label_names`, or those that the
    hub knows, or all of training, whatever `data.max_samples` leaves of it.

    Raises `ConfigError` that names what is wrong.
    """
    names = data.label_names or _names_on_the_hub(data)
    whole = name_tags(whole_tables(data, ROLES["token_classification"], need), names)
    problems = tag_problems(whole, names)
    if problems:
        raise DataError(problems)
    return taken(data, whole), names or tag_names(whole["train"])


def _names_on_the_hub(data: Data) -> list[str] | None:
    if data.path is not None or is_embedded(data.name) or data.mix:
        return None
    stored, rows = hub_splits(data, need="train")["train"]
    roles = ROLES["token_classification"]
    column = column_names(rows.column_names, roles, data, f"data.name={data.name} ({stored})")["tags"]
    found: list[str] | None = getattr(getattr(rows.features[column], "feature", None), "names", None)
    return found


def tagged(table: Table, names: Sequence[str], tokenizer: Any, max_length: int, cache: Path) -> ArrowDataset:
    """The pieces of the table's `tokens` with its `tags`, numbered as in `names`."""
    settings = {"format": FORMAT, "max_length": max_length, "tokenizer": tokenizer_settings(tokenizer)}
    settings["names"] = list(names)
    columns = [table.columns["tokens"], table.columns["tags"]]
    return stored(digest(settings, columns), lambda: _encode(table, names, tokenizer, max_length), cache)


def _encode(table: Table, names: Sequence[str], tokenizer: Any, max_length: int) -> pa.Table:
    numbers = {name: number for number, name in enumerate(names)}
    encoded = tokenizer(
        [" ".join(words) for words in table.columns["tokens"]],
        truncation=True,
        max_length=max_length,
        return_offsets_mapping=True,
        return_token_type_ids=True,
    )
    labels = [
        _labels(offsets, words, [numbers[tag] for tag in tags])
        for offsets, words, tags in zip(encoded["offset_mapping"], *table.columns.values(), strict=True)
    ]
    cut = sum(map(len, table.columns["tokens"])) - sum(int((row != IGNORED).sum()) for row in labels)
    if cut:
        log.warning("%s: %d words have no token within data.max_length=%d", table.where, cut, max_length)
    return pa.table([encoded["input_ids"], encoded["token_type_ids"], labels], schema=SCHEMA)


def _labels(
    offsets: Sequence[tuple[int, int]], words: Sequence[str], tags: Sequence[int]
) -> NDArray[np.int32]:
    """By the last character of a piece: some tokenizers count the space before a word as its own."""
    ends = np.cumsum([len(word) + 1 for word in words])
    found = np.full(len(offsets), IGNORED, dtype=np.int32)
    before = -1
    for place, (start, end) in enumerate(offsets):
        if end <= start:
            continue
        word = int(np.searchsorted(ends, end - 1, side="right"))
        if word != before:
            found[place] = tags[word]
        before = word
    return found
