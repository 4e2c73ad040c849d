"""The MPIs of this machine."""

from __future__ import annotations

from typing import Any

from galley.schema import Mpi
from galley.spec import MpiFacts
from launchers.mpi.probe import find_mpi
from tests.support import not_available

FLAVORS = ("openmpi", "mpich", "intel")
_PACKAGES = {"openmpi": "openmpi-bin", "mpich": "mpich", "intel": "impi-rt of PyPI"}


def find(flavor: Any) -> MpiFacts:
    found = find_mpi(Mpi(flavor=flavor))
    if found is None:
        not_available(f"no mpirun of {flavor} (package {_PACKAGES[flavor]})", "the tests on it")
        raise AssertionError
    return found
