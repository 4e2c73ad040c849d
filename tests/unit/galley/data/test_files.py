"""Data files as other programs write them: read by the writer's own rules, or refused in one sentence."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from galley.data.delimited_files import delimited_rows
from galley.data.files import find_files, read_rows
from galley.errors import DataError

ROWS = [{"text": "a cat", "label": "0"}, {"text": 'He said "no", then', "label": "1"}]


def found(path: Path) -> list[dict[str, Any]]:
    return [row for _, row in read_rows(path)]


def refused(path: Path, content: bytes | str) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as caught:
        list(read_rows(path))
    (problem,) = caught.value.problems
    return str(problem).replace(f"{path.parent}/", "")


def written(rows: list[dict[str, str]], **options: Any) -> str:
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, list(rows[0]), **options)
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["train.csv", "TRAIN.CSV", "train.csv.gz"])
def test_encodings_that_the_first_bytes_state_and_gzip(tmp_path: Path, encoding: str, name: str) -> None:
    content = written([*ROWS, {"text": "é 😀", "label": "1"}]).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (path,) = find_files(tmp_path, "train")
    assert found(path) == [*ROWS, {"text": "é 😀", "label": "1"}]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_what_separates_values_is_taken_from_the_header_and_said(
    tmp_path: Path, separator: str, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"train.{suffix}"
    path.write_text(written(ROWS, delimiter=separator))
    with caplog.at_level(logging.INFO, "galley"):
        assert found(path) == ROWS
    usual = {"csv": ",", "tsv": "\t"}[suffix]
    assert sum("separates its values" in line for line in caplog.messages) == (separator != usual)


def test_a_separator_that_excel_states(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("sep=;\r\n" + written(ROWS, delimiter=";"))
    assert found(tmp_path / "train.csv") == ROWS


def test_a_header_with_both_separators_is_read_as_its_suffix_says(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text('"a;b",label\nx,0\n')
    assert found(tmp_path / "train.csv") == [{"a;b": "x", "label": "0"}]


GLUE = ['" lone mark', "it 's \"", '"Yes .', '"whole sentence ."', 'a "b" c']


@pytest.mark.parametrize("texts", [GLUE, GLUE[:1], GLUE[3:4], ['"Yes ."', "No ."]])
def test_marks_in_tsv_stay_where_nothing_shows_that_they_quote(tmp_path: Path, texts: list[str]) -> None:
    body = "".join(f"{text}\t{n}\n" for n, text in enumerate(texts))
    (tmp_path / "train.tsv").write_text("sentence\tlabel\n" + body)
    assert [row["sentence"] for row in found(tmp_path / "train.tsv")] == texts


@pytest.mark.parametrize(
    ("quoting", "texts"),
    [
        (csv.QUOTE_MINIMAL, ['He said "no"', "plain"]),
        (csv.QUOTE_MINIMAL, ["a tab\tin it", "plain"]),
        (csv.QUOTE_MINIMAL, ["two\nlines", "plain"]),
        (csv.QUOTE_ALL, ["one", "two"]),
        (csv.QUOTE_NONNUMERIC, ["one", "two"]),
    ],
)
def test_quoted_tsv_is_read_as_it_was_written_and_said(
    tmp_path: Path, quoting: Any, texts: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"text": text, "label": "0"} for text in texts]
    path = tmp_path / "train.tsv"
    path.write_text(written(rows, delimiter="\t", quoting=quoting))
    with caplog.at_level(logging.INFO, "galley"):
        assert found(path) == rows
    assert caplog.messages == [f"{path}: its values are quoted as in csv"]


@given(st.lists(st.text(st.sampled_from('ab"\t\n,; é'), min_size=1), min_size=1), st.sampled_from("\t,;|"))
def test_whatever_pythons_csv_writes_is_read_back(texts: list[str], separator: str) -> None:
    # Lines with as many tabs as the header fit it with and without quotes.
    assume(separator != "\t" or not any("\t" in text and "\n" in text for text in texts))
    rows = [{"text": f"x{text}x", "label": "0"} for text in texts]
    content = written(rows, delimiter=separator)
    usual = "\t" if separator == "\t" else ","
    assert [row for _, row in delimited_rows(io.StringIO(content, newline=""), Path("x"), usual)] == rows


def test_a_value_may_be_longer_than_the_csv_module_takes(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"text,label\n{'a' * 200_000},0\n")
    assert len(found(tmp_path / "train.csv")[0]["text"]) == 200_000


def test_a_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    """As pandas writes its index, and spreadsheets their empty columns."""
    (tmp_path / "train.csv").write_text(",text, label ,,\n0,a,1,,\n")
    assert found(tmp_path / "train.csv") == [{"text": "a", "label": "1"}]


def test_json_lines_under_another_name(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in [{"text": "😀"}, {"text": "b\u2028c"}])
    (tmp_path / "train.json").write_text(lines)
    assert found(tmp_path / "train.json") == [{"text": "😀"}, {"text": "b\u2028c"}]


BAD: dict[str, tuple[str, str | bytes, str | None]] = {
    "a header with a name twice": (
        "train.csv",
        "text,label, text\na,0,b\n",
        "train.csv:1: the header has 'text' more than once (columns 1 and 3)\n"
        "    rename or remove all but one",
    ),
    "the same in tsv": (
        "train.tsv",
        "text\tlabel\tlabel\na\t0\t1\n",
        "train.tsv:1: the header has 'label' more than once (columns 2 and 3)\n"
        "    rename or remove all but one",
    ),
    "a key twice": (
        "train.jsonl",
        '{"text": "a"}\n{"text": "a", "text": "b"}\n',
        "train.jsonl:2: an object has the key 'text' more than once\n    rename or remove one",
    ),
    "half a character": (
        "train.jsonl",
        '{"text": "\\ud83d\\ude00"}\n{"text": "cut \\ud83d"}\n',
        "train.jsonl:2: has half a character: \\ud83d without its other half\n"
        "    write the whole character, or remove it",
    ),
    "half a character in a list": (
        "train.json",
        '[{"text": "\\ud83d\\ude00"},\n {"text": "\\ude00"}]',
        "train.json:2: has half a character: \\ude00 without its other half\n"
        "    write the whole character, or remove it",
    ),
    "UTF-16 without its mark": (
        "train.csv",
        "text,label\n".encode("utf-16-le"),
        "train.csv: begins with a NUL byte among others: it is UTF-16 without its mark, or no text\n"
        "    convert it, for example with iconv -f utf-16le -t utf-8",
    ),
    "UTF-16 that is cut": (
        "train.csv",
        "text,label\na,0\n".encode("utf-16")[:-1],
        "train.csv:2: is not UTF-16: byte 0x0a at offset 30\n    it was cut or changed: copy it again",
    ),
    "a damaged archive": (
        "train.jsonl.gz",
        gzip.compress(b'{"text": "a"}\n' * 100)[:-9],
        "train.jsonl.gz: is not a whole gzip file: "
        "Compressed file ended before the end-of-stream marker was reached",
    ),
    "no archive": (
        "train.csv.gz",
        "text\na\n",
        "train.csv.gz: is not a whole gzip file: Not a gzipped file (b'te')",
    ),
    "marks escaped by a backslash": (
        "train.csv",
        'text,label\n"a \\"b\\" c",0\n',
        "train.csv:2: cannot be read: ',' expected after '\"'\n"
        "    inside a quoted value, write a quotation mark twice",
    ),
    "two values in a line": (
        "train.jsonl",
        '{"text": "a"} {"text": "b"}\n',
        'train.jsonl:1: holds several values\n    a line is {"text": …, "label": …}',
    ),
    "lists without an end": ("train.json", "[" * 100_000, None),
    "a number without an end": ("train.jsonl", '{"label": ' + "1" * 5000 + "}", None),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_in_doubt_is_refused_once(tmp_path: Path, name: str) -> None:
    file, content, expected = BAD[name]
    message = refused(tmp_path / file, content)
    assert message == expected if expected else ":1: is not read: " in message


def test_hidden_files_are_no_parts(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    for name in ("part.jsonl", "._part.jsonl", ".part.csv"):
        (tmp_path / "train" / name).write_bytes(b"\0\5\x16\7")
    assert [path.name for path in find_files(tmp_path, "train")] == ["part.jsonl"]


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    import datasets

    rows = {"text": [f"text {n}" for n in range(7)], "label": [n % 2 for n in range(7)]}
    saved = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict({"train": saved, "validation": saved}).save_to_disk(
        str(tmp_path / "both"), num_shards={"train": 3, "validation": 1}
    )
    for split, shards in (("train", 3), ("eval", 1)):
        paths = find_files(tmp_path / "both", split)  # type: ignore[arg-type]
        assert len(paths) == shards
        assert [row["text"] for path in paths for row in found(path)] == rows["text"]
    saved.save_to_disk(str(tmp_path / "one"))
    with pytest.raises(DataError, match="save a DatasetDict, or move all of it into train/"):
        find_files(tmp_path / "one", "train")


def test_parquet_with_a_column_twice(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table([["a"], ["b"]], names=["text", "text"]), tmp_path / "train.parquet")
    with pytest.raises(DataError, match="has the column 'text' more than once"):
        found(tmp_path / "train.parquet")
