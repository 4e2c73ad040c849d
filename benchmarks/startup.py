"""Start-up of the commands that need no torch, next to a bare `import hydra`.

    python -m benchmarks.startup [--rounds 15] [--json]

Every round runs each command once, in turn: what the machine does meanwhile falls on all of them
alike. Wall time of the whole process, in seconds; ratios are of the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

TRAIN = str(Path(__file__).resolve().parent.parent / "train.py")
BASELINE = "import hydra"
COMMANDS: dict[str, list[str]] = {
    "python": [sys.executable, "-P", "-c", "pass"],
    BASELINE: [sys.executable, "-P", "-c", "import hydra"],
    "train.py --help": [sys.executable, "-P", TRAIN, "--help"],
    "train.py plan": [sys.executable, "-P", TRAIN, "plan"],
    "train.py recipes": [sys.executable, "-P", TRAIN, "recipes"],
}
PLAN = "train.py plan"
CLUSTERS = ("mpi", "slurm", "k8s", "ray")
COMMANDS |= {f"{PLAN} launcher={name}": [*COMMANDS[PLAN], f"launcher={name}"] for name in CLUSTERS}


def wall_time(argv: Sequence[str], cwd: str) -> float:
    """Seconds from start to end of one process; ends the benchmark with its message if it fails."""
    started = time.perf_counter()
    done = subprocess.run(argv, cwd=cwd, capture_output=True, text=True)
    taken = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed:\n{done.stderr}")
    return taken


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds of each command in each round, after one that warms the file cache where there are several."""
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(0 if rounds > 1 else 1, rounds + 1):
            for name, argv in COMMANDS.items():
                taken = wall_time(argv, folder)
                if number:
                    times[name].append(taken)
    return times


def summarize(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Median, least and greatest seconds of each command, its ratio to the baseline and to `plan`."""
    baseline, plan = (statistics.median(times[name]) for name in (BASELINE, PLAN))
    return {
        name: {
            "median_s": statistics.median(taken),
            "min_s": min(taken),
            "max_s": max(taken),
            "ratio": statistics.median(taken) / baseline,
            "to_plan": statistics.median(taken) / plan,
        }
        for name, taken in times.items()
    }


def show(summary: dict[str, dict[str, float]], rounds: int) -> None:
    table = Table(title=f"start-up, median of {rounds} interleaved rounds", title_justify="left")
    table.add_column("command")
    for heading in ("median s", "min s", "max s", f"÷ {BASELINE}", "÷ plan"):
        table.add_column(heading, justify="right")
    for name, row in summary.items():
        table.add_row(
            name,
            *(f"{row[key]:.3f}" for key in ("median_s", "min_s", "max_s")),
            *(f"{row[key]:.2f}" for key in ("ratio", "to_plan")),
        )
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    summary = summarize(measure(options.rounds))
    if options.json:
        print(json.dumps({"rounds": options.rounds, "cores": os.cpu_count(), "commands": summary}))
    else:
        show(summary, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
