"""The order of the probe, its reasons, and what a backend that was named does not become."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch.distributed as dist

from galley.errors import ConfigError
from trainer.backends.ccl import BackendUnavailable
from trainer.backends.measure import slower_than_gloo
from trainer.backends.probe import (
    CANDIDATES,
    Candidates,
    Choice,
    RankPlace,
    agree,
    choose_cpu_backend,
    open_bindings,
    open_cpu_backend,
    open_mpi,
)

PLACE = RankPlace(0, 2, Path("/nowhere"))
ORDER = ["oneccl_bindings_for_pytorch", "oneCCL", "MPI", "gloo"]


def machine(*available: str) -> tuple[Candidates, list[str]]:
    """Candidates of which only these open, and the list of those that were tried."""
    tried: list[str] = []

    def candidate(name: str) -> object:
        def open_(place: RankPlace) -> str:
            tried.append(name)
            if name not in available:
                raise BackendUnavailable("is missing")
            return f"{name} 1.0"

        return open_

    return [(name, backend, candidate(name)) for name, backend, _ in CANDIDATES], tried  # type: ignore[misc]


@pytest.mark.parametrize("first", range(4))
def test_the_first_that_opens_is_taken_and_every_earlier_one_says_why_not(first: int) -> None:
    candidates, tried = machine(*ORDER[first:])
    choice = choose_cpu_backend(PLACE, candidates)
    assert choice.backend == ["ccl", "ccl", "mpi", "gloo"][first]
    assert choice.carrier == f"{ORDER[first]} 1.0"
    assert choice.reasons == tuple(f"{name} is missing" for name in ORDER[:first])
    assert tried == ORDER[: first + 1]


def test_the_choice_tells_its_story() -> None:
    candidates, _ = machine("MPI")
    told = str(choose_cpu_backend(PLACE, candidates))
    assert told == "mpi: MPI 1.0 (oneccl_bindings_for_pytorch is missing; oneCCL is missing)"


def test_a_named_backend_never_becomes_another() -> None:
    candidates, tried = machine("MPI", "gloo")
    with pytest.raises(ConfigError) as caught:
        open_cpu_backend("ccl", PLACE, candidates)
    message = str(caught.value)
    assert "oneccl_bindings_for_pytorch is missing; oneCCL is missing" in message
    assert "strategy.backend=probe" in message
    assert tried == ORDER[:2]


def test_a_named_backend_is_opened_by_whoever_has_it() -> None:
    assert open_cpu_backend("ccl", PLACE, machine("oneCCL", "gloo")[0]).carrier == "oneCCL 1.0"
    assert open_cpu_backend("gloo", PLACE, machine(*ORDER)[0]).backend == "gloo"
    assert open_cpu_backend("probe", PLACE, machine("gloo")[0]).backend == "gloo"


def test_the_bindings_are_tried_as_they_are_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendUnavailable, match="is not installed"):
        open_bindings(PLACE)
    module = tmp_path / "oneccl_bindings_for_pytorch.py"
    module.write_text("raise ImportError('undefined symbol: c10d')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(BackendUnavailable, match="cannot be imported with this torch: undefined symbol"):
        open_bindings(PLACE)
    module.write_text("__version__ = '2.8.0'\n")
    monkeypatch.delitem(sys.modules, "oneccl_bindings_for_pytorch", raising=False)
    assert open_bindings(PLACE) == "oneccl_bindings_for_pytorch 2.8.0"
    monkeypatch.delitem(sys.modules, "oneccl_bindings_for_pytorch")


def test_mpi_needs_a_torch_with_it_and_an_mpirun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dist, "is_mpi_available", lambda: False)
    with pytest.raises(BackendUnavailable, match="torch was built without it"):
        open_mpi(PLACE)
    monkeypatch.setattr(dist, "is_mpi_available", lambda: True)
    with pytest.raises(BackendUnavailable, match="not started by mpirun"):
        open_mpi(PLACE)
    monkeypatch.setenv("PMI_SIZE", "2")
    assert "MPI" in open_mpi(PLACE)


def test_ranks_that_differ_all_take_gloo_and_say_who_could_not() -> None:
    store = dist.HashStore()
    store.set("cpu_backend/1", "gloo\noneCCL is missing")
    agreed = agree(Choice("ccl", "oneCCL", ("bindings are missing",)), store, rank=0, world_size=2)
    assert agreed.backend == "gloo"
    assert agreed.reasons == ("bindings are missing", "ccl: rank 1 has only gloo (oneCCL is missing)")


def test_ranks_that_agree_keep_their_choice() -> None:
    store = dist.HashStore()
    store.set("cpu_backend/1", "ccl\n")
    choice = Choice("ccl", "oneCCL")
    assert agree(choice, store, rank=0, world_size=2) is choice


def test_advice_only_where_oneccl_is_slower_at_the_largest_size() -> None:
    assert slower_than_gloo({4096: (2.0, 1.0), 4 * 2**20: (5.0, 6.0)}) is None
    advice = slower_than_gloo({4096: (1.0, 2.0), 4 * 2**20: (12.0, 4.0)})
    assert advice is not None
    assert "3.0 times slower than gloo" in advice
    assert "12.0 ms against 4.0 ms for an all-reduce of 4 MiB" in advice
