"""Follow a detached run from a session of its own.

python -m launchers.lifecycle.detached RUN_DIR ATTEMPT
"""

from __future__ import annotations

import sys
from pathlib import Path

from galley.errors import GalleyError
from galley.rundir import RunFolder
from launchers.lifecycle.launch import supervise
from launchers.lifecycle.prepare import read_prepared


def main(run_dir: str, attempt: str) -> int:
    """Exit code of the run. Standard output is `logs/attempt-N/supervisor.log`."""
    folder = RunFolder(Path(run_dir))
    try:
        return supervise(read_prepared(folder, int(attempt)), sys.stdout).exit_code
    except GalleyError as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
