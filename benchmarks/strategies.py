"""Every strategy side by side, next to a bare torch DDP loop on the same batches.

    python -m benchmarks.strategies [--strategies ddp,zero2] [--rounds 2] [--steps 12] [--json]

Every round runs each of them once, in turn, as a user runs it: two ranks of the embedded MiniLM on
embedded pairs, one checkpoint in the middle. Samples/s leave the first three steps and the
checkpoint out; peak memory is the largest resident set of a rank; stall is how long a step waits
for the checkpoint. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from galley.paths import CONF, ROOT
from galley.rundir import RunFolder

BARE = "bare torch DDP"
RANKS = 2
# Hybrid sharding needs four ranks, and one process is no comparison of two.
LEFT_OUT = {"single", "fsdp_hybrid"}
COLUMNS = {"samples_per_s": ("samples/s", "{:.1f}"), "peak_memory_gib": ("peak GiB a rank", "{:.2f}"),
           "stall_s": ("checkpoint stall s", "{:.2f}")}  # fmt: skip
SAVE = re.compile(r"galley INFO save: ([\d.]+) s")

Figures = dict[str, float]


def offered() -> list[str]:
    return sorted({file.stem for file in (CONF / "strategy").glob("*.yaml")} - LEFT_OUT)


def settings(steps: int) -> list[str]:
    return [
        "recipe=quickstart", f"train.max_steps={steps}", "eval.enabled=false", "batch.global_size=16",
        "data.max_length=64", f"checkpoint.every_steps={steps // 2 + 1}",
        f"cluster.procs_per_node={RANKS}", "cluster.threads_per_proc=1", "cluster.device=cpu",
    ]  # fmt: skip


def call(argv: Sequence[str], cwd: Path) -> None:
    """Ends the benchmark with the output of a command that fails."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(argv)} failed:\n{done.stdout}\n{done.stderr}")


def run_strategy(name: str, folder: Path, steps: int) -> Figures:
    words = [f"strategy={name}", f"run_dir={folder}", *settings(steps)]
    call([sys.executable, "-P", str(ROOT / "train.py"), "run", *words], folder.parent)
    run = RunFolder(folder)
    result = run.read_result()
    if result is None or result.samples_per_s is None or result.peak_memory_gib is None:
        raise SystemExit(f"{folder}: the run left no figures")
    stall = SAVE.search(run.rank_log(1, 0).read_text())
    if stall is None:
        raise SystemExit(f"{folder}: the run saved no checkpoint")
    return {
        "samples_per_s": result.samples_per_s,
        "peak_memory_gib": result.peak_memory_gib,
        "stall_s": float(stall[1]),
    }


def can_run(name: str, steps: int) -> bool:
    """Whether this machine can carry the strategy; says why where it cannot."""
    argv = [sys.executable, "-P", str(ROOT / "train.py"), "plan", f"strategy={name}", *settings(steps)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        print(f"{name} is left out: {done.stderr.strip()}", file=sys.stderr)
    return done.returncode == 0


def run_bare(ddp: Path) -> Figures:
    """On the model, data and batches of the ddp run, which has been made."""
    launch = ["torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
    call([sys.executable, "-P", "-m", *launch, "-m", "benchmarks.bare_ddp", str(ddp)], ddp.parent)
    found: Figures = json.loads((ddp / "bare.json").read_text())
    return found


def measure(names: Sequence[str], rounds: int, steps: int) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {BARE: [], **{name: [] for name in names}}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            root = Path(folder) / f"round-{number}"
            root.mkdir()
            for name in names:
                found[name].append(run_strategy(name, root / name, steps))
                if name == "ddp":
                    found[BARE].append(run_bare(root / name))
    return found


def summarize(figures: dict[str, list[Figures]]) -> dict[str, Figures]:
    """Medians, and the speed in units of the bare loop's."""
    rows = {
        name: {key: statistics.median(run[key] for run in runs) for key in COLUMNS}
        for name, runs in figures.items()
    }
    return {
        name: row | {"ratio": row["samples_per_s"] / rows[BARE]["samples_per_s"]}
        for name, row in rows.items()
    }


def show(summary: dict[str, Figures], rounds: int) -> None:
    title = f"{RANKS} ranks, median of {rounds} interleaved rounds"
    table = Table(title=title, title_justify="left")
    table.add_column("strategy")
    for heading, _ in COLUMNS.values():
        table.add_column(heading, justify="right")
    table.add_column("÷ bare", justify="right")
    for name, row in summary.items():
        cells = [pattern.format(row[key]) for key, (_, pattern) in COLUMNS.items()]
        table.add_row(name, *cells, f"{row['ratio']:.2f}")
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategies", default=",".join(offered()), help="ddp is always among them")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    names = list(dict.fromkeys(["ddp", *options.strategies.split(",")]))
    names = [name for name in names if can_run(name, options.steps)]
    summary = summarize(measure(names, options.rounds, options.steps))
    if options.json:
        print(json.dumps({"rounds": options.rounds, "steps": options.steps, "strategies": summary}))
    else:
        show(summary, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
