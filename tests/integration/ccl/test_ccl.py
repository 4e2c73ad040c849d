"""oneCCL as a c10d backend, on real ranks, against gloo. The cases are in `cases.py`."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from tests.support import REPO, not_available, run_process
from trainer.backends.ccl.toolchain import BackendUnavailable, Parts, build, find_parts

RANKS = Path(__file__).parent / "ranks.py"
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108


@pytest.fixture(scope="session")
def cache() -> Path:
    """The cache that a user has, with the extension in it; compiled here where it is not."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "galley"
    try:
        build(find_parts(), root)
    except BackendUnavailable as error:
        not_available(str(error), "the tests of oneCCL on CPU")
    return root


def run_cases(cases: Sequence[str], world_size: int, cache: Path, runs: int = 1) -> list[int]:
    """Every rank of every run must end with 0; returns their process ids."""
    argv = [sys.executable, "-P", RANKS, ",".join(cases), str(world_size), str(runs), cache]
    path = os.pathsep.join([str(REPO), str(RANKS.parent)])
    done = run_process(argv, env={"PYTHONPATH": path}, timeout=600)
    assert done.out, done.err[-3000:]
    found = json.loads(done.out.splitlines()[-1])
    assert found["codes"] == {case: [[0] * world_size] * runs for case in cases}, done.err[-3000:]
    pids: list[int] = found["pids"]
    return pids


AS_OVER_GLOO = (
    "all_reduce", "reductions", "coalesced", "moves", "messages", "sub_groups", "ddp", "fsdp",
)  # fmt: skip
BEHAVIOR = ("asynchronous", "strided", "timeout", "refusals")


@pytest.mark.parametrize(("world_size", "cases"), [(2, (*AS_OVER_GLOO, *BEHAVIOR)), (4, AS_OVER_GLOO)])
def test_over_oneccl_as_over_gloo(cases: Sequence[str], world_size: int, cache: Path) -> None:
    run_cases(cases, world_size, cache)


def test_deepspeed_over_oneccl(cache: Path) -> None:
    run_cases(("zero",), 2, cache)


def test_five_of_five_runs_end_with_0_and_leave_no_shared_memory(cache: Path) -> None:
    """However the ranks leave: through the interpreter's own tear-down, with groups open or closed."""
    pids = run_cases(("leave_open", "leave_closed", "leave_busy"), 2, cache, runs=5)
    assert [path.name for pid in pids for path in SHARED_MEMORY.glob(f"{pid}:*")] == []


def test_many_builders_compile_once(tmp_path: Path) -> None:
    """The lock holds, and the lock file that a killed build leaves behind holds nobody up."""
    parts = replace_compiler(find_parts(), tmp_path)
    with ThreadPoolExecutor(4) as pool:
        targets = list(pool.map(lambda _: build(parts, tmp_path / "cache"), range(4)))
    assert len(set(targets)) == 1
    assert targets[0].read_text() == "compiled"
    assert (tmp_path / "calls").read_text() == "one call\n"
    assert sorted(path.name for path in targets[0].parent.iterdir()) == ["galley_ccl.lock", "galley_ccl.so"]
    targets[0].unlink()
    assert build(parts, tmp_path / "cache") == targets[0]


def test_every_copy_of_the_sources_finds_what_was_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run executes its own snapshot of the code; a changed source is another extension."""
    parts = replace_compiler(find_parts(), tmp_path)
    first = build(parts, tmp_path / "cache")
    copy = tmp_path / "code"
    shutil.copytree(REPO / "trainer/backends/ccl", copy)
    monkeypatch.setattr("trainer.backends.ccl.toolchain.SOURCES", copy)
    assert build(parts, tmp_path / "cache") == first
    (copy / "backend.hpp").write_text("// changed\n")
    assert build(parts, tmp_path / "cache") != first


def test_a_compiler_that_fails_is_quoted(tmp_path: Path) -> None:
    parts = replace_compiler(find_parts(), tmp_path, "echo 'fatal error: no such header' >&2; exit 1")
    with pytest.raises(BackendUnavailable, match=r"does not build: .*fatal error: no such header"):
        build(parts, tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.so"))


def replace_compiler(parts: Parts, folder: Path, does: str = "") -> Parts:
    """A compiler that writes down that it was called, takes its time, and writes its output."""
    script = folder / "c++"
    works = f"echo 'one call' >> '{folder}/calls'; sleep 0.3; printf compiled > \"${{@: -1}}\""
    script.write_text(f'#!/bin/bash\n[ "$1" = --version ] && echo fake 1 && exit 0\n{does or works}\n')
    script.chmod(0o755)
    return replace(parts, compiler=str(script))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise PackageNotFoundError(package)

    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BackendUnavailable, match=r"apt-get install g\+\+"):
        find_parts()
    monkeypatch.delenv("CXX")
    monkeypatch.setattr("trainer.backends.ccl.toolchain.distribution", missing)
    with pytest.raises(
        BackendUnavailable, match=r"oneccl-cpu-devel is not installed: pip install oneccl-cpu-devel==2022.1.2"
    ):
        find_parts()


def test_the_source_needs_no_binary_of_ours() -> None:
    """Nothing compiled is part of the project."""
    folder = REPO / "trainer" / "backends"
    kinds = {path.suffix for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert kinds <= {".py", ".cpp", ".hpp"}
