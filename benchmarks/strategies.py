"""Every strategy side by side, next to a bare torch DDP loop on the same batches.

    python -m benchmarks.strategies [--strategies ddp,zero2] [--rounds 2] [--steps 10] [--json] [KEY=VALUE]

Every round runs each of them once, in turn: two ranks (`fsdp_hybrid` four) of the embedded MiniLM on
embedded pairs, unless overrides say otherwise, one checkpoint in the middle, through the worker that a
launched run has. The ranks are forked from a process that has the libraries loaded, so that a round
takes a minute or two and not ten. Samples/s are the median over the steps of all rounds but the first
three of each run; peak memory is the largest resident set of a rank; stall is how long a step waits for
the checkpoint; the median over the rounds. A ratio is to the bare loop with as many ranks.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cli.options import Options
from cli.prepare import PreparedRun, prepare
from galley.errors import ConfigError
from galley.paths import CONF
from galley.run.seal import write_snapshot
from galley.rundir import RunFolder
from trainer.run.throughput import WARMUP_STEPS

BARE = "bare torch DDP"
# Which is to be chosen is a question of its own.
LEFT_OUT = {"auto"}
RANKS = {"single": 1, "fsdp_hybrid": 4}
"""Where it is not two; hybrid sharding needs two groups of two."""
COLUMNS = {"ranks": ("ranks", "{}"), "samples_per_s": ("samples/s", "{:.1f}"), "ratio": ("÷ bare", "{:.2f}"),
           "peak_memory_gib": ("peak GiB a rank", "{:.2f}"),
           "stall_s": ("checkpoint stall s", "{:.2f}")}  # fmt: skip
PRELOADED = [
    "torch._dynamo", "deepspeed", "transformers", "trainer.run.session", "trainer.engines.fsdp",
    "trainer.engines.deepspeed.zero", "trainer.tasks.sequence_classification",
]  # fmt: skip
RUN_TIMEOUT_S = 600.0

Row = dict[str, float]


@dataclass(frozen=True)
class Figures:
    """Of one run. `rates` are samples/s of each step."""

    ranks: int
    rates: list[float]
    peak_memory_gib: float
    stall_s: float

    def __str__(self) -> str:
        rate = statistics.median(self.rates)
        return f"{rate:.1f} samples/s, {self.peak_memory_gib:.2f} GiB a rank, stall {self.stall_s:.2f} s"


def offered() -> list[str]:
    return sorted({file.stem for file in (CONF / "strategy").glob("*.yaml")} - LEFT_OUT)


def settings(name: str, steps: int) -> list[str]:
    words = [
        "recipe=quickstart", f"train.max_steps={steps}", "eval.enabled=false", "batch.global_size=16",
        "data.max_length=64", f"checkpoint.every_steps={steps // 2 + 1}", "train.log_every_steps=1",
        f"cluster.procs_per_node={RANKS.get(name, 2)}", "cluster.threads_per_proc=1", "cluster.device=cpu",
    ]  # fmt: skip
    return [*words, "strategy.hybrid_shard_size=2"] if name == "fsdp_hybrid" else words


def ready(name: str, folder: Path, steps: int, overrides: Sequence[str]) -> PreparedRun | None:
    """The run of a strategy; null, and said, where this machine cannot carry it."""
    words = [f"strategy={name}", f"run_dir={folder}", *settings(name, steps), *overrides]
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


def run_ranks(module: str, words: Sequence[str], environ: dict[str, str], size: int) -> list[int | None]:
    """Exit codes, by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    processes = []
    for rank in range(size):
        own = {**environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(context.Process(target=enter, args=(module, tuple(words), own)))
        processes[-1].start()
    for process in processes:
        process.join(RUN_TIMEOUT_S)
        process.kill()
    return [process.exitcode for process in processes]


def run_strategy(prepared: PreparedRun) -> Figures:
    """Ends the benchmark with the ranks' logs where the run fails."""
    folder = RunFolder(prepared.run_dir)
    write_snapshot(prepared.recipe, folder)
    folder.write_spec(prepared.spec)
    words = ["--run-dir", str(folder.root), "--sha256", prepared.spec.sha256]
    world_size = prepared.spec.layout.world_size
    codes = run_ranks("trainer.worker", words, prepared.plan.env, world_size)
    result = folder.read_result()
    if any(codes) or result is None or result.peak_memory_gib is None:
        logs = [log.read_text()[-3000:] for log in sorted(folder.logs(1).glob("rank-*.log"))]
        raise SystemExit(f"{folder.root.name} ended with {codes}:\n" + "\n".join(logs))
    rows = list(folder.read_metrics())
    rates = [row["samples_per_s"] for row in rows if "samples_per_s" in row][WARMUP_STEPS:]
    stalls = [row["checkpoint/stall_s"] for row in rows if "checkpoint/stall_s" in row]
    return Figures(world_size, rates, result.peak_memory_gib, max(stalls))


def run_bare(sealed: PreparedRun) -> Figures:
    """On the model, data and batches of a run that has been made."""
    world_size = sealed.spec.layout.world_size
    codes = run_ranks("benchmarks.bare_ddp", [str(sealed.run_dir)], sealed.plan.env, world_size)
    if any(codes):
        raise SystemExit(f"the bare loop ended with {codes}")
    found: dict[str, Any] = json.loads((sealed.run_dir / "bare.json").read_text())
    return Figures(world_size, **found)


def measure(
    names: Sequence[str], rounds: int, steps: int, overrides: Sequence[str]
) -> dict[str, list[Figures]]:
    """By strategy; the bare loop runs in each round after the first strategy of as many ranks."""
    found: dict[str, list[Figures]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            sizes = set()
            for name in names:
                prepared = ready(name, Path(folder) / f"{name}-{number}", steps, overrides)
                if prepared is None:
                    continue
                size = prepared.spec.layout.world_size
                runs = {name: run_strategy(prepared)}
                if size not in sizes:
                    runs[bare_name(size)] = run_bare(prepared)
                sizes.add(size)
                for run, figures in runs.items():
                    found.setdefault(run, []).append(figures)
                    print(f"round {number + 1} of {rounds}: {run}: {figures}", file=sys.stderr)
    return found


def bare_name(world_size: int) -> str:
    return f"{BARE}, {world_size}"


def summarize(figures: dict[str, list[Figures]]) -> dict[str, Row]:
    """Medians, and the speed in units of the bare loop's; the bare loops first."""
    rows: dict[str, Row] = {}
    for name, runs in sorted(figures.items(), key=lambda item: not item[0].startswith(BARE)):
        rows[name] = {
            "ranks": runs[0].ranks,
            "samples_per_s": statistics.median(rate for run in runs for rate in run.rates),
            "peak_memory_gib": statistics.median(run.peak_memory_gib for run in runs),
            "stall_s": statistics.median(run.stall_s for run in runs),
        }
        rows[name]["ratio"] = rows[name]["samples_per_s"] / rows[bare_name(runs[0].ranks)]["samples_per_s"]
    return rows


def show(summary: dict[str, Row], rounds: int) -> None:
    table = Table(title=f"median of {rounds} interleaved rounds", title_justify="left")
    table.add_column("strategy")
    for heading, _ in COLUMNS.values():
        table.add_column(heading, justify="right")
    for name, row in summary.items():
        cells = [pattern.format(row[key]) for key, (_, pattern) in COLUMNS.items()]
        table.add_row(name.partition(",")[0], *cells)
    Console().print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--strategies", default=",".join(offered()), help="names, with commas")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe, for all")
    options = parser.parse_args()
    names = list(dict.fromkeys(options.strategies.split(",")))
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # before torch is loaded
    summary = summarize(measure(names, options.rounds, options.steps, options.overrides))
    if not summary:
        raise SystemExit("nothing was measured")
    if options.json:
        print(json.dumps({"rounds": options.rounds, "steps": options.steps, "strategies": summary}))
    else:
        show(summary, options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
