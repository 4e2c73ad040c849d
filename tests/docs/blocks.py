"""The commands that the documentation shows: fenced blocks of `console` and `bash`.

`<!-- not run: REASON -->` in the line above a block keeps it from being run; such blocks are listed
in the output of the tests. `<!-- exits: N -->` states the exit code that all its commands end with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support import REPO

FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)")
NOT_RUN = re.compile(r"^\s*<!-- not run: (.+) -->$")
EXITS = re.compile(r"^\s*<!-- exits: (\d+) -->$")
SHELLS = {"console", "bash"}


def documents() -> list[Path]:
    """The README, CONTRIBUTING, and every page that somebody wrote; generated pages hold no blocks to run."""
    pages = [page for page in (REPO / "docs").rglob("*.md") if page.parent.name != "reference"]
    return [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted(pages)]


@dataclass(frozen=True)
class Block:
    """One fenced block. `line` is that of its fence, counted from 1; `not_run` is empty where it runs."""

    file: Path
    line: int
    language: str
    text: str
    not_run: str = ""
    exits: int = 0

    @property
    def commands(self) -> list[str]:
        """Each with its continuation lines; of a console block, the lines that begin with `$ `."""
        joined = self.text.replace("\\\n", "\\\x00")
        lines = [line.replace("\x00", "\n") for line in joined.splitlines()]
        if self.language == "console":
            return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [line for line in lines if line.strip() and not line.startswith("#")]


def blocks(file: Path) -> list[Block]:
    """All fenced blocks of a Markdown file, in any language."""
    found: list[Block] = []
    lines = file.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        indent = fence["indent"]
        end = lines.index(f"{indent}```", number + 1)
        above = lines[number - 1] if number else ""
        not_run, exits = NOT_RUN.match(above), EXITS.match(above)
        body = "\n".join(line.removeprefix(indent) for line in lines[number + 1 : end])
        found.append(
            Block(
                file,
                number + 1,
                fence["language"],
                body,
                not_run[1] if not_run else "",
                int(exits[1]) if exits else 0,
            )
        )
        number = end + 1
    return found


def shell_blocks(file: Path) -> list[Block]:
    return [block for block in blocks(file) if block.language in SHELLS]
