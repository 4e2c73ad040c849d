"""Two hosts on this machine: network, process and name spaces of their own, a cable between them.

They share the file system, as the nodes of a cluster do. Needs root.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from tests.support import REPO, run_process

ADDRESSES = ("10.213.7.1", "10.213.7.2")


class Lab:
    """Two hosts on a switch, which is a network namespace too."""

    def __init__(self, name: str) -> None:
        self.hosts = (f"{name}h0", f"{name}h1")
        self.switch = f"{name}sw"
        self.is_cut = False

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
        self.is_cut = True

    def command(self, host: int, *argv: str | Path) -> list[str]:
        """The command as it is run on the host: with its processes, its name and its network alone."""
        name = self.hosts[host]
        inside = 'hostname "$0" && exec "$@"'
        spaces = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--uts")
        words = map(str, argv)
        return ["ip", "netns", "exec", name, *spaces, "sh", "-c", inside, name, *words]

    def start(
        self, host: int, *argv: str | Path, environ: Mapping[str, str] = os.environ
    ) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(host, *argv), cwd=REPO, env={**environ}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def processes(self, host: int) -> list[str]:
        return run_process(["ip", "netns", "pids", self.hosts[host]]).out.split()

    def commands(self, host: int) -> list[str]:
        """Command lines of the processes."""
        return [run_process(["ps", "-o", "args=", "-p", pid]).out.strip() for pid in self.processes(host)]

    @staticmethod
    def _ip(*words: str) -> None:
        done = run_process(["ip", *words])
        assert done.rc == 0, done


# Called as ssh is: HOST COMMAND…; ends as the command does, or waits for ever where the cable is cut.
SHELL = """\
#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
host=$1
shift
here=$(mktemp -d REQUESTS/XXXXXX)
printf '%s\\n' "$host" "$*" >"$here/.command" && mv "$here/.command" "$here/command"
while ! [ -e "$here/code" ]; do sleep 0.05; done
exit "$(cat "$here/code")"
"""


class RemoteShell:
    """What sshd on the hosts would be: what it starts neither belongs to the caller nor has its variables."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self._lab = lab
        self._requests = folder / "requests"
        self._requests.mkdir()
        self.program = folder / "rsh"
        self.program.write_text(SHELL.replace("REQUESTS", str(self._requests)))
        self.program.chmod(0o755)
        self._started: dict[Path, subprocess.Popen[str]] = {}
        self._closed = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self._closed.set()

    def _serve(self) -> None:
        while not self._closed.is_set():
            for request in self._requests.glob("*/command"):
                if request.parent not in self._started:
                    host, _, command = request.read_text().partition("\n")
                    process = self._lab.start(
                        ADDRESSES.index(host), "sh", "-c", command, environ={"PATH": os.environ["PATH"]}
                    )
                    self._started[request.parent] = process
            for folder, process in self._started.items():
                code = process.poll()
                if code is not None and not self._lab.is_cut and not (folder / "code").exists():
                    (folder / ".code").write_text(str(code))
                    (folder / ".code").rename(folder / "code")
            time.sleep(0.05)
