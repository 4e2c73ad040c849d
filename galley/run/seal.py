"""Recipe + layout + code + packages -> RunSpec, and the snapshot of the code in the run folder."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from galley.config.rank_paths import UPLOADS, uploads
from galley.errors import ConfigError, Problem
from galley.paths import ROOT
from galley.rundir import RunFolder, write_atomic
from galley.schema import Hpo, Recipe
from galley.spec import CodeSnapshot, Layout, RunSpec
from galley.system.git import git_state
from galley.system.packages import extension_versions, package_versions

# All that a worker may execute or read: the program, not its tests and documents.
PROGRAM = (
    "train.py", "pyproject.toml", "constraints.txt",
    "conf", "recipes", "slurm", "cli", "galley", "trainer", "launchers", "hpo",
)  # fmt: skip


def seal(recipe: Recipe, layout: Layout) -> RunSpec:
    """The run that `recipe` describes, with the code and packages as they are now. Writes nothing.

    Where the run is kept, what it waits for and whether the command waits for it do not decide its
    result, so they are not part of it.
    """
    return seal_with(recipe, layout, snapshot(recipe), package_versions())


def snapshot(recipe: Recipe) -> CodeSnapshot:
    """The name of the code as it is now."""
    commit, dirty = git_state(ROOT, PROGRAM)
    return CodeSnapshot(sha256=code_sha256(code_files(recipe)), commit=commit, dirty=dirty)


def seal_with(recipe: Recipe, layout: Layout, code: CodeSnapshot, packages: dict[str, str]) -> RunSpec:
    """`seal` with the code and packages of a sweep, which are the same for all its runs.

    The sweep around a run does not decide its result either. Raises `ConfigError` where the strategy
    is still to be chosen.
    """
    if recipe.strategy.name == "auto":
        what = "is settled by `run`, `plan` and `sweep`, for all trials alike"
        raise ConfigError(Problem("strategy=auto", what, "name a strategy"))
    precision = replace(recipe.precision, compute=layout.precision)
    return RunSpec(
        recipe=replace(recipe, precision=precision, run_dir=None, detach=False, after=None, hpo=Hpo()),
        layout=layout,
        code=code,
        packages={**packages, **extension_versions(recipe)},
        python=platform.python_version(),
    )


def code_files(recipe: Recipe) -> dict[str, Path]:
    """Path in the snapshot -> file, sorted; a plugin folder lies under `plugins/N/`,
    an uploaded one under `uploads/KEY/`."""
    found = {str(path.relative_to(ROOT)): path for name in PROGRAM for path in _files(ROOT / name)}
    for number, folder in enumerate(recipe.plugins):
        root = Path(folder).expanduser()
        found |= {f"plugins/{number}/{path.relative_to(root)}": path for path in _files(root)}
    for key, upload in uploads(recipe).items():
        found |= {f"{UPLOADS}/{key}/{path.relative_to(upload)}": path for path in _files(upload)}
    return dict(sorted(found.items()))


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    elif path.is_dir():
        for child in path.iterdir():
            if child.name != "__pycache__" and not child.name.startswith("."):
                yield from _files(child)


def code_sha256(files: dict[str, Path]) -> str:
    """One hash over the names and contents of all files."""
    digest = hashlib.sha256()
    for name, path in files.items():
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def write_snapshot(recipe: Recipe, folder: RunFolder) -> None:
    """Copy the code into the run folder."""
    for name, path in code_files(recipe).items():
        write_atomic(folder.code / name, path.read_bytes())


def snapshot_files(folder: RunFolder) -> dict[str, Path]:
    """Path in the snapshot -> file of the run folder, sorted."""
    return dict(sorted((str(path.relative_to(folder.code)), path) for path in _files(folder.code)))


def snapshot_sha256(folder: RunFolder) -> str:
    """The hash of the copy in a run folder; equals `RunSpec.code.sha256` while nobody changed it."""
    return code_sha256(snapshot_files(folder))


def default_run_dir(spec: RunSpec, root: Path) -> Path:
    """`runs/RECIPE-STRATEGY-SHA`, with a number behind it when that folder exists."""
    name = f"{spec.recipe.recipe}-{spec.recipe.strategy.name}-{spec.sha256[:8]}"
    candidate, number = root / name, 1
    while candidate.exists():
        number += 1
        candidate = root / f"{name}-{number}"
    return candidate
