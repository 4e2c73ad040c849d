"""The run folder: the one place that knows its paths. Every write is a temporary file, then a rename."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from galley.errors import ConfigError, Problem
from galley.json_numbers import row_from_json, row_to_json, standard
from galley.spec import (
    DataRecord,
    MemoryLimit,
    MovedSpec,
    Progress,
    RankError,
    RunHandle,
    RunResult,
    RunSpec,
    from_json,
    to_json,
)

T = TypeVar("T")


def write_atomic(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Replace `path` in one step: a reader sees the old content or the new, never a part."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)
        raise


def checkpoint_name(step: int) -> str:
    """Name of the folder of the checkpoint after `step` optimizer steps."""
    return f"step-{step:06d}"


class RunFolder:
    """Paths and files of one run. Does not create anything until something is written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.spec_file = root / "run.json"
        self.code = root / "code"
        self.plan = root / "plan"
        self.launch_file = root / "launch.json"
        self.metrics_file = root / "metrics.jsonl"
        self.progress_file = root / "progress.json"
        self.data_file = root / "data.json"
        self.memory_file = root / "memory.json"
        self.checkpoints = root / "checkpoints"
        self.model = root / "model"
        self.tracker = root / "tracker"
        self.result_file = root / "result.json"
        self.picture = root / "result.png"

    def logs(self, attempt: int) -> Path:
        return self.root / "logs" / f"attempt-{attempt}"

    def rank_log(self, attempt: int, rank: int) -> Path:
        return self.logs(attempt) / f"rank-{rank}.log"

    def launcher_log(self, attempt: int, node: int = 0) -> Path:
        """What the agents of the launcher wrote, and the ranks before they had a log."""
        return self.logs(attempt) / (f"launcher-{node}.log" if node else "launcher.log")

    def started_attempts(self) -> list[int]:
        """Numbers of the attempts whose launcher has started something, in order."""
        logs = self.root.glob("logs/attempt-*/launcher.log")
        return sorted(int(log.parent.name.removeprefix("attempt-")) for log in logs)

    def batch_log(self, job: str) -> Path:
        """What a scheduler's batch script wrote."""
        return self.root / "logs" / f"slurm-{job}.log"

    def rank_error_file(self, attempt: int, rank: int) -> Path:
        return self.logs(attempt) / f"rank-{rank}.error.json"

    def write_spec(self, spec: RunSpec) -> None:
        write_atomic(self.spec_file, to_json(spec))

    def read_spec(self, sha256: str | None = None) -> RunSpec:
        """The sealed run. With `sha256`, raises `ConfigError` when the file is not that run."""
        try:
            content = self.spec_file.read_bytes()
        except OSError as error:
            raise ConfigError(
                Problem(str(self.root), "is not a run folder", f"{self.spec_file.name}: {error.strerror}")
            ) from error
        found = hashlib.sha256(content).hexdigest()
        if sha256 is not None and found != sha256:
            raise ConfigError(
                Problem(
                    str(self.spec_file),
                    "was changed after the run was sealed",
                    f"sealed {sha256[:12]}, found {found[:12]}: start a new run instead of editing one",
                )
            )
        return _parse(RunSpec, self.spec_file, content)

    def spec_sha256(self) -> str:
        """The name of the sealed run, as its workers check it: the hash of the bytes of run.json."""
        return hashlib.sha256(self.spec_file.read_bytes()).hexdigest()

    def write_handles(self, handles: list[RunHandle]) -> None:
        body = [json.loads(to_json(handle)) for handle in handles]
        write_atomic(self.launch_file, json.dumps({"attempts": body}, indent=2, sort_keys=True) + "\n")

    def read_handles(self) -> list[RunHandle]:
        """All attempts, oldest first; empty before the first submission."""
        if not self.launch_file.exists():
            return []
        body = json.loads(self.launch_file.read_bytes())
        return [from_json(RunHandle, json.dumps(entry)) for entry in body["attempts"]]

    def read_attempt_spec(self, attempt: int) -> RunSpec:
        """The sealed run on the layout of that attempt."""
        spec = self.read_spec()
        layouts = [handle.layout for handle in self.read_handles() if handle.attempt == attempt]
        return MovedSpec.of(spec, layouts[-1]) if layouts and layouts[-1] else spec

    def write_result(self, result: RunResult) -> None:
        text = json.dumps(standard(asdict(result)), indent=2, sort_keys=True, ensure_ascii=False)
        write_atomic(self.result_file, text + "\n")

    def read_result(self) -> RunResult | None:
        return self._read(RunResult, self.result_file)

    def has_result(self, attempt: int) -> bool:
        """Whether the result is that of this attempt, not one that an earlier attempt left."""
        result = self.read_result()
        return result is not None and result.attempts == attempt

    def write_progress(self, progress: Progress) -> None:
        write_atomic(self.progress_file, to_json(progress))

    def read_progress(self) -> Progress | None:
        return self._read(Progress, self.progress_file)

    def write_data(self, record: DataRecord) -> None:
        write_atomic(self.data_file, to_json(record))

    def read_data(self) -> DataRecord | None:
        """What the run has read; None before its data were first prepared."""
        return self._read(DataRecord, self.data_file)

    def write_memory_limit(self, limit: MemoryLimit) -> None:
        write_atomic(self.memory_file, to_json(limit))

    def read_memory_limit(self) -> MemoryLimit | None:
        """What an earlier attempt, or this one, has found out; None where memory never ran out."""
        return self._read(MemoryLimit, self.memory_file)

    def write_rank_error(self, attempt: int, error: RankError) -> None:
        write_atomic(self.rank_error_file(attempt, error.rank), to_json(error))

    def read_rank_errors(self, attempt: int) -> list[RankError]:
        """The errors of one attempt, earliest first."""
        files = self.logs(attempt).glob("rank-*.error.json")
        return sorted((_parse(RankError, f, f.read_bytes()) for f in files), key=lambda error: error.time)

    def append_metrics(self, row: dict[str, Any]) -> None:
        """Add one line; a single `write` call, so that a reader never sees two lines mixed."""
        with self.metrics_file.open("a") as stream:
            stream.write(row_to_json(row))

    def read_metrics(self) -> Iterator[dict[str, Any]]:
        """Every whole row; a last line that is cut short (a killed writer) is left out."""
        if not self.metrics_file.exists():
            return
        with self.metrics_file.open() as stream:
            for line in stream:
                if line.endswith("\n"):
                    yield row_from_json(line)

    @staticmethod
    def _read(kind: type[T], path: Path) -> T | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        return _parse(kind, path, content)


def _parse(kind: type[T], path: Path, content: bytes) -> T:
    try:
        return from_json(kind, content)
    except ValueError as error:
        raise ConfigError(Problem(str(path), f"cannot be read as {kind.__name__}", str(error))) from error
