"""Which commit the code is at."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from galley.errors import SubmissionError
from galley.system.proc import run


def git_state(root: Path, paths: Sequence[str]) -> tuple[str | None, bool]:
    """(commit, whether `paths` differ from it); (None, False) outside a git checkout."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None, False
    try:
        status = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "--", *paths]
        lines = run(status, timeout_s=30).splitlines()
    except SubmissionError:  # a checkout of another owner, or one that git cannot read
        return None, False
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    return commit, any(not line.startswith("#") for line in lines)
