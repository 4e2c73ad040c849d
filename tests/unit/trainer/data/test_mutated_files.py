"""Files as outsiders have them, for every task: never a traceback, and the same samples whatever the format,
the state of the cache, or the order of the rows."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from galley.config.rules.recipe import recipe_problems
from galley.data.labels import CLASS_SETS, CLASSES, NUMBERS
from galley.errors import ConfigError
from galley.schema import Batch, Data, Model, Recipe, Task
from galley.schema.task import Distillation, QuestionAnswering
from galley.tasks import names_of, task_of
from trainer.data.questions import read_question_sets
from trainer.data.raw import read_tables
from trainer.data.sources import read_splits
from trainer.data.tokenize.tagged import read_tag_tables
from trainer.tasks import language_modeling, make_task, seq2seq
from trainer.tasks import text as text_tasks

pytestmark = pytest.mark.slow  # writes and reads a file for each example

Rows = list[dict[str, Any]]

MODEL = Model(architecture="bert", tokenizer="embedded:minilm")
TEXTS = st.text(st.sampled_from("ab é😀,;|\t'\"#\u2028\u00a0"), min_size=1, max_size=12).map(
    lambda t: f"x{t}x"
)
KINDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "sequence_classification": {"text": TEXTS, "label": st.sampled_from(["no", "yes"])},
    "distillation": {"text": TEXTS, "label": st.sampled_from([0, 1])},
    "sequence_regression": {"text": TEXTS, "label": st.sampled_from([0.5, -2, 3])},
    "multi_label_classification": {"text": TEXTS, "label": st.sampled_from([[0], [1, 0], []])},
    "token_classification": {
        "tokens": st.just(["Ada", "x"]), "tags": st.sampled_from([["O", "B-X"], ["O", "O"]])
    },
    "question_answering": {
        "question": TEXTS, "context": TEXTS, "answers": st.just({"text": ["x"], "answer_start": [0]})
    },
    "causal_lm": {"text": TEXTS},
    "masked_lm": {"text": TEXTS},
    "masked_lm_distillation": {"text": TEXTS},
    "seq2seq": {"source": TEXTS, "target": TEXTS},
    "contrastive": {"anchor": TEXTS, "positive": TEXTS, "negative": TEXTS},
}  # fmt: skip
# Rows that every class and tag has, in front of those that are drawn.
FIRST: dict[str, list[Any]] = {
    "sequence_classification": ["no", "yes"],
    "distillation": [0, 1],
    "sequence_regression": [1, 2],
    "multi_label_classification": [[0, 1], []],
    "token_classification": [["O", "B-X"], ["O", "O"]],
}
STRANGE = st.sampled_from(
    [
        None,
        "",
        " ",
        True,
        7,
        -1,
        1.5,
        10**400,
        float("nan"),
        [],
        ["a", 1],
        {"a": 1},
        "\ud83d",
        "a\0b",
        "x" * 3000,
    ]
)
ODD_NAMES = st.sampled_from(["", " text", "LABEL", "text", "tags", "é"])
FORMATS = ("jsonl", "json", "csv", "tsv", "semicolon", "lines", "parquet")


def rows_of(kind: str) -> st.SearchStrategy[Rows]:
    columns = KINDS[kind]
    return st.lists(st.fixed_dictionaries(columns), min_size=2, max_size=5).map(
        lambda rows: _complete(kind, rows)
    )


def _complete(kind: str, rows: Rows) -> Rows:
    labels = dict(zip(range(2), FIRST.get(kind, ()), strict=False))
    column = "tags" if kind == "token_classification" else "label"
    return [{**row, **({column: labels[n]} if n in labels else {})} for n, row in enumerate(rows)]


def written(rows: Rows, form: str) -> tuple[str, bytes]:
    """(suffix, content) as the usual programs write such rows."""
    if form == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        sink = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(rows), sink)
        return "parquet", sink.getvalue()
    if form in ("csv", "tsv", "semicolon"):
        stream = io.StringIO(newline="")
        separator = {"csv": ",", "tsv": "\t", "semicolon": ";"}[form]
        table = csv.writer(stream, delimiter=separator, quoting=csv.QUOTE_ALL)
        table.writerow(rows[0])
        table.writerows([_cell(row.get(name)) for name in rows[0]] for row in rows)
        return "tsv" if form == "tsv" else "csv", stream.getvalue().encode("utf-8", "surrogatepass")
    lines = [json.dumps(row) for row in rows]
    text = f"[{', '.join(lines)}]" if form == "json" else "\n".join(lines)
    return "jsonl" if form == "jsonl" else "json", text.encode()


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def recipe_on(folder: str, kind: str) -> Recipe:
    data = Data(path=folder, max_length=16, cache_dir=f"{folder}/cache")
    task = Task(kind, qa=QuestionAnswering(doc_stride=2), distillation=Distillation(teacher="T"))
    return Recipe(task=task, data=data, model=MODEL, batch=Batch(2))


def reads(recipe: Recipe) -> None:
    """As the worker does. Raises `ConfigError`."""
    kind, data = recipe.task.kind, recipe.data
    if kind == "question_answering":
        read_question_sets(data)
    elif kind == "token_classification":
        read_tag_tables(data)
    elif roles := task_of(recipe).roles:
        read_tables(data, roles)
    else:
        read_splits(
            data,
            {"sequence_regression": NUMBERS, "multi_label_classification": CLASS_SETS}.get(kind, CLASSES),
        )


@st.composite
def mutated(draw: Any, kind: str) -> tuple[str, bytes]:
    """A file of the task's rows with one thing or several wrong."""
    rows: Rows = [dict(row) for row in draw(rows_of(kind))]
    for _ in range(draw(st.integers(0, 2))):
        row = draw(st.sampled_from(rows))
        name = draw(st.sampled_from(sorted(row))) if row else "text"
        if draw(st.booleans()):
            row[name] = draw(STRANGE)
        elif row:
            value = row.pop(name)
            row[draw(ODD_NAMES)] = value
    form = draw(st.sampled_from(FORMATS))
    try:
        suffix, content = written(rows, form)
    except (ValueError, TypeError, OverflowError):  # pyarrow writes no mixed columns
        suffix, content = written(rows, "jsonl")
    if suffix != "parquet" and draw(st.booleans()):
        text, encoding = (
            content.decode("utf-8", "replace"),
            draw(st.sampled_from(["utf-16", "utf-8-sig", "utf-32"])),
        )
        content = text.encode(encoding)
    cut = draw(st.integers(0, len(content)))
    change = draw(st.sampled_from(["none", "none", "cut", "byte", "twice"]))
    content = {
        "none": content, "cut": content[:cut], "twice": content + content,
        "byte": content[:cut] + draw(st.sampled_from([b"\0", b"\xff", b'"', b"\r", b"\\"])) + content[cut:],
    }[change]  # fmt: skip
    if suffix != "parquet" and draw(st.booleans()):
        return f"{suffix}.gz", gzip.compress(content)
    return suffix, content


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_file_ends_in_a_traceback_and_what_is_planned_is_read(kind: str, data: Any) -> None:
    suffix, content = data.draw(mutated(kind))
    _, good = written(
        _complete(kind, [data.draw(st.fixed_dictionaries(KINDS[kind])) for _ in range(2)]), "jsonl"
    )
    with TemporaryDirectory() as folder:
        Path(folder, f"train.{suffix}").write_bytes(content)
        Path(folder, "dev.jsonl").write_bytes(good)
        recipe = recipe_on(folder, kind)
        problems = recipe_problems(recipe)
        assert all(str(problem).strip() and len(problem.what) < 5000 for problem in problems)
        if problems:
            with pytest.raises(ConfigError):
                reads(recipe)
        else:
            reads(recipe)


@cache
def tokenizer() -> Any:
    """One token a character: nothing of what is written may be lost on the way, and it is small."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    named = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = {token: number for number, token in enumerate([*named, *"abdx é😀,;|\t'\"#\u2028\u00a0A"])}
    plain = Tokenizer(models.WordLevel(known, **{"unk_token": named[1]}))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    plain.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends)
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), named, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=plain, eos_token=named[3], model_max_length=512, **roles)


def samples(recipe: Recipe) -> tuple[list[Any], list[Any]]:
    """Training samples as JSON, and what the task has learned from the files."""
    task: Any = make_task(recipe)
    train = task.datasets(nullcontext).train
    rows = train.rows(range(len(train)))
    found = [json.dumps({k: getattr(v, "tolist", lambda v=v: v)() for k, v in row.items()}) for row in rows]
    return found, [getattr(task, name, None) for name in ("num_labels", "label_names", "names")]


def samples_of(rows: Rows, form: str, kind: str) -> tuple[list[Any], list[Any]]:
    suffix, content = written(rows, form)
    with TemporaryDirectory() as folder:
        for split in ("train", "dev"):
            Path(folder, f"{split}.{suffix}").write_bytes(content)
        cold = samples(recipe_on(folder, kind))
        assert samples(recipe_on(folder, kind)) == cold  # from the cache
    return cold


@pytest.mark.parametrize("kind", KINDS)
def test_samples_follow_from_the_rows_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from the format or the cache; and what a row becomes, and its class, not from its place."""
    for module in (language_modeling, seq2seq, text_tasks):
        monkeypatch.setattr(module, "load_tokenizer", lambda *_, **__: tokenizer())

    @settings(max_examples=8, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(rows_of(kind), st.randoms(use_true_random=False))
    def check(rows: Rows, mixer: random.Random) -> None:
        usual = samples_of(rows, "jsonl", kind)
        lists = kind == "token_classification"  # csv has no lists of words
        for form in FORMATS[1:] if not lists else ("json", "lines", "parquet"):
            assert samples_of(rows, form, kind) == usual
        turned = rows[:]
        mixer.shuffle(turned)
        found = samples_of(turned, "jsonl", kind)
        assert found[1] == usual[1]
        in_order = (*names_of(lambda task: task.streamed), "question_answering")
        if kind not in in_order:  # texts are joined, and questions numbered
            assert sorted(found[0]) == sorted(usual[0])

    check()
