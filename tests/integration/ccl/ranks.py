"""Real ranks for the cases of `cases.py`: `python ranks.py CASE[,CASE...] WORLD_SIZE RUNS CACHE`.

Ranks are forked from a process that has torch loaded, and end as any Python program ends: through
the interpreter's own tear-down. Prints the exit codes of every run of every case as JSON (-9 is a
rank that did not end), and the process ids of all.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from tests.support import free_port

TIMEOUT_S = 240


def wait(pids: list[int]) -> list[int]:
    end, codes = time.monotonic() + TIMEOUT_S, dict.fromkeys(pids)
    while any(code is None for code in codes.values()):
        for pid in [pid for pid, code in codes.items() if code is None]:
            if time.monotonic() > end:
                os.kill(pid, signal.SIGKILL)
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    return [int(code or 0) for code in codes.values()]


def main() -> None:
    names, world, runs, cache = sys.argv[1].split(","), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    os.environ["DS_ACCELERATOR"] = "cpu"
    import cases
    import torch._dynamo  # noqa: F401  what the first optimizer of a process would import

    if "zero" in names:
        import deepspeed  # noqa: F401
    results: dict[str, list[list[int]]] = {name: [] for name in names}
    started: list[int] = []
    for case in names * runs:
        port, pids = free_port(), []
        for rank in range(world):
            pid = os.fork()
            if pid == 0:
                os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank))
                cases.run(case, rank, world, cache)
                return
            pids.append(pid)
        started += pids
        results[case].append(wait(pids))
    print(json.dumps({"codes": results, "pids": started}))


if __name__ == "__main__":
    main()
