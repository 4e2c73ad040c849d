"""Texts as they lie on disk, and the embedded ones: every form gives the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from galley.data.files import Documents, read_rows
from galley.data.roles import TEXT
from galley.errors import DataError
from galley.schema import Data, Model, Recipe, Source
from galley.tasks import seq2seq
from trainer.assets.pydoc_text import long_paragraphs
from trainer.data.raw import read_tables
from trainer.data.tokenize.encoding import encode_all, tokenization
from trainer.models.build import load_tokenizer

ROWS = [{"text": f"text {n}\nof two lines é", "number": n} for n in range(7)]


def arrow_stream(file: Path) -> None:
    """As `datasets` writes it."""
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def arrow_file(file: Path) -> None:
    import pyarrow as pa

    table = pa.Table.from_pylist(ROWS)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


@pytest.mark.parametrize("write", [arrow_stream, arrow_file])
def test_arrow_on_disk_is_read_in_both_its_formats(write: Callable[[Path], None], tmp_path: Path) -> None:
    file = tmp_path / "train.arrow"
    write(file)
    assert [row for _, row in read_rows(file)] == ROWS
    assert [number for number, _ in read_rows(file, skip=5)] == [6, 7]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="is not a whole arrow file"):
        list(read_rows(file))


@pytest.mark.parametrize(
    ("documents", "texts"),
    [
        ("file", ["a\nb\n\n\nc\n"]),
        ("line", ["a", "b", "c"]),
        ("paragraph", ["a\nb", "c"]),
    ],
)
def test_a_row_of_a_text_file_is_what_the_recipe_says(
    documents: Documents, texts: list[str], tmp_path: Path
) -> None:
    (tmp_path / "train.txt").write_text("a\nb\n\n\nc\n")
    rows = list(read_rows(tmp_path / "train.txt", documents))
    assert [row["text"] for _, row in rows] == texts
    assert rows[-1][0] == (1 if documents == "file" else 5)


def test_parts_of_a_split_are_joined_and_columns_named(tmp_path: Path) -> None:
    for part in range(3):
        lines = [json.dumps({"content": f"part {part} row {n}"}) + "\n" for n in range(2)]
        (tmp_path / f"train-{part}.jsonl").write_text("".join(lines))
    (tmp_path / "dev.csv").write_text("content\nheld out\n")
    data = Data(path=str(tmp_path), columns={"text": "content"})
    found = read_tables(data, [TEXT])
    assert found["train"].columns["text"] == [f"part {part} row {n}" for part in range(3) for n in range(2)]
    assert found["eval"].columns["text"] == ["held out"]


def test_texts_of_two_sources_are_mixed_by_weight(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        for split in ("train", "dev"):
            (tmp_path / name / f"{split}.txt").write_text("".join(f"{name} {n}\n" for n in range(12)))
    mix = [Source(path=str(tmp_path / "a"), weight=3), Source(path=str(tmp_path / "b"))]
    found = read_tables(Data(name="", mix=mix, documents="line"), [TEXT])
    texts = found["train"].columns["text"]
    assert [sum(text.startswith(name) for text in texts) for name in "ab"] == [12, 4]
    assert len(found["eval"]) == 24


def test_embedded_texts_are_the_same_every_time_and_training_quotes_nothing_of_the_evaluation() -> None:
    data = Data(name="embedded:pydoc_text")
    first, again = read_tables(data, [TEXT]), read_tables(data, [TEXT])
    assert first == again
    train, held_out = (
        {paragraph for text in first[split].columns["text"] for paragraph in long_paragraphs(text)}
        for split in ("train", "eval")
    )
    assert not train & held_out
    # How many there are depends on the version of Python.
    assert len(train) > 1000
    assert len(held_out) > 300


def test_embedded_dialogue_is_the_same_every_time_and_answers_are_in_one_split() -> None:
    data = Data(name="embedded:pydoc_dialogue")
    first, again = read_tables(data, seq2seq.TASK.roles), read_tables(data, seq2seq.TASK.roles)
    assert first == again
    answers = [{*first[split].columns["target"]} for split in ("train", "eval")]
    assert not answers[0] & answers[1]
    assert [len(first[split]) > size for split, size in (("train", 70), ("eval", 40))] == [True, True]


@pytest.mark.slow
def test_the_embedded_bpe_is_that_of_gpt2_in_any_number_of_processes() -> None:
    recipe = Recipe(model=Model(tokenizer="embedded:gpt2_bpe", architecture="gpt2"))
    tokenizer: Any = load_tokenizer(recipe, pad_with_end=True)
    assert tokenizer("Hello world")["input_ids"] == [15496, 995]  # as OpenAI's own encoder gives it
    assert (len(tokenizer), tokenizer.eos_token_id) == (50257, 50256)
    texts = [f"text number {n}" for n in range(600)]
    how = tokenization(tokenizer, special=False)
    alone = [tokens for _, tokens in encode_all(texts, str, how)]
    together = [tokens for _, tokens in encode_all(texts, str, how, workers=2)]
    assert alone == together
    assert alone[7] == tokenizer.encode("text number 7")
