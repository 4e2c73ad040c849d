"""`plan`: prints exactly what `run` would start."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from cli.options import Options
from cli.prepare import PreparedRun, prepare
from galley.counting import counted
from galley.system.pinning import planned_pins


def plan(words: Sequence[str], options: Options) -> int:
    """Print the launch plan, the memory estimate and the warnings. Writes and starts nothing."""
    prepared = prepare(words, options)
    if options.json:
        print(json.dumps(as_json(prepared), ensure_ascii=False))
        return 0
    recipe, layout, launch = prepared.recipe, prepared.spec.layout, prepared.plan
    print(f"recipe    {recipe.recipe} ({recipe.profile}), strategy {recipe.strategy.name}")
    if prepared.choice is not None:
        print("auto      " + "\n          ".join(prepared.choice.lines()))
    print(f"run       {prepared.spec.sha256[:12]} in {prepared.run_dir}")
    ranks, threads = counted(layout.world_size, "rank"), counted(layout.threads_per_proc, "thread")
    print(f"layout    {ranks} on {layout.device}, {threads} a rank")
    for line in pin_lines(prepared):
        print(line)
    copies = "ranks" if layout.model_parallel == 1 else "copies of the model"
    print(
        f"batch     {layout.global_size} = {layout.micro_size} × {layout.accumulation} accumulated"
        f" × {layout.data_parallel} {copies}"
    )
    if prepared.estimate is not None:
        print(f"memory    {prepared.estimate.total_gib:.2f} GiB a rank before activations")
    print(f"launcher  {launch.launcher}")
    env = [f"{key}={shlex.quote(value)}" for key, value in sorted(launch.env.items())]
    print("env       " + "\n          ".join(env))
    print(f"command   {shlex.join(launch.argv)}")
    for path, text in sorted(launch.files.items()):
        print(f"--- {path}\n{text}", end="")
    for warning in prepared.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def pin_lines(prepared: PreparedRun) -> Iterator[str]:
    """The cores and the memory that each rank of a node will be bound to; nothing if none is."""
    pins = planned_pins(prepared.recipe, prepared.spec.layout, prepared.facts)
    if pins is None:
        return
    if prepared.facts.declared:
        yield "pins      as if a node's cores were numbered from 0, on one NUMA node; each rank reads its own"
    for number, rank in enumerate(pins.ranks):
        yield f"{'' if number or prepared.facts.declared else 'pins':<10}local rank {number}: {rank}"


def as_json(prepared: PreparedRun) -> dict[str, object]:
    """The contract of `plan --json`."""
    launch = prepared.plan
    pins = planned_pins(prepared.recipe, prepared.spec.layout, prepared.facts)
    return {
        "launcher": launch.launcher,
        "argv": list(launch.argv),
        "env": launch.env,
        "forward_env": list(launch.forward_env),
        "files": launch.files,
        "estimate": asdict(prepared.estimate) if prepared.estimate else None,
        "auto": asdict(prepared.choice) if prepared.choice else None,
        "warnings": prepared.warnings,
        "run_dir": str(prepared.run_dir),
        "sha256": prepared.spec.sha256,
        "pins": pins and {"masks": [rank.mask for rank in pins.ranks], **pins.ccl_environment()},
        "layout": asdict(prepared.spec.layout),
    }
