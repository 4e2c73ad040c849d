"""Every strategy side by side, next to a bare torch DDP loop on the same batches.

    python -m benchmarks.strategies [--strategies ddp,zero2] [--rounds 2] [--steps 10] [--json]

Every round runs each of them once, in turn: two ranks of the embedded MiniLM on embedded pairs, one
checkpoint in the middle, through the worker that a launched run has. The ranks are forked from a
process that has the libraries loaded, so that a round takes a minute or two and not ten. Samples/s
leave the first three steps and the checkpoint's stall out; peak memory is the largest resident set
of a rank; stall is how long a step waits for the checkpoint. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from galley.errors import ConfigError
from galley.paths import CONF
from galley.rundir import RunFolder
from galley.seal import write_snapshot
from galley.verbs import Options
from galley.verbs.prepare import Prepared, prepare

BARE = "bare torch DDP"
RANKS = 2
# Hybrid sharding needs four ranks, and one process is no comparison of two.
LEFT_OUT = {"auto", "single", "fsdp_hybrid"}
COLUMNS = {"samples_per_s": ("samples/s", "{:.1f}"), "peak_memory_gib": ("peak GiB a rank", "{:.2f}"),
           "stall_s": ("checkpoint stall s", "{:.2f}")}  # fmt: skip
PRELOADED = [
    "torch._dynamo", "deepspeed", "transformers", "trainer.session", "trainer.strategies.fsdp",
    "trainer.strategies.zero", "trainer.tasks.sequence_classification",
]  # fmt: skip
RUN_TIMEOUT_S = 600.0

Figures = dict[str, float]


def offered() -> list[str]:
    return sorted({file.stem for file in (CONF / "strategy").glob("*.yaml")} - LEFT_OUT)


def settings(steps: int) -> list[str]:
    return [
        "recipe=quickstart", f"train.max_steps={steps}", "eval.enabled=false", "batch.global_size=16",
        "data.max_length=64", f"checkpoint.every_steps={steps // 2 + 1}",
        f"cluster.procs_per_node={RANKS}", "cluster.threads_per_proc=1", "cluster.device=cpu",
    ]  # fmt: skip


def ready(name: str, folder: Path, steps: int) -> Prepared | None:
    """The run of a strategy; null, and said, where this machine cannot carry it."""
    words = [f"strategy={name}", f"run_dir={folder}", *settings(steps)]
    try:
        return prepare(words, Options())
    except ConfigError as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return None


def enter(module: str, arguments: Sequence[str], environ: dict[str, str]) -> None:
    """The body of a forked rank."""
    os.environ.update(environ)
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()


def run_ranks(module: str, arguments: Sequence[str], environ: dict[str, str]) -> list[int | None]:
    """Exit codes, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(RANKS)}
    processes = []
    for rank in range(RANKS):
        own = {**environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=enter, args=(module, tuple(arguments), own)))
        processes[-1].start()
    for process in processes:
        process.join(RUN_TIMEOUT_S)
        process.kill()
    return [process.exitcode for process in processes]


def run_strategy(prepared: Prepared) -> Figures:
    """Ends the benchmark with the ranks' logs where the run fails."""
    folder = RunFolder(prepared.run_dir)
    write_snapshot(prepared.recipe, folder)
    folder.write_spec(prepared.spec)
    words = ["--run-dir", str(folder.root), "--sha256", prepared.spec.sha256]
    codes = run_ranks("trainer.worker", words, prepared.plan.env)
    result = folder.read_result()
    if any(codes) or result is None or result.samples_per_s is None or result.peak_memory_gib is None:
        logs = [log.read_text()[-3000:] for log in sorted(folder.logs(1).glob("rank-*.log"))]
        raise SystemExit(f"{folder.root.name} ended with {codes}:\n" + "\n".join(logs))
    stalls = [row["checkpoint/stall_s"] for row in folder.read_metrics() if "checkpoint/stall_s" in row]
    return {
        "samples_per_s": result.samples_per_s,
        "peak_memory_gib": result.peak_memory_gib,
        "stall_s": max(stalls),
    }


def run_bare(ddp: Prepared) -> Figures:
    """On the model, data and batches of the ddp run, which has been made."""
    codes = run_ranks("benchmarks.bare_ddp", [str(ddp.run_dir)], ddp.plan.env)
    if any(codes):
        raise SystemExit(f"the bare loop ended with {codes}")
    found: Figures = json.loads((ddp.run_dir / "bare.json").read_text())
    return found


def measure(names: Sequence[str], rounds: int, steps: int) -> dict[str, list[Figures]]:
    found: dict[str, list[Figures]] = {BARE: []}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for name in names:
                prepared = ready(name, Path(folder) / f"{name}-{number}", steps)
                if prepared is None:
                    continue
                found.setdefault(name, []).append(run_strategy(prepared))
                print(f"round {number + 1} of {rounds}: {name}", file=sys.stderr)
                if name == "ddp":
                    found[BARE].append(run_bare(prepared))
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
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    options = parser.parse_args()
    names = list(dict.fromkeys(["ddp", *options.strategies.split(",")]))
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # before torch is loaded
    summary = summarize(measure(names, options.rounds, options.steps))
    if options.json:
        print(json.dumps({"rounds": options.rounds, "steps": options.steps, "strategies": summary}))
    else:
        show(summary, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
