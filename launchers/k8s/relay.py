"""Rank logs and small files of a run as lines of a pod's log, and back again.

    [rank 3] TEXT               a line that rank 3 wrote to its log
    [agent] TEXT                a line of torchrun
    galley-file {JSON}          a part of a file: {path, at, text}; the file ends after it

Only the pod's first process writes lines that begin with `galley-file`, so that ranks cannot forge one.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

FILE_MARK = "galley-file "
RANK_LINE = re.compile(r"\[rank (\d+)\] (.*)", re.DOTALL)
# The only files that are written outside the cluster: none is executed or chooses a path.
_SENT = re.compile(r"result\.json|progress\.json|metrics\.jsonl|logs/attempt-\d+/rank-\d+\.error\.json")


class Tail:
    """Reads what was added to a file since the last read, in whole lines unless `partial`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = 0

    def read(self, partial: bool = False) -> str:
        """Return new text; from the start again if the file was cut."""
        try:
            if self.path.stat().st_size < self.position:
                self.position = 0
            with self.path.open("rb") as stream:
                stream.seek(self.position)
                data = stream.read()
        except FileNotFoundError:
            return ""
        if not partial:
            data = data[: data.rfind(b"\n") + 1]
        self.position += len(data)
        return data.decode(errors="replace")


def file_line(path: str, at: int, text: str) -> str:
    return FILE_MARK + json.dumps({"path": path, "at": at, "text": text}, ensure_ascii=False)


def receive(lines: Iterable[str], root: Path) -> None:
    """Write every file that the lines carry below `root`. Reading the same lines again changes nothing.

    Lines that are cut short (the log is still being written) or name any other file are left out.
    """
    contents: dict[str, bytearray] = {}
    for line in lines:
        if not line.startswith(FILE_MARK):
            continue
        try:
            part = json.loads(line[len(FILE_MARK) :])
        except ValueError:
            continue
        path, at, text = str(part["path"]), int(part["at"]), str(part["text"]).encode()
        if _SENT.fullmatch(path):
            if path not in contents:  # the first part may be gone from a log that was rotated
                contents[path] = bytearray(_present(root / path))
            content = contents[path]
            content[at:] = text
    for path, content in contents.items():
        replace(root / path, bytes(content))


def _present(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def replace(path: Path, content: bytes) -> None:
    """Give `path` this content, in one step. An unchanged file stays untouched."""
    if _present(path) == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)


def extend(path: Path, content: bytes) -> None:
    """Let the file grow to `content`, whose start it has already.

    Readers keep their place, and two writers write the same bytes at the same places. A shorter
    `content` (the log was rotated) changes nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if len(content) > size:
            os.pwrite(descriptor, content[size:], size)
    finally:
        os.close(descriptor)


def rank_texts(lines: Iterable[str]) -> dict[int, str]:
    """Return the log of each rank that the lines carry."""
    by_rank: dict[int, list[str]] = {}
    for line in lines:
        match = RANK_LINE.match(line)
        if match is not None:
            by_rank.setdefault(int(match[1]), []).append(match[2])
    return {rank: "\n".join(texts) + "\n" for rank, texts in by_rank.items()}
