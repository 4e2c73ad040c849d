"""The commands that the README and the pages show are run as written, in a copy of the checkout.

Commands of one document run in order and in one folder, with `python` being that of the tests.
`make TARGET` is not run, since these tests are part of `make test`: the target must exist. What is
marked as not run is listed by conftest.py beside this file.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import Block, blocks, documents, shell_blocks
from tests.support import REPO, run_process

MAKE = re.compile(r"^make( [A-Z_]+=\S+)*(?P<targets>( [a-z]+)+)( [A-Z_]+=.+)*$")
COMMAND_TIMEOUT_S = 300


def name(file: Path) -> str:
    return file.relative_to(REPO).as_posix()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that git knows or would know, as they are now; `.venv` is that of the tests."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=True,
    )
    folder = tmp_path / "galley"
    for path in filter(None, listing.stdout.split("\0")):
        if (REPO / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / path, folder / path)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE))


def check(command: str, block: Block, folder: Path) -> None:
    where = f"{name(block.file)}:{block.line}: {command}"
    made = MAKE.match(command)
    if made:
        assert set(made["targets"].split()) <= make_targets(), where
        return
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    done = run_process(
        ["bash", "-c", command],
        cwd=folder,
        env={"PATH": path, "PYTHONPATH": None},
        timeout=COMMAND_TIMEOUT_S,
    )
    assert done.rc == block.exits, f"{where}\n{done.out}\n{done.err}"


def test_the_readme_is_among_them() -> None:
    assert REPO / "README.md" in documents()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", documents(), ids=name)
def test_commands_do_what_the_text_says(file: Path, checkout: Path) -> None:
    for block in shell_blocks(file):
        for command in [] if block.not_run else block.commands:
            check(command, block, checkout)


@pytest.mark.parametrize("file", documents(), ids=name)
def test_every_block_of_commands_is_found(file: Path) -> None:
    """A block in another language would never be run, and an empty one would test nothing."""
    for block in blocks(file):
        where = f"{name(file)}:{block.line}"
        assert block.language not in {"sh", "shell", "zsh", "shell-session"}, f"{where}: use console"
        if block.language in {"console", "bash"}:
            assert block.commands, where
        else:
            assert not block.text.lstrip().startswith("$ "), f"{where}: use console"


def test_markers_stand_above_a_block() -> None:
    for file in documents():
        text = file.read_text(encoding="utf-8")
        outside = re.sub(r"`[^`\n]+`", "", text)
        marked = [b for b in shell_blocks(file) if b.not_run or b.exits]
        assert len(re.findall(r"<!-- (?:not run|exits):", outside)) == len(marked), name(file)


@pytest.mark.parametrize("file", documents(), ids=name)
def test_local_links_lead_somewhere(file: Path) -> None:
    text = re.sub(r"```.*?```", "", file.read_text(encoding="utf-8"), flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    local = [target for target in targets if "://" not in target and not target.startswith("mailto:")]
    missing = [target for target in local if not (file.parent / target).exists()]
    assert not missing
