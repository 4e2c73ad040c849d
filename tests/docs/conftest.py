"""Lists, at the end of a test run, the commands of the documentation that are not run."""

from __future__ import annotations

import pytest

from tests.docs.blocks import documents, shell_blocks
from tests.support import REPO


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    unrun = [block for file in documents() for block in shell_blocks(file) if block.not_run]
    if unrun:
        terminalreporter.section("commands of the documentation that are not run")
    for block in unrun:
        where = f"{block.file.relative_to(REPO)}:{block.line}"
        terminalreporter.line(f"{where}: {block.not_run}: {'; '.join(block.commands)}")
