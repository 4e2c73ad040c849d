"""Words with tags, as word pieces: `input_ids`, `token_type_ids`, `labels`, `words`.

The first piece of a word has its tag's number in `labels` and the word's position in `words`; every
other position has `IGNORED`. A word has no piece if the tokenizer drops its characters, or beyond
`max_length` tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from galley.data.files import SplitName
from galley.data.roles import Need, Table, column_names, joined
from galley.data.sampling import gathered, sources_of
from galley.data.tags import ROLES, declared_tags, name_tags, tag_names, tag_problems
from galley.errors import DataError
from galley.schema import Data
from trainer.assets import is_embedded
from trainer.data.raw import hub_splits, one_source, taken
from trainer.data.store import ArrowDataset, digest, stored
from trainer.data.tokenize.encoding import Tokenization, tokenization

log = logging.getLogger("galley")

FORMAT = 2
IGNORED = -100
SCHEMA = pa.schema(
    [
        ("input_ids", pa.list_(pa.uint32())),
        ("token_type_ids", pa.list_(pa.uint8())),
        ("labels", pa.list_(pa.int32())),
        ("words", pa.list_(pa.int32())),
    ]
)


def read_tag_tables(data: Data, need: Need = "both") -> tuple[dict[SplitName, Table], list[str]]:
    """Return the splits with tags as text, and the names of all tags.

    The names are `data.label_names`, or those that the hub knows, or all of training, whatever
    `data.max_samples` leaves of it. Raises `ConfigError` that names what is wrong.
    """
    sources = [_named_tables(source, data.label_names, need) for source in sources_of(data)]
    whole = gathered(data, [tables for tables, _ in sources], joined)
    names = data.label_names or (sources[0][1] if len(sources) == 1 else None)
    problems = tag_problems(whole, names)
    if problems:
        raise DataError(problems)
    return taken(data, whole), names or tag_names(whole["train"])


def _named_tables(
    source: Data, names: list[str] | None, need: Need
) -> tuple[dict[SplitName, Table], list[str] | None]:
    """Return the splits of one source, and the names that it declares for the numbers of its tags."""
    names = names or declared_tags(source) or _names_on_the_hub(source)
    return name_tags(one_source(source, ROLES, need), names), names


def _names_on_the_hub(data: Data) -> list[str] | None:
    """Return the names of tags that a set on the hub declares."""
    if data.path is not None or is_embedded(data.name):
        return None
    stored, rows = hub_splits(data, need="train")["train"]
    roles = ROLES
    column = column_names(rows.column_names, roles, data, f"data.name={data.name} ({stored})")["tags"]
    names: list[str] | None = getattr(getattr(rows.features[column], "feature", None), "names", None)
    return names


def tagged(table: Table, names: Sequence[str], tokenizer: Any, max_length: int, cache: Path) -> ArrowDataset:
    """Return the pieces of the table's `tokens` with its `tags`, numbered as in `names`."""
    how = tokenization(tokenizer, max_length)
    settings = {"format": FORMAT, "names": list(names), **how.identity}
    columns = [table.columns["tokens"], table.columns["tags"]]
    return stored(digest(settings, columns), lambda: _encode(table, names, how, max_length), cache)


def _encode(table: Table, names: Sequence[str], how: Tokenization, max_length: int) -> pa.Table:
    numbers = {name: number for number, name in enumerate(names)}
    tokens, tags = table.columns["tokens"], table.columns["tags"]
    encoded = how.encode([" ".join(words) for words in tokens])
    places = [first_pieces(entry.offsets, words) for entry, words in zip(encoded, tokens, strict=True)]
    labels = [_labels(words, [numbers[tag] for tag in row]) for words, row in zip(places, tags, strict=True)]
    lost = sum(map(len, tokens)) - sum(int((row != IGNORED).sum()) for row in places)
    if lost:
        what = "%s: %d words have no token: the tokenizer drops them, or they lie beyond data.max_length=%d"
        log.warning(what, table.where, lost, max_length)
    columns = [[entry.ids for entry in encoded], [entry.type_ids for entry in encoded], labels, places]
    return pa.table(columns, schema=SCHEMA)


def first_pieces(offsets: Sequence[tuple[int, int]], words: Sequence[str]) -> NDArray[np.int32]:
    """Return for each piece the position of the word that begins with it, else `IGNORED`.

    `offsets` are those of the words joined by single spaces. A piece belongs to the word of its last
    character that is not such a space: some tokenizers count the space before a word as part of the word.
    """
    owners = [IGNORED if end else n for n, word in enumerate(words) for end in [*[False] * len(word), True]]
    positions = np.full(len(offsets), IGNORED, dtype=np.int32)
    begun: set[int] = {IGNORED}
    for place, (start, end) in enumerate(offsets):
        word = next((owner for owner in reversed(owners[start:end]) if owner != IGNORED), IGNORED)
        if word not in begun:
            positions[place] = word
            begun.add(word)
    return positions


def _labels(places: NDArray[np.int32], tags: Sequence[int]) -> NDArray[np.int32]:
    """Return the tag's number at each position where a word begins."""
    numbers = [IGNORED if place == IGNORED else tags[place] for place in places.tolist()]
    return np.array(numbers, dtype=np.int32)
