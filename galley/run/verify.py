"""What is no longer as it was when a run was sealed: code, configuration, packages, Python, data."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from galley.run.seal import code_files, snapshot_files, snapshot_sha256
from galley.rundir import RunFolder
from galley.schema import Data
from galley.spec import DataRecord, RunSpec
from galley.system.packages import package_versions

_CONFIGURATION = ("conf/", "recipes/")
_NAMED = 5


def record_data(fingerprint: str, data: Data) -> DataRecord:
    """Reads every file of `data.path` once."""
    return DataRecord(fingerprint, {str(path): _sha256(path) for path in _data_files(data)})


def _data_files(data: Data) -> Iterator[Path]:
    if data.path is not None:
        yield from (path for path in sorted(Path(data.path).iterdir()) if path.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def find_drift(folder: RunFolder) -> list[str]:
    """One line for each difference between the sealed run and this checkout and machine."""
    spec = folder.read_spec()
    return [*_sealed(folder), *_code(folder, spec), *_packages(spec), *_data(folder.read_data())]


def _sealed(folder: RunFolder) -> Iterator[str]:
    """The run's own files, which nothing may change."""
    launched = folder.plan / "launch.json"  # every launcher tells the ranks which run they are to find
    if launched.exists() and folder.spec_sha256() not in launched.read_text(encoding="utf-8"):
        yield f"config: {folder.spec_file} was changed after the run was sealed"
    if snapshot_sha256(folder) != folder.read_spec().code.sha256:
        yield f"code: the snapshot {folder.code} was changed after the run was sealed"


def _code(folder: RunFolder, spec: RunSpec) -> Iterator[str]:
    """This checkout against the snapshot, which is what runs."""
    now, then = code_files(spec.recipe), snapshot_files(folder)
    changed = [name for name in sorted({*now, *then}) if not _same(now.get(name), then.get(name))]
    for topic, is_meant in (("config", True), ("code", False)):
        files = [name for name in changed if name.startswith(_CONFIGURATION) == is_meant]
        if files:
            more = f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
            named = ", ".join(files[:_NAMED])
            yield f"{topic}: this checkout differs from the snapshot, which is what runs: {named}{more}"


def _same(now: Path | None, then: Path | None) -> bool:
    return now is not None and then is not None and now.read_bytes() == then.read_bytes()


def _packages(spec: RunSpec) -> Iterator[str]:
    now: Mapping[str, str] = {**package_versions(spec.packages), "python": platform.python_version()}
    then = {**spec.packages, "python": spec.python}
    for name in sorted({*now, *then}):
        if now.get(name) != then.get(name):
            yield f"{name}: sealed with {then.get(name)}, now {now.get(name)}"


def _data(record: DataRecord | None) -> Iterator[str]:
    """Files only: what comes from a package or a hub is known by its version."""
    for name, sha256 in sorted(record.files.items() if record else ()):
        path = Path(name)
        if not path.is_file():
            yield f"data: {path} is gone"
        elif _sha256(path) != sha256:
            yield f"data: {path} was changed after the run had read it"
    folders = {Path(name).parent for name in (record.files if record else ())}
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir()):
        if record is not None and path.is_file() and str(path) not in record.files:
            yield f"data: {path} was not there when the run read its data"
