"""Which of this host's networks the ranks talk over."""

from __future__ import annotations

import ipaddress
import os

import psutil

from galley.errors import ConfigError
from galley.system.cluster_check import own_address
from galley.system.network_interfaces import GLOO, missing_interfaces
from trainer.hosts.rank_facts import RankFacts


def name_interface(facts: RankFacts) -> None:
    """Let gloo use the network by which the ranks met, where there are several hosts.

    By itself it takes the address that this host's own name has, which on many hosts is a loopback that
    the others cannot reach; then all of them wait until the timeout. What the user has set stays.
    Raises `ConfigError` if this host has no such network.
    """
    asked = os.environ.get(GLOO)
    problems = list(missing_interfaces(f"{GLOO}={asked}", asked))
    if problems:
        raise ConfigError(problems)
    if facts.world_size > facts.local_size and GLOO not in os.environ:
        found = interface_towards(facts.master.rpartition(":")[0].strip("[]"))
        if found is not None:
            os.environ[GLOO] = found


def interface_towards(host: str) -> str | None:
    """The interface on the way to `host`; None where that is a loopback, or cannot be told."""
    address = own_address(host).partition("%")[0] if host else ""
    if not address or ipaddress.ip_address(address).is_loopback:
        return None
    for name, entries in psutil.net_if_addrs().items():
        if any(entry.address.partition("%")[0] == address for entry in entries):
            return name
    return None
