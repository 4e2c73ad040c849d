"""A Ray cluster of two nodes on this machine: real processes, ports of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from urllib.request import urlopen

import psutil

from galley.run.seal import snapshot_sha256
from galley.rundir import RunFolder
from galley.schema import Ray
from galley.spec import RunSpec
from galley.system.pdeathsig import bound_to_me
from tests.integration.local.standin import wait_until
from tests.support import free_ports

# Nothing is sent home, and a machine whose disk is almost full still takes jobs.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_local_fs_capacity_threshold": "0.999",
    "RAY_gcs_server_port_wait_time_s": "300",
    "RAY_worker_niceness": "0",  # with Ray's 15 the ranks would stand still beside other tests
}
STARTS = 4


class RayCluster:
    """A head and a second node, two CPUs each."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._nodes: list[subprocess.Popen[bytes]] = []
        head, dashboard, client, *agents = free_ports(9)
        self._head = f"127.0.0.1:{head}"
        self.address = f"http://127.0.0.1:{dashboard}"
        self._agents = agents
        self._ports = (head, dashboard, client)

    def start(self) -> None:
        head, dashboard, client = self._ports
        self._bring_up(
            *("--head", f"--port={head}", "--include-dashboard=true", "--dashboard-host=127.0.0.1"),
            *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
            f"--temp-dir={self._root}",
        )
        self._bring_up(f"--address={self._head}")

    def _bring_up(self, *options: str) -> None:
        """Ray itself gives a node 30 s to come up, in which a busy machine may not manage."""
        number = len(self._nodes)
        for _ in range(STARTS):
            self._nodes.append(self._start(number, *options))
            wait_until(lambda: self._nodes[-1].poll() is not None or self.alive() > number, 300)
            if self._nodes[-1].poll() is None:
                return
            self._nodes.pop()
        raise AssertionError((self._root / f"node-{number}.log").read_text()[-4000:])

    def _start(self, number: int, *options: str) -> subprocess.Popen[bytes]:
        names = ("dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port")
        ports = zip(names, self._agents[3 * number : 3 * number + 3], strict=True)
        common = ("--block", "--num-cpus=2", "--object-store-memory=80000000", "--disable-usage-stats")
        argv = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *common]
        argv += ["--node-ip-address=127.0.0.1", "--min-worker-port=0", "--max-worker-port=0"]
        argv += [f"--{name}={port}" for name, port in ports]
        with (self._root / f"node-{number}.log").open("ab") as log:
            return subprocess.Popen(
                [*argv, *options], env={**os.environ, **ENVIRONMENT}, stdin=subprocess.DEVNULL,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=bound_to_me(signal.SIGTERM),  # it then ends all that it started
            )  # fmt: skip

    def alive(self) -> int:
        """Living nodes that the dashboard knows; 0 while it does not answer."""
        try:
            with urlopen(f"{self.address}/nodes?view=summary", timeout=10) as answer:  # noqa: S310
                known = json.load(answer)["data"]["summary"]
        except OSError:
            return 0
        return sum(node["raylet"].get("state") == "ALIVE" for node in known)

    def stop(self) -> None:
        for node in reversed(self._nodes):
            with suppress(psutil.NoSuchProcess):
                family = [psutil.Process(node.pid), *psutil.Process(node.pid).children(recursive=True)]
                for process in family:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGKILL)
            node.wait()


def spread_over_nodes(folder: RunFolder, address: str) -> RunSpec:
    """The run of stand-ins in the folder, a rank on a node, which it has for itself."""
    spec = folder.read_spec()
    cluster = replace(spec.recipe.cluster, cpus_per_node=2)
    launcher = replace(spec.recipe.launcher, kind="ray", ray=Ray(address))
    layout = replace(spec.layout, nodes=spec.layout.world_size, procs_per_node=1)
    code = replace(spec.code, sha256=snapshot_sha256(folder))
    return replace(
        spec, recipe=replace(spec.recipe, launcher=launcher, cluster=cluster), layout=layout, code=code
    )
