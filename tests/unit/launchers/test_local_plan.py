"""The local plan, frozen in a golden file; reading torchrun's report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from galley.errors import ConfigError
from galley.spec import to_json
from launchers import LAUNCHERS, make_launcher
from launchers.base import Launcher
from launchers.local import LocalLauncher
from tests.integration.local.standin import FACTS, make_spec
from tests.support import REPO

GOLDEN = REPO / "tests/golden/local"
RUN_DIR = Path('/runs/it\'s "here" $HOME')


@pytest.mark.parametrize(
    ("name", "ranks", "attempt"), [("one-rank", 1, 1), ("two-ranks", 2, 1), ("resumed", 2, 2)]
)
def test_the_plan_is_as_recorded(name: str, ranks: int, attempt: int) -> None:
    spec = make_spec(ranks=ranks, MINE="a 'b' $c")
    plan = LocalLauncher(python="python").plan(spec, RUN_DIR, FACTS, attempt)
    text = to_json(plan).replace(spec.sha256, "SHA256")
    assert text == (GOLDEN / f"{name}.json").read_text()


def test_the_users_variables_win() -> None:
    plan = LocalLauncher().plan(make_spec(OMP_WAIT_POLICY="ACTIVE"), RUN_DIR, FACTS, 1)
    assert plan.env["OMP_WAIT_POLICY"] == "ACTIVE"


def test_a_path_that_pythonpath_cannot_carry_is_refused() -> None:
    with pytest.raises(ConfigError, match="PYTHONPATH cannot carry"):
        LocalLauncher().plan(make_spec(), Path("/runs/a:b"), FACTS, 1)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_registered_launcher_can_be_made(name: str) -> None:
    assert isinstance(make_launcher(name), Launcher)


def test_an_unknown_launcher_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="did you mean 'local'"):
        make_launcher("loacl")


def test_threads_follow_the_layout() -> None:
    spec = make_spec()
    spec = replace(spec, layout=replace(spec.layout, threads_per_proc=7))
    assert LocalLauncher().plan(spec, RUN_DIR, FACTS, 1).env["OMP_NUM_THREADS"] == "7"
