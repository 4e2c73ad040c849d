"""Give each trial the study's code, so that a trial's folder is a run folder like any other."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cached_property
from pathlib import Path

from galley.run.seal import snapshot_files
from galley.rundir import RunFolder
from hpo.study.folder import StudyFolder


class Snapshots:
    """Makes some 400 links per trial, which can be made before the trial is known."""

    def __init__(self, study: StudyFolder) -> None:
        self._study = study
        self._ahead: Path | None = None

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Return the files of the study's code, listed once: a changed code is refused."""
        return snapshot_files(RunFolder(self._study.root))

    def make_ahead(self) -> None:
        """Make one for the next trial, unless there is one."""
        if self._ahead is None:
            self._study.ahead.mkdir(exist_ok=True)
            code = Path(tempfile.mkdtemp(dir=self._study.ahead)) / "code"
            self._link(code)
            self._ahead = code

    def give(self, folder: RunFolder) -> None:
        """Give a run its code, in place of what was there."""
        shutil.rmtree(folder.code, ignore_errors=True)
        if self._ahead is None:
            self._link(folder.code)
            return
        folder.root.mkdir(parents=True, exist_ok=True)
        self._ahead.rename(folder.code)
        self._ahead.parent.rmdir()
        self._ahead = None

    def close(self) -> None:
        if self._ahead is not None:
            shutil.rmtree(self._ahead.parent, ignore_errors=True)
            self._ahead = None

    def _link(self, code: Path) -> None:
        """Link the files, or copy them if the file system has no links."""
        for parent in {name.rpartition("/")[0] for name in self._files}:
            (code / parent).mkdir(parents=True, exist_ok=True)
        for name, source in self._files.items():
            target = f"{code}/{name}"  # not pathlib, which would take half of the time
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)
