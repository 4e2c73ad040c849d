"""`python -m hpo.detached STUDY`: runs a detached sweep, in a session of its own."""

from __future__ import annotations

import sys
from pathlib import Path

from galley.errors import GalleyError
from hpo.study.folder import StudyFolder
from hpo.sweep import run


def main(study_dir: str) -> int:
    """Run the sweep; return its exit code. Standard output is the study's `sweep.log`."""
    try:
        run(StudyFolder(Path(study_dir)), sys.stdout)
    except GalleyError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
