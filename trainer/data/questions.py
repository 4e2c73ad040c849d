"""Read and check the raw splits of question answering data: from `data.path`, an embedded set, or the hub."""

from __future__ import annotations

import logging

from galley.data.files import SplitName
from galley.data.roles import Need, splits_read
from galley.data.sampling import gathered, limited, sources_of
from galley.data.squad import QuestionSet, joined_questions, load_question_sets, to_questions
from galley.schema import Data
from trainer.assets import data_rows, is_embedded
from trainer.data.raw import hub_splits

log = logging.getLogger("galley")


def read_question_sets(data: Data, need: Need = "both") -> dict[SplitName, QuestionSet]:
    """Return the splits that are read, at most `sample_limit` questions each. Raises `ConfigError`."""
    sources = [_read(source, need) for source in sources_of(data)]
    splits = limited(data, gathered(data, sources, joined_questions))
    for questions in splits.values():
        log.info("%s", questions.describe())
    return splits


def _read(data: Data, need: Need) -> dict[SplitName, QuestionSet]:
    """Return the splits of one source, whole."""
    if data.path is not None:
        return load_question_sets(data, need=need)
    if is_embedded(data.name):
        return {
            split: to_questions(enumerate(data_rows(data.name, split), 1), data, f"{data.name} ({split})")
            for split in splits_read(data, need)
        }
    return {
        split: to_questions(enumerate(rows, 1), data, f"data.name={data.name} ({stored})")
        for split, (stored, rows) in hub_splits(data, need=need).items()
    }
