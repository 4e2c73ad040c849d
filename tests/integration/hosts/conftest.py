from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.integration.hosts.lab import Lab
from tests.support import not_available, require_program


@pytest.fixture
def lab() -> Iterator[Lab]:
    for program in ("ip", "unshare"):
        require_program(program, "the tests on two hosts")
    if os.geteuid() != 0:
        not_available("network namespaces need root", "the tests on two hosts")
    lab = Lab(f"galley{os.getpid()}")
    try:
        lab.set_up()
        yield lab
    finally:
        lab.tear_down()
