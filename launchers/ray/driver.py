"""The Ray job of a run: `python -P -m launchers.ray.driver --run-dir D`, which reads the plan in D.

One placement group has a bundle for each node of the layout, so that either all of them start or
none. On every bundle an actor runs the torchrun agent of its node. Ends with 0 if all agents
do. If the job is killed, Ray ends the actors, and with them everything that they started. If an actor is
lost, for example with its machine, the job ends with `NODE_LOST`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from galley.counting import counted
from galley.rundir import RunFolder
from galley.spec import LaunchPlan, from_json
from launchers.ray.node import Node

NODE_LOST = 75  # EX_TEMPFAIL of sysexits.h
_WAIT_S = 1.0
_SAY_EVERY_S = 60.0
_STOP_S = 1.5


def node_command(plan: Mapping[str, Any], node: int, place: str, address: str) -> list[str]:
    """Return the command of a node. `place` is `HOST:PORT` of the first one, `address` the node's own."""
    if not plan["agent"]:
        return [*plan["worker"]]
    meeting = ["--standalone"]
    if plan["count"] > 1:
        meeting = ["--rdzv-backend=static", f"--rdzv-endpoint={place}"]
        meeting += [f"--node-rank={node}", f"--local-addr={address}"]
    return [*plan["agent"], *meeting, *plan["worker"]]


def main() -> int:
    parser = argparse.ArgumentParser(prog="launchers.ray.driver")
    parser.add_argument("--run-dir", type=Path, required=True)
    folder = RunFolder(parser.parse_args().run_dir)
    if find_spec("ray") is None:
        print(f"{sys.executable} has no Ray: pip install -c constraints.txt -e '.[ray]'")
        return 1
    plan = from_json(LaunchPlan, (folder.plan / "launch.json").read_bytes())
    code = run(json.loads(plan.files["nodes.json"]), folder, plan)
    if code == 0 and not folder.has_result(plan.attempt):
        print("the ranks ended without a result")
        return 1
    return code


def run(wanted: Mapping[str, Any], folder: RunFolder, plan: LaunchPlan) -> int:
    """Return the exit code of the first node that failed, or 0."""
    import ray
    from ray.exceptions import RayActorError

    ray.init(log_to_driver=False)
    nodes = start_nodes(wanted["count"], wanted["bundle"])
    try:
        return run_on(nodes, wanted, folder, plan)
    except RayActorError as error:
        print(f"a node was lost: {error}")
        for asked in [node.stop.remote(wanted["grace_s"]) for node in nodes]:
            with suppress(
                RayActorError
            ):  # end the remaining nodes: the next attempt must not meet their ranks
                ray.get(asked)
        return NODE_LOST


def run_on(nodes: Sequence[Any], wanted: Mapping[str, Any], folder: RunFolder, plan: LaunchPlan) -> int:
    import ray

    addresses = ray.get([node.address.remote() for node in nodes])
    place = f"{addresses[0]}:{ray.get(nodes[0].free_port.remote())}"
    running = {}
    for number, node in enumerate(nodes):
        command = node_command(wanted, number, place, addresses[number])
        log = folder.launcher_log(plan.attempt, number)
        running[node.run.remote(command, plan.env, str(log))] = node
    return await_nodes(running, wanted["grace_s"])


def start_nodes(count: int, bundle: Mapping[str, float]) -> list[Any]:
    """Start one actor per node, once the cluster has room for all of them."""
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    strategy = "STRICT_SPREAD" if count > 1 else "STRICT_PACK"
    group = placement_group([dict(bundle)] * count, strategy=strategy)
    said_at = time.monotonic() - _SAY_EVERY_S
    while not group.wait(_WAIT_S):
        if time.monotonic() - said_at >= _SAY_EVERY_S:
            said_at = time.monotonic()
            resources = ray.cluster_resources()  # type: ignore[no-untyped-call]
            print(
                f"waiting for {counted(count, 'node')} with {bundle} each; the cluster has {resources}",
                flush=True,
            )
    others = {name: amount for name, amount in bundle.items() if name not in ("CPU", "GPU", "memory")}
    wanted: dict[str, Any] = {
        "num_cpus": bundle["CPU"],
        "num_gpus": bundle.get("GPU", 0),
        "memory": bundle.get("memory"),
        "resources": others,
        "max_concurrency": 2,  # `stop` comes while `run` waits
    }
    places = [PlacementGroupSchedulingStrategy(group, number) for number in range(count)]
    return [ray.remote(Node).options(**wanted, scheduling_strategy=place).remote() for place in places]


def await_nodes(running: dict[Any, Any], grace_s: float) -> int:
    """Wait until all nodes have ended. The first failure, or the end of the job, ends the others."""
    import ray

    asked = list[int]()
    signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
    failed = 0
    while running and not failed:
        for done in ray.wait(list(running), timeout=_WAIT_S)[0]:
            running.pop(done)
            failed = failed or int(ray.get(done))
        failed = failed or sum(asked)
    # Ray kills the job 3 s after a request to stop: the agents must end before.
    ray.get([node.stop.remote(min(grace_s, _STOP_S)) for node in running.values()])
    return failed


if __name__ == "__main__":
    sys.exit(main())
