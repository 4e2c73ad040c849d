"""Choose the checkpoint that an attempt continues from: the run's own, or the one that the recipe names."""

from __future__ import annotations

import logging
from pathlib import Path

from galley.errors import CheckpointError, ConfigError, Problem
from trainer.checkpoints.manifest import MANIFEST_NAME, Found, latest_complete, verify
from trainer.checkpoints.store import Checkpoint
from trainer.hosts.ranks import Ranks

log = logging.getLogger("galley")


def find_checkpoint(own: Path, resume: bool, named: str | None, ranks: Ranks) -> Checkpoint | None:
    """Return the newest whole checkpoint in `own` if the run is resumed, else the one at `named`, else None.

    Raises like `find_named`. A collective: only the main rank reads and checks the files.
    """
    folder = _find_own(own, ranks) if resume else None
    if folder is None and named is not None:
        folder = find_named(Path(named).expanduser(), ranks)
    if folder is None:
        if resume:
            log.warning("no complete checkpoint in %s: starting from step 0", own)
        return None
    log.info("resuming from %s", folder.name if folder.parent == own else folder)
    return Checkpoint(folder)


def find_named(path: Path, ranks: Ranks) -> Path:
    """Return a checkpoint's folder, or the newest whole one of a run. A collective.

    Raises:
        ConfigError: there is no checkpoint.
        CheckpointError: there is one, but a file is missing or differs from what was saved; it is named.
    """
    folder, problem, missing = ranks.from_main(_examine(path) if ranks.is_main else None)
    if missing:
        hint = "the folder of a run, or one of the folders in its checkpoints/"
        raise ConfigError(Problem(f"checkpoint.resume_from={path}", problem, hint))
    if problem:
        raise CheckpointError(f"checkpoint.resume_from: {problem}")
    return Path(folder)


def _examine(path: Path) -> tuple[str, str, bool]:
    """Return (folder, what is wrong, whether nothing exists)."""
    if path.name.startswith("step-") or (path / MANIFEST_NAME).exists():
        if not path.is_dir():
            return "", "there is no such checkpoint", True
        try:
            verify(path)
        except CheckpointError as error:
            return "", f"{path.parent}/{error}", False
        return str(path), "", False

    newest = latest_complete(path / "checkpoints")
    for line in newest.rejected:
        log.warning("checkpoint not usable: %s", line)
    if newest.folder is not None:
        return str(newest.folder), "", False
    if newest.rejected:
        return "", f"{path}: no checkpoint is whole: {'; '.join(newest.rejected)}", False
    return "", "there is no checkpoint", True


def _find_own(own: Path, ranks: Ranks) -> Path | None:
    """Return the newest whole checkpoint of the run itself; the others are logged."""
    newest = latest_complete(own) if ranks.is_main else Found(None)
    name, rejected = ranks.from_main([newest.folder.name if newest.folder else None, newest.rejected])
    for line in rejected:
        log.warning("checkpoint not usable: %s", line)
    return own / name if name else None
