"""Choose the network over which the ranks of this host communicate."""

from __future__ import annotations

import ipaddress
import os

import psutil

from galley.errors import ConfigError
from galley.system.cluster_check import own_address
from galley.system.network_interfaces import GLOO, missing_interfaces
from trainer.hosts.rank_facts import RankFacts


def name_interface(facts: RankFacts) -> None:
    """Let gloo use the network by which the ranks met, if there are several hosts.

    By default gloo takes the address of this host's own name. On many hosts that is a loopback that
    the others cannot reach; then all of them wait until the timeout. A choice of the user stays.
    Raises `ConfigError` if this host has no such network.
    """
    asked = os.environ.get(GLOO)
    problems = list(missing_interfaces(f"{GLOO}={asked}", asked))
    if problems:
        raise ConfigError(problems)
    if facts.world_size > facts.local_size and GLOO not in os.environ:
        interface = interface_towards(facts.master.rpartition(":")[0].strip("[]"))
        if interface is not None:
            os.environ[GLOO] = interface


def interface_towards(host: str) -> str | None:
    """Return the interface on the way to `host`; None if that is a loopback, or unknown."""
    address = own_address(host).partition("%")[0] if host else ""
    if not address or ipaddress.ip_address(address).is_loopback:
        return None
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return name
    return None
