from __future__ import annotations

import re

import pytest

from galley.system import packages
from tests.support import REPO

SETS = ("constraints-oldest.txt", "constraints-middle.txt", "constraints.txt")


@pytest.mark.parametrize("name", packages.TRIED)
def test_what_is_tested_is_what_the_constraints_pin(name: str) -> None:
    pins = [re.search(rf"^{name}==(.+)$", (REPO / file).read_text(), flags=re.MULTILINE) for file in SETS]
    assert tuple(pin and pin[1] for pin in pins) == packages.TRIED[name]


@pytest.mark.parametrize(
    ("installed", "said"),
    [
        ("2.9.0", ""),
        ("2.13.0+cpu", ""),
        ("2.10.0+cu128", "tried: 2.9.0, 2.11.0, 2.13.0"),
        ("2.10.0a0+b558c986e8.nv25.11", "tried: 2.9.0, 2.11.0, 2.13.0"),
        ("2.8.0", "outside of what was tried: 2.9.0 to 2.13.0"),
        ("2.13.1", "outside of what was tried: 2.9.0 to 2.13.0"),
    ],
)
def test_an_installed_version_is_held_against_the_tested_ones(installed: str, said: str) -> None:
    assert packages.tried("torch", installed) == said


@pytest.mark.parametrize("file", SETS)
def test_every_set_is_inside_the_ranges(file: str) -> None:
    """pip would refuse it; the lower bounds of `>=` are what widening may break."""
    text = (REPO / "pyproject.toml").read_text()
    for name, low in re.findall(r'"([A-Za-z0-9-]+)(?:\[[a-z,]+\])?>=([0-9.]+)', text):
        pin = re.search(rf"^{name}==(.+)$", (REPO / file).read_text(), flags=re.MULTILINE | re.IGNORECASE)
        if pin is not None:
            assert packages.numbers(pin[1]) >= packages.numbers(low), name
