"""What it is trained on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from galley.schema.types import NonNegative, Positive


@dataclass(frozen=True)
class Source:
    """One of several sources of a mixture: keys as in `data`.

    Attributes:
        weight: its share of the training samples, next to the others'; of equal weights each gives as
            many. The smallest share that a source can fill decides the size of an epoch. With
            `data.one_source_batches`, the chance that a batch is of this source.
    """

    name: str = ""
    subset: str | None = None
    path: str | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0


@dataclass(frozen=True)
class Data:
    """What it is trained on.

    Attributes:
        name: a Hugging Face dataset, or `embedded:NAME`; not read when `path` is set.
        subset: the dataset's configuration on the hub (`mrpc` of `glue`).
        train_split, eval_split: their names on the hub; null for `train`, and the first of
            `validation`, `dev`, `test`.
        hold_out: so many training samples are kept for evaluation, instead of an evaluation split; drawn
            as with `max_samples`.
        path: a folder with `train.*` and `dev.*` or `validation.*` (csv, tsv, json, jsonl,
            parquet, arrow, txt), or several such files a split: `train-*.jsonl`.
        mix: several sources, read instead of `name` and `path`.
        one_source_batches: contrastive: every global batch is of one source of `mix`, drawn by weight; the
            sources are taken whole.
        documents: what one sample of a txt file is: the whole `file`, a `line`, or a `paragraph`
            between empty lines.
        text_columns: one column, or two for sentence pairs; null to recognise them.
        label_column: null to recognise it (`label`, or GLUE's `Quality`).
        columns: the column of each thing that a task reads, by its name: `{text: content}`; what is
            not named is recognised. Classification has the two keys above.
        label_names: all classes or tags in the order of their numbers, which the saved model keeps; null
            takes them from the files: text in its own order, `O` first among tags.
        max_length: tokens a sample; longer ones are truncated, or cut in pieces by the task.
        max_samples: at most so many training and evaluation samples each, drawn whatever `seed` is; every
            class keeps its share. Null for all.
        max_eval_samples: the same of evaluation alone; null is `max_samples`.
        streaming: read while training, without preparing and keeping the whole; a run then has
            `train.max_steps` instead of epochs.
        shuffle_buffer: samples that a stream holds and shuffles together.
        workers: processes that tokenise; 0 does it in the rank itself.
        loader_workers: processes per rank that make the batches of the coming steps meanwhile; 0 makes
            them in the rank itself. The batches are the same.
        cache_dir: tokenised data, keyed by content; null is `$XDG_CACHE_HOME/galley`.
    """

    name: str = "embedded:pydoc_pairs"
    subset: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    hold_out: Positive | None = None
    path: str | None = None
    mix: list[Source] = field(default_factory=list)
    one_source_batches: bool = False
    documents: Literal["file", "line", "paragraph"] = "file"
    text_columns: list[str] | None = None
    label_column: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    label_names: list[str] | None = None
    max_length: Positive = 128
    max_samples: Positive | None = None
    max_eval_samples: Positive | None = None
    streaming: bool = False
    shuffle_buffer: Positive = 1000
    workers: NonNegative = 0
    loader_workers: NonNegative = 0
    cache_dir: str | None = None
