"""`GLOO_SOCKET_IFNAME` names a network that this machine has, or nothing is started."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from cli.options import Options
from cli.prepare import prepare
from galley.errors import ConfigError
from galley.system.network_interfaces import GLOO

RANKS = ("cluster.procs_per_node=2", "cluster.device=cpu")


def told(tmp_path: Path, *words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        prepare([*RANKS, *words], Options(root=tmp_path))
    (problem,) = caught.value.problems
    return str(problem)


def test_a_wrong_name_is_told_with_those_that_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(GLOO, "eth77")
    there = sorted(name for _, name in socket.if_nameindex())
    said = told(tmp_path)
    assert said.startswith(f"{GLOO}=eth77: {socket.gethostname()} has no network interface 'eth77'\n")
    assert "lo" in said.partition("valid: ")[2].split(", ")
    assert set(said.partition("valid: ")[2].split(", ")) <= set(there)


def test_the_recipe_comes_before_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GLOO, "lo")
    assert told(tmp_path, "launcher.env.GLOO_SOCKET_IFNAME=ib0").startswith(
        "launcher.env.GLOO_SOCKET_IFNAME=ib0: "
    )
    monkeypatch.setenv(GLOO, "eth77")
    assert prepare([*RANKS, "launcher.env.GLOO_SOCKET_IFNAME=lo"], Options(root=tmp_path)).recipe
    assert prepare([RANKS[1], "cluster.procs_per_node=1", "strategy=single"], Options(root=tmp_path)).recipe
