"""What ranks do while the first of their node reads the data."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from trainer.hosts.rank_facts import RankFacts
from trainer.hosts.ranks import Ranks
from trainer.run import warm_imports


@pytest.mark.parametrize("local_rank", [0, 1])
def test_those_that_wait_have_something_to_do_and_the_first_has_not(local_rank: int) -> None:
    done = []

    @contextmanager
    def meanwhile() -> Iterator[None]:
        done.append("begun")
        yield
        done.append("ended")

    facts = RankFacts(local_rank, 2, local_rank, "torchrun", local_size=2)
    with Ranks(facts, torch.device("cpu"), grouped=False).main_first(meanwhile):
        done.append("read")
    assert done == (["begun", "ended", "read"] if local_rank else ["read"])


def test_modules_are_imported_by_the_end_of_the_wait_and_one_that_fails_is_left_to_who_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_one.py").write_text("raise OSError('no such library')")
    (tmp_path / "slow_one.py").write_text("import time\ntime.sleep(0.2)\nDONE = True")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(warm_imports, "MODULES", ("broken_one", "missing_one", "slow_one"))
    with warm_imports.importing():
        pass
    assert sys.modules.pop("slow_one").DONE
    assert "broken_one" not in sys.modules
