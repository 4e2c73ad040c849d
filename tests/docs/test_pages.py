"""The documentation builds, needs no network to be read, and says what the program is."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from cli.main import VERBS
from galley.config.keys import leaf_types
from galley.errors import ConfigError, RunCancelledError, RunFailedError, SubmissionError
from galley.rundir import RunFolder
from tests.support import REPO, run_process

DOCS = REPO / "docs"


def first_column(page: str, prefix: str = "") -> set[str]:
    """First words of the code in the first column of all tables of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return set(re.findall(rf"^\| `{prefix}([\w.-]+)[^`]*`", text, flags=re.MULTILINE))


def test_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    argv = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir"]
    done = run_process([*argv, tmp_path], env={"NO_MKDOCS_2_WARNING": "1"})
    assert done.rc == 0, done.err
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(list(DOCS.glob("*.md")))
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe)[^>]+(?:src|href)=\"?(https?://[^\" >]+)", page.read_text()
        )
        assert not loaded, page.name


def test_generated_pages_are_up_to_date() -> None:
    done = run_process([sys.executable, "-P", REPO / "scripts" / "write_reference.py", "--check"])
    assert done.rc == 0, done.err


def test_reference_has_every_key() -> None:
    assert set(leaf_types()) <= first_column("reference/keys.md")


def test_command_line_page_has_every_verb() -> None:
    assert set(VERBS) <= first_column("command-line.md")


def test_command_line_page_has_every_exit_code() -> None:
    text = (DOCS / "command-line.md").read_text(encoding="utf-8")
    shown = {int(code) for code in re.findall(r"^\| (\d+) \|", text, flags=re.MULTILINE)}
    errors = (ConfigError, SubmissionError, RunFailedError, RunCancelledError)
    assert shown == {0, 130, *(error.exit_code for error in errors)}


def test_strategies_page_has_every_strategy() -> None:
    options = {file.stem for file in (REPO / "conf" / "strategy").glob("*.yaml")}
    assert first_column("strategies.md") == options


def test_run_folder_page_has_every_file() -> None:
    text = (DOCS / "run-folder.md").read_text(encoding="utf-8")
    paths = [path for path in vars(RunFolder(Path("r"))).values() if path != Path("r")]
    missing = [path.name for path in paths if path.name not in text]
    assert not missing
