"""Every way a data file can be wrong, with the whole message that the user reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from galley.data import check
from galley.data.check import check_data, load_splits
from galley.data.splits import describe
from galley.errors import DataError
from galley.schema import Data

GOOD = "text,label\na cat,0\na dog,1\n"
MRPC_HEADER = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"


def write(folder: Path, **files: str | bytes) -> Data:
    """`train_csv="…"` becomes train.csv; what is not given is a good csv file."""
    named = {name.replace("_", "."): content for name, content in files.items()}
    stems = {name.split(".")[0] for name in named}
    if "train" not in stems:
        named["train.csv"] = GOOD
    if not stems & {"dev", "validation"}:
        named["dev.csv"] = GOOD
    for name, content in named.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return Data(path=str(folder))


def messages(data: Data) -> list[str]:
    return [
        str(problem).replace(f"{data.path}/", "").replace(str(data.path), "DIR")
        for problem in check_data(data)
    ]


def test_good_files_have_no_problem(tmp_path: Path) -> None:
    assert messages(write(tmp_path)) == []


def test_data_that_is_not_local_is_not_checked_before_the_launch() -> None:
    assert check_data(Data(name="nobody/nothing")) == []


def test_the_folder_is_missing(tmp_path: Path) -> None:
    assert messages(Data(path=str(tmp_path / "no"))) == [
        "data.path=DIR: does not exist\n    a folder with train.* and dev.* files"
    ]


def test_the_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(GOOD)
    assert messages(Data(path=str(tmp_path / "train.csv"))) == [
        "data.path=DIR: is a file, not a folder\n    a folder with train.* and dev.* files"
    ]


def test_both_files_are_missing_and_both_are_reported(tmp_path: Path) -> None:
    (tmp_path / "training.csv").write_text(GOOD)
    assert messages(Data(path=str(tmp_path))) == [
        "data.path=DIR: has no train.* (csv, tsv, json, jsonl, parquet, arrow, txt)\n"
        "    it holds training.csv",
        "data.path=DIR: has no dev.* or validation.* (csv, tsv, json, jsonl, parquet, arrow, txt)\n"
        "    it holds training.csv",
    ]


def test_two_files_of_one_split_are_not_guessed_between(tmp_path: Path) -> None:
    data = write(tmp_path, dev_csv=GOOD, validation_csv=GOOD)
    assert messages(data) == [
        "data.path=DIR: has several eval files: dev.csv, validation.csv\n    keep one of them"
    ]


BAD_FILES = {
    "empty": ({"train_csv": ""}, ["train.csv: has no samples"]),
    "empty json": ({"train_json": ""}, ["train.json: has no samples"]),
    "only a header": ({"dev_tsv": "text\tlabel\n"}, ["dev.tsv: has no samples"]),
    "no label column": (
        {"train_csv": "text,lable\na,0\n"},
        [
            "train.csv: has no label column that is recognized\n"
            "    did you mean 'lable'? set data.label_column; columns: text, lable",
        ],
    ),
    "no text column": (
        {"train_csv": "txt,label\na,0\n"},
        [
            "train.csv: has no text column that is recognized\n"
            "    did you mean 'txt'? set data.text_columns; columns: txt, label"
        ],
    ),
    "one class": (
        {"train_csv": "text,label\na,1\nb,1\n"},
        ["train.csv: all 2 samples have label 1\n    training needs two classes at least"],
    ),
    "a class without samples": (
        {"train_csv": "text,label\na,0\nb,2\n", "dev_csv": "text,label\na,0\n"},
        ["train.csv: has labels up to 2, but none is 1\n    number the 2 classes from 0 without gaps"],
    ),
    "label unseen in training": (
        {"dev_csv": "text,label\na,0\nb,3\n"},
        ["dev.csv: has labels that DIR/train.csv does not have: 3\n    labels of training: 0, 1"],
    ),
    "label is not a number": (
        {"dev_csv": "text,label\na,-1\nb,1.5\n"},
        [
            "dev.csv:2: column 'label': '-1' is not a class number (0, 1, …)",
            "dev.csv:3: column 'label': '1.5' is not a class number (0, 1, …)"
            "; task=sequence_regression learns numbers",
        ],
    ),
    "labels of two kinds": (
        {"train_jsonl": '{"text": "a", "label": 0}\n{"text": "b", "label": true}\n'},
        [
            "train.jsonl: has labels of two kinds: numbers (0) and text (true)\n"
            "    write all of them as numbers, or all as text"
        ],
    ),
    "text is not text": (
        {"train_jsonl": '{"text": "a", "label": 0}\n\n{"text": 7, "label": 1}\n'},
        ["train.jsonl:3: column 'text': 7 is not text"],
    ),
    "key missing in a later line": (
        {"train_jsonl": '{"text": "a", "label": 0}\n{"text": "b"}\n'},
        ["train.jsonl:2: column 'label': None is not a class number (0, 1, …)"],
    ),
    "a value too many": (
        {"train_csv": "text,label\na,0\nb, c,1\n"},
        ["train.csv:3: has 3 values, the header 2"],
    ),
    "a quotation that never ends": (
        {"train_csv": 'text,label\n"a,0\nb,1\n'},
        ["train.csv:3: cannot be read: unexpected end of data"],
    ),
    "encoding": (
        {"train_csv": b"text,label\na cat,0\ncaf\xe9,1\n"},
        [
            "train.csv:3: is not UTF-8: byte 0xe9 at offset 22\n"
            "    convert it, for example with iconv -f latin1 -t utf-8"
        ],
    ),
    "a line that is not JSON": (
        {"train_jsonl": '{"text": "a", "label": 0}\n{"text": "b", \n'},
        ["train.jsonl:2: is not JSON: Expecting property name enclosed in double quotes at column 14"],
    ),
    "a line that is not an object": (
        {"train_jsonl": "[1, 2]\n"},
        ['train.jsonl:1: is not an object\n    a line is {"text": …, "label": …}'],
    ),
    "JSON cut short": (
        {"train_json": '[{"text": "a", "label": 0},\n'},
        ["train.json:2: is not JSON: Expecting value at column 1"],
    ),
    "JSON of another shape": (
        {"train_json": '{"text": ["a"], "label": [0]}'},
        ['train.json: is not a list of objects\n    the file is [{"text": …, "label": …}, …]'],
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(tmp_path: Path, name: str) -> None:
    files, expected = BAD_FILES[name]
    data = write(tmp_path, **files)
    found = [str(problem).replace(f"{tmp_path}/", "") for problem in check_data(data)]
    assert found == [message.replace("DIR/", "") for message in expected]


def test_an_encoding_error_far_behind_the_first_block_is_located(tmp_path: Path) -> None:
    lines = [b"text,label"] + [b"some words,%d" % (n % 2) for n in range(50_000)]
    lines[40_000] = b"\xff,1"
    content = b"\n".join(lines) + b"\n"
    data = write(tmp_path, train_csv=content)
    where = f"train.csv:40001: is not UTF-8: byte 0xff at offset {content.index(0xFF)}"
    assert messages(data)[0].splitlines()[0] == where


def test_many_bad_lines_are_counted_not_listed(tmp_path: Path) -> None:
    data = write(tmp_path, train_csv="text,label\n" + "a,-7\n" * 12)
    found = messages(data)
    assert len(found) == 6
    assert found[-1] == "train.csv: 7 more such problems"


def test_a_link_to_a_file_that_is_gone(tmp_path: Path) -> None:
    data = write(tmp_path)
    (tmp_path / "train.csv").unlink()
    (tmp_path / "train.csv").symlink_to(tmp_path / "gone.csv")
    assert messages(data)[0].startswith("data.path=DIR: has no train.*")


def test_a_parquet_file_cut_short(tmp_path: Path) -> None:
    whole = parquet_bytes(tmp_path / "x", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    [message] = messages(write(tmp_path, train_parquet=whole[:-20]))
    assert message.startswith("train.parquet: is not a whole parquet file: ")


def test_named_columns_that_are_not_there_get_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path, train_csv="headline,class\na,0\nb,1\n", dev_csv="headline,class\na,0\n")
    data = Data(path=str(tmp_path), text_columns=["headlin"], label_column="clas")
    assert messages(data)[:2] == [
        "train.csv: has no column 'headlin'\n"
        "    did you mean 'headline'? set data.text_columns; columns: headline, class",
        "train.csv: has no column 'clas'\n"
        "    did you mean 'class'? set data.label_column; columns: headline, class",
    ]
    good = Data(path=str(tmp_path), text_columns=["headline"], label_column="class")
    assert messages(good) == []


def test_three_text_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path, train_csv="a,b,c,label\n1,2,3,0\n1,2,3,1\n", dev_csv="a,b,c,label\n1,2,3,0\n")
    found = messages(Data(path=str(tmp_path), text_columns=["a", "b", "c"]))
    assert found[0] == "data.text_columns: names 3 columns\n    one, or two for pairs"


RECORDS: list[dict[str, Any]] = [
    {"text": 'He said "no", then', "label": 0},
    {"text": "a tab and a line\nend é", "label": 1},
]


def parquet_bytes(path: Path, records: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.Table.from_pylist(records), path)
    content = path.read_bytes()
    path.unlink()
    return content


@pytest.mark.parametrize("kind", ["csv", "json", "data_json", "jsonl", "parquet"])
def test_every_format_gives_the_same_samples(tmp_path: Path, kind: str) -> None:
    quoted = (str(record["text"]).replace('"', '""') for record in RECORDS)
    content: dict[str, str | bytes] = {
        "csv": "﻿text,label\n" + "\n".join(f'"{text}",{n}' for n, text in enumerate(quoted)) + "\n\n",
        "json": json.dumps(RECORDS),
        "data_json": json.dumps({"version": 1, "data": RECORDS}),
        "jsonl": "".join(json.dumps(record) + "\n" for record in RECORDS),
        "parquet": parquet_bytes(tmp_path / "x", RECORDS),
    }
    suffix = kind.rpartition("_")[2]
    data = write(tmp_path, **{f"train_{suffix}": content[kind]})
    train = load_splits(data)["train"]
    assert train.texts == ([record["text"] for record in RECORDS],)
    assert train.labels == [0, 1]


def test_tsv_takes_quotation_marks_as_they_are(tmp_path: Path) -> None:
    data = write(
        tmp_path, train_tsv='sentence\tlabel\n" lone mark\t0\nit \'s "\t1\n', dev_csv="sentence,label\na,0\n"
    )
    assert load_splits(data)["train"].texts == (['" lone mark', "it 's \""],)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"text_columns": ["sentence1", "sentence2"], "label_column": "label"},
        {"text_columns": ["#1 String", "#2 String"], "label_column": "Quality"},
    ],
)
def test_glue_mrpc_is_recognized_under_the_hubs_names(tmp_path: Path, columns: dict[str, Any]) -> None:
    body = '1\t10\t11\tHe " said\tShe said\n0\t12\t13\tA\tB\n'
    write(tmp_path, train_tsv="﻿" + MRPC_HEADER + body, dev_tsv=MRPC_HEADER + body)
    train = load_splits(Data(path=str(tmp_path), **columns))["train"]
    assert train.texts == (['He " said', "A"], ["She said", "B"])
    assert train.labels == [1, 0]


def test_glue_mrpc_does_not_hide_a_wrong_name(tmp_path: Path) -> None:
    body = "1\t10\t11\tA\tB\n0\t12\t13\tA\tB\n"
    write(tmp_path, train_tsv=MRPC_HEADER + body, dev_tsv=MRPC_HEADER + body)
    found = messages(Data(path=str(tmp_path), text_columns=["#1 String", "#2 String"], label_column="Qualty"))
    assert found[0] == (
        "train.tsv: has no column 'Qualty'\n"
        "    did you mean 'Quality'? set data.label_column;"
        " columns: Quality, #1 ID, #2 ID, #1 String, #2 String"
    )


def test_before_the_launch_a_long_file_is_read_in_part_and_its_classes_are_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "ROWS_BEFORE_LAUNCH", 5)
    data = write(tmp_path, train_csv="text,label\n" + "a,0\n" * 8 + "b,1\nc,-1\n")
    assert messages(data) == []
    with pytest.raises(DataError, match=r"train\.csv:11: column 'label': '-1' is not a class"):
        load_splits(data)


def test_the_log_line_counts_samples_by_class(tmp_path: Path) -> None:
    split = load_splits(write(tmp_path))["eval"]
    assert describe(split) == f"{tmp_path}/dev.csv: 2 samples (1 of class 0, 1 of class 1)"
