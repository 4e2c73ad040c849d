"""Rank facts from the environment of every kind of launcher."""

from __future__ import annotations

import os
import socket
from typing import Any

import psutil
import pytest

from galley.errors import ConfigError
from galley.system.network_interfaces import GLOO
from trainer.hosts.network import interface_towards, name_interface
from trainer.hosts.rank_facts import RANK_VARIABLES, RankFacts, read_rank_facts
from trainer.hosts.ranks import device_index

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
OPENMPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
MPICH = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1"}
SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "1"}
BATCH_STEP = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_LOCALID": "0"}


@pytest.mark.parametrize(
    ("launcher", "environ"),
    [("torchrun", TORCHRUN), ("openmpi", OPENMPI), ("mpich", MPICH), ("slurm", SLURM)],
)
def test_each_launcher_is_understood(launcher: Any, environ: Any) -> None:
    assert read_rank_facts(environ) == RankFacts(3, 4, 1, launcher, local_size=4)
    row = next(row for row in RANK_VARIABLES if row.launcher == launcher)
    place = {"MASTER_ADDR": "node1", "MASTER_PORT": "29500"}
    facts = read_rank_facts({**environ, row.local_size: "2", **place})
    assert (facts.node, facts.local_size, facts.master) == (1, 2, "node1:29500")
    assert launcher in {row.launcher for row in RANK_VARIABLES}


def test_mpirun_inside_an_sbatch_job_is_not_rank_zero_everywhere() -> None:
    assert read_rank_facts({**BATCH_STEP, **OPENMPI}).rank == 3
    assert read_rank_facts({**BATCH_STEP, **MPICH}).rank == 3


def test_srun_with_pmi2_takes_the_local_rank_of_slurm() -> None:
    environ = {**SLURM, "PMI_RANK": "3", "PMI_SIZE": "4"}
    assert read_rank_facts(environ) == RankFacts(3, 4, 1, "slurm", local_size=4)


def test_torchrun_inside_any_cluster_wins() -> None:
    assert read_rank_facts({**BATCH_STEP, **OPENMPI, **TORCHRUN}).launcher == "torchrun"


def test_a_lone_process_is_its_own_world() -> None:
    facts = read_rank_facts({"PATH": "/bin", "RANK": "1"})
    assert facts == RankFacts(0, 1, 0, "none")
    assert facts.is_main
    assert facts.is_local_main


@pytest.mark.parametrize("change", [{"RANK": "4"}, {"RANK": "-1"}, {"LOCAL_RANK": "x"}, {"LOCAL_RANK": "4"}])
def test_impossible_places_are_refused(change: Any) -> None:
    with pytest.raises(ConfigError, match="RANK"):
        read_rank_facts({**TORCHRUN, **change})


def test_a_rank_finds_its_gpu_among_all_or_has_it_to_itself() -> None:
    assert [device_index(rank, 4) for rank in range(4)] == [0, 1, 2, 3]
    assert [device_index(rank, 1) for rank in range(4)] == [0, 0, 0, 0]
    for visible in (0, 2):
        with pytest.raises(ConfigError, match=f"local rank 2 sees {visible} GPUs"):
            device_index(2, visible)


def test_ranks_of_several_hosts_talk_over_the_network_by_which_they_met(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(GLOO, raising=False)
    for nowhere in ("127.0.0.1", "::1", "", "no-such-host.invalid"):
        assert interface_towards(nowhere) is None
    for name, entries in psutil.net_if_addrs().items():
        for address in (e.address for e in entries if e.family == socket.AF_INET and name != "lo"):
            assert interface_towards(address) == name
            name_interface(RankFacts(0, 2, 0, "torchrun", local_size=2, master=f"{address}:1"))
            assert GLOO not in os.environ, "one host"
            monkeypatch.setenv(GLOO, "lo")
            name_interface(RankFacts(0, 2, 0, "torchrun", local_size=1, master=f"{address}:1"))
            assert os.environ[GLOO] == "lo"
            monkeypatch.delenv(GLOO)


def test_a_network_that_this_host_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GLOO, "lo,eth77")
    with pytest.raises(ConfigError, match=r"=lo,eth77: .* has no network interface 'eth77'"):
        name_interface(RankFacts(0, 2, 0, "torchrun", local_size=1, master="127.0.0.1:1"))
