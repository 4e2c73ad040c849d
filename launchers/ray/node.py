"""One node of a run under Ray, as an actor."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from galley.system import proc

_EVERY_S = 0.1


class Node:
    """Runs the command of one node, and ends with it."""

    def __init__(self) -> None:
        self._child: proc.Child | None = None

    def address(self) -> str:
        """Return the address at which the other nodes reach this one."""
        import ray

        return str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]

    def free_port(self) -> int:
        with socket.socket() as probe:
            # The kernel chooses the port. It is free now; another process may take it before the agent does.
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def run(self, argv: Sequence[str], environ: Mapping[str, str], log: str) -> int:
        """Run the command; return its exit code, negative if a signal ended it."""
        self._child = proc.start(argv, env={**os.environ, **environ}, log=Path(log), dies_with_parent=True)
        while (code := self._child.exit_code()) is None:
            time.sleep(_EVERY_S)
        return code

    def stop(self, grace_s: float) -> None:
        child = self._child
        if child is not None:
            proc.terminate(lambda: [p for p in [child.id.find()] if p is not None], grace_s)
