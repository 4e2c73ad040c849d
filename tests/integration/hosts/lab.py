"""Two hosts on this machine: network, process and name spaces of their own, a cable between them.

They share the file system, as the nodes of a cluster do. Needs root.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.support import REPO, run_process

ADDRESSES = ("10.213.7.1", "10.213.7.2")


class Lab:
    """Two hosts on a switch, which is a network namespace too."""

    def __init__(self, name: str) -> None:
        self.hosts = (f"{name}h0", f"{name}h1")
        self.switch = f"{name}sw"

    def set_up(self) -> None:
        for name in (*self.hosts, self.switch):
            self._ip("netns", "add", name)
            self._ip("-n", name, "link", "set", "lo", "up")
        self._ip("-n", self.switch, "link", "add", "br0", "type", "bridge")
        self._ip("-n", self.switch, "link", "set", "br0", "up")
        for host, address in zip(self.hosts, ADDRESSES, strict=True):
            self._plug_in(host, address)

    def _plug_in(self, host: str, address: str) -> None:
        port = f"p{host[-1]}"
        self._ip(
            "link", "add", "eth0", "netns", host, "type", "veth", "peer", "name", port, "netns", self.switch
        )
        self._ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
        self._ip("-n", host, "link", "set", "eth0", "up")
        self._ip("-n", self.switch, "link", "set", port, "master", "br0", "up")

    def tear_down(self) -> None:
        """Ends every process of the hosts, then the hosts."""
        for name in (*self.hosts, self.switch):
            for pid in run_process(["ip", "netns", "pids", name]).out.split():
                run_process(["kill", "-9", pid])
            run_process(["ip", "netns", "del", name])

    def cut(self) -> None:
        """Unplug the second host inside the switch: its packets vanish, and nobody is told."""
        self._ip("-n", self.switch, "link", "set", "p1", "nomaster")

    def command(self, host: int, *argv: str | Path) -> list[str]:
        """The command as it is run on the host: with its processes, its name and its network alone."""
        name = self.hosts[host]
        inside = 'hostname "$0" && exec "$@"'
        spaces = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
        words = map(str, argv)
        return ["ip", "netns", "exec", name, *spaces, "sh", "-c", inside, name, *words]

    def start(self, host: int, *argv: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(host, *argv), cwd=REPO, env={**os.environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def processes(self, host: int) -> list[str]:
        return run_process(["ip", "netns", "pids", self.hosts[host]]).out.split()

    @staticmethod
    def _ip(*words: str) -> None:
        done = run_process(["ip", *words])
        assert done.rc == 0, done
