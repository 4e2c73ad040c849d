"""What runs in a pod, piece by piece: unpacking, the node's environment, the lines of its log."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from galley.errors import ConfigError, SubmissionError
from galley.run.seal import snapshot_files, snapshot_sha256
from galley.rundir import RunFolder
from galley.spec import RunResult, to_json
from launchers.k8s import bundle, unpack
from launchers.k8s.manifest.job import UNPACK
from launchers.k8s.manifest.pod import literal
from launchers.k8s.node import agent_environment, shown_ranks
from launchers.k8s.relay import Tail, extend, file_line, rank_texts, receive
from tests.integration.k8s.cluster import expand
from tests.support import Finished, run_process
from tests.unit.launchers.k8s.runs import make_spec


@given(st.text(alphabet="$()AB \n'\"\\", max_size=12))
def test_kubernetes_gives_every_value_back(value: str) -> None:
    assert expand(literal(value), {"A": "wrong", "B": "wrong", "": "wrong"}) == value


@pytest.fixture
def sealed(tmp_path: Path) -> RunFolder:
    """A run folder with a little code, sealed."""
    folder = RunFolder(tmp_path / "here")
    for name, text in {
        "trainer/worker.py": "print('é')\n",
        "conf/a b.yaml": "x: 1\n",
        "empty.py": "",
    }.items():
        path = folder.code / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    folder.write_spec(make_spec())
    return folder


def source_of(folder: RunFolder) -> Path:
    """What the ConfigMaps are in a pod."""
    source = folder.root.parent / "source"
    source.mkdir()
    shutil.copy(UNPACK, source / "unpack.py")
    shutil.copy(folder.spec_file, source / "run.json")
    (source / "code.tar.xz").write_bytes(bundle.pack(snapshot_files(folder)))
    return source


def run_unpack(source: Path, target: Path, run_sha256: str, code_sha256: str, *command: str) -> Finished:
    says = command or (sys.executable, "-c", "print('trains')")
    hashes = ("--run-sha256", run_sha256, "--code-sha256", code_sha256)
    unpacks = (sys.executable, "-P", source / "unpack.py", "--run-dir", target)
    return run_process([*unpacks, *hashes, "--", *says])


def test_the_code_arrives_and_the_command_runs(sealed: RunFolder, tmp_path: Path) -> None:
    source, target = source_of(sealed), RunFolder(tmp_path / "there")
    hashes = (sealed.read_spec().sha256, snapshot_sha256(sealed))
    for _ in range(2):  # again, as a pod that is started anew
        done = run_unpack(source, target.root, *hashes)
        assert (done.rc, done.out) == (0, "trains\n"), done.err
        assert snapshot_sha256(target) == hashes[1]
        assert target.read_spec() == sealed.read_spec()


def test_code_that_is_on_the_claim_is_verified(sealed: RunFolder) -> None:
    source = source_of(sealed)
    (source / "code.tar.xz").unlink()
    hashes = (sealed.read_spec().sha256, snapshot_sha256(sealed))
    assert run_unpack(source, sealed.root, *hashes).rc == 0
    (sealed.code / "trainer" / "worker.py").write_text("print('other')\n")
    done = run_unpack(source, sealed.root, *hashes)
    assert (done.rc, done.out) == (2, "")
    assert "not the sealed code" in done.err


def test_another_run_is_refused(sealed: RunFolder, tmp_path: Path) -> None:
    source, code = source_of(sealed), snapshot_sha256(sealed)
    done = run_unpack(source, tmp_path / "there", "0" * 64, code)
    assert done.rc == 2
    assert "not the sealed run" in done.err
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "run.json").write_text("{}")
    done = run_unpack(source, tmp_path / "taken", sealed.read_spec().sha256, code)
    assert done.rc == 2
    assert "holds another run" in done.err


@pytest.mark.parametrize("name", ["../outside.py", "/outside.py", "link"])
def test_an_archive_stays_inside_its_folder(sealed: RunFolder, tmp_path: Path, name: str) -> None:
    source = source_of(sealed)
    with tarfile.open(source / "code.tar.xz", "w:xz") as archive:
        member = tarfile.TarInfo(name)
        if name == "link":
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member, io.BytesIO())
    done = run_unpack(source, tmp_path / "there", sealed.read_spec().sha256, snapshot_sha256(sealed))
    assert done.rc == 2
    assert "does not belong" in done.err
    assert not (tmp_path / "outside.py").exists()


def test_unpack_hashes_as_the_seal_does(sealed: RunFolder) -> None:
    (sealed.code / "__pycache__").mkdir()
    (sealed.code / "__pycache__" / "x.pyc").touch()
    assert unpack.tree_sha256(sealed.code) == snapshot_sha256(sealed)


def test_equal_code_equal_archive(sealed: RunFolder) -> None:
    first = bundle.pack(snapshot_files(sealed))
    (sealed.code / "empty.py").touch()
    assert bundle.pack(snapshot_files(sealed)) == first


def test_code_that_is_too_large_is_refused_before_anything_is_sent(sealed: RunFolder) -> None:
    import random

    noise = random.Random(0).randbytes(bundle.MAX_BYTES + 1)
    (sealed.code / "weights.bin").write_bytes(noise)
    with pytest.raises(SubmissionError, match="transport=claim"):
        bundle.code_config_map(sealed, {"name": "x"})


def test_torchrun_gets_the_node_and_never_the_ranks_names() -> None:
    v1 = {"RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "job-master-0", "MASTER_PORT": "23456", "A": "b"}
    found = agent_environment(v1, nodes=2)
    assert found == {
        "A": "b",
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "job-master-0",
        "PET_MASTER_PORT": "23456",
        "PYTHONUNBUFFERED": "1",
    }
    v2 = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "4", "PET_NODE_RANK": "0"}
    v2 |= {"PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29500"}
    assert agent_environment(v2, nodes=2)["PET_NODE_RANK"] == "0"


def test_a_pod_that_is_told_too_little_or_something_else_is_refused() -> None:
    with pytest.raises(ConfigError, match="PET_NODE_RANK PET_MASTER_ADDR PET_MASTER_PORT: is not set"):
        agent_environment({}, nodes=2)
    with pytest.raises(ConfigError, match="the operator started 3 pods, the run has 2 nodes"):
        agent_environment({"PET_NNODES": "3"}, nodes=2)
    with pytest.raises(ConfigError, match="PET_RDZV_ENDPOINT"):
        agent_environment({}, nodes=None)
    assert "RANK" not in agent_environment({"RANK": "0", "WORLD_SIZE": "1"}, nodes=1)


def test_a_pod_shows_the_ranks_of_its_node() -> None:
    assert shown_ranks({"PET_NODE_RANK": "2"}, 4, 8) == range(16, 24)
    assert shown_ranks({}, 1, 8) == range(8)
    assert shown_ranks({"PET_RDZV_ENDPOINT": "elsewhere-worker-0:1"}, None, 8) == range(0)


def test_a_result_of_another_attempt_is_none(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert not folder.has_result(1)
    folder.write_result(RunResult("succeeded", 0, attempts=1))
    assert folder.has_result(1)
    assert not folder.has_result(2)


def test_files_travel_in_the_log(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    result = to_json(RunResult("succeeded", 0, "é\n[rank 0] not a line"))
    lines = [
        file_line("metrics.jsonl", 0, '{"step": 1}\n'),
        "[rank 0] galley-file {}",
        file_line("metrics.jsonl", 12, '{"step": 2}\n'),
        file_line("result.json", 0, result),
    ]
    for _ in range(2):
        receive(lines, tmp_path)
        assert [row["step"] for row in folder.read_metrics()] == [1, 2]
        assert folder.result_file.read_text() == result


def test_metrics_that_were_rewound_are_cut(tmp_path: Path) -> None:
    lines = [file_line("metrics.jsonl", 0, "1\n2\n3\n"), file_line("metrics.jsonl", 2, "4\n")]
    receive(lines, tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "1\n4\n"


def test_the_first_part_may_be_gone_from_a_rotated_log(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("1\n2\n")
    receive([file_line("metrics.jsonl", 4, "3\n")], tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == "1\n2\n3\n"


@pytest.mark.parametrize(
    "path", ["../result.json", "/etc/passwd", "code/x.py", "run.json", "logs/attempt-1/../../run.json"]
)
def test_a_log_cannot_write_elsewhere(tmp_path: Path, path: str) -> None:
    receive([file_line(path, 0, "x"), 'galley-file {"path": "res'], tmp_path / "run")
    assert list(tmp_path.rglob("*")) == []


def test_rank_lines_are_sorted_by_rank() -> None:
    lines = ["[rank 1] a", "[agent] x", "[rank 0] b", "[rank 1] [rank 0] c", "rank 0 d"]
    assert rank_texts(lines) == {1: "a\n[rank 0] c\n", 0: "b\n"}


def test_a_log_grows_under_its_readers(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "rank-0.log"
    extend(path, b"one\n")
    with path.open() as reader:
        assert reader.read() == "one\n"
        extend(path, b"one\ntwo\n")
        extend(path, b"one\ntwo\n")
        extend(path, b"one\n")
        assert reader.read() == "two\n"


def test_a_tail_waits_for_the_end_of_a_line_and_sees_a_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.read() == ""
    path.write_text("1\n2")
    assert tail.read() == "1\n"
    path.write_text("1\n2\n")
    assert tail.read() == "2\n"
    path.write_text("1\n")
    assert (tail.read(), tail.position) == ("1\n", 2)
