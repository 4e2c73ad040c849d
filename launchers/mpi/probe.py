"""Find the mpirun of this machine. It is asked before planning, since `plan` is pure."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from galley.errors import ConfigError, Problem, SubmissionError
from galley.schema import Mpi
from galley.spec import MpiFacts, MpiFlavor
from galley.system import proc

# The first pattern that is found in the answer to --version decides: Intel MPI has a Hydra, too.
FLAVORS: tuple[tuple[str, MpiFlavor], ...] = (
    (r"Intel\(R\) MPI Library.*Version ([\w. ]+?) Build", "intel"),
    (r"Open MPI\) ([\d.]\S*)|OpenRTE\) ([\d.]\S*)", "openmpi"),
    (r"HYDRA build details:\s*Version:\s*(\S+)", "mpich"),
)
_PROGRAMS = ("mpirun", "mpiexec.hydra", "mpiexec", "mpirun.openmpi", "mpirun.mpich")
_TIMEOUT_S = 20.0


def find_mpi(mpi: Mpi) -> MpiFacts | None:
    """Return the first program of the requested flavor: on PATH, else beside this interpreter; else None.

    Raises `ConfigError` if `launcher.mpi.program` is not one.
    """
    if mpi.program is not None:
        facts_of_program = _ask(mpi.program) if shutil.which(mpi.program) else None
        if facts_of_program is None or mpi.flavor not in ("auto", facts_of_program.flavor):
            what = (
                f"is no mpirun of flavor '{mpi.flavor}'"
                if facts_of_program
                else "is no mpirun that Galley knows"
            )
            hint = "Open MPI, MPICH and Intel MPI answer to --version"
            raise ConfigError(Problem(f"launcher.mpi.program={mpi.program}", what, hint))
        return facts_of_program
    answers = (_ask(program) for program in _programs())
    return next((facts for facts in answers if facts and mpi.flavor in ("auto", facts.flavor)), None)


def _programs() -> Iterator[str]:
    for folder in (None, str(Path(sys.executable).parent)):
        for name in _PROGRAMS:
            path = shutil.which(name, path=folder)
            if path is not None:
                yield path


def _ask(program: str) -> MpiFacts | None:
    try:
        return read_version(program, proc.run((program, "--version"), timeout_s=_TIMEOUT_S))
    except SubmissionError:
        return None


def read_version(program: str, text: str) -> MpiFacts | None:
    """Return what `program --version` reports; None for another program of that name."""
    for pattern, flavor in FLAVORS:
        match = re.search(pattern, text)
        if match is not None:
            return MpiFacts(flavor, program, next(group for group in match.groups() if group))
    return None
