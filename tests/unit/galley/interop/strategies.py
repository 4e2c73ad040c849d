"""Every strategy that has a name, as the neutral description. Also run as a script:

    python -P -m tests.unit.galley.interop.strategies FOLDER

writes each as each format that can say it: how the golden files were made, after a look at them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from galley.errors import ConfigError
from galley.interop.export import FORMATS, export_strategy
from galley.schema import Batch, Cluster, Precision, Recipe, Schedule, Strategy, Train

STRATEGIES = {
    "single": Strategy(name="single", data_parallel=False),
    "ddp": Strategy(),
    "zero1": Strategy(name="zero1", engine="deepspeed", shard="optimizer"),
    "zero2": Strategy(name="zero2", engine="deepspeed", shard="grads"),
    "zero3": Strategy(name="zero3", engine="deepspeed", shard="params"),
    "zero2_offload": Strategy(
        name="zero2_offload", engine="deepspeed", shard="grads", offload_optimizer="cpu"
    ),
    "zero3_offload": Strategy(
        name="zero3_offload",
        engine="deepspeed",
        shard="params",
        offload_optimizer="cpu",
        offload_params="cpu",
    ),
    "zero3_nvme": Strategy(
        name="zero3_nvme",
        engine="deepspeed",
        shard="params",
        offload_optimizer="nvme",
        offload_params="nvme",
        offload_nvme_path="/local_nvme",
    ),
    "fsdp": Strategy(name="fsdp", engine="fsdp", shard="params", wrap_classes=["BertLayer"]),
    "fsdp_grad_op": Strategy(
        name="fsdp_grad_op", engine="fsdp", shard="grads", wrap="size", wrap_min_params=2_000_000
    ),
    "fsdp_hybrid": Strategy(name="fsdp_hybrid", engine="fsdp", shard="params", hybrid=True),
    "fsdp_offload": Strategy(
        name="fsdp_offload",
        engine="fsdp",
        shard="params",
        offload_optimizer="cpu",
        offload_params="cpu",
        cpu_ram_efficient_loading=True,
    ),
}


def recipe(strategy: Strategy) -> Recipe:
    """A recipe in which nothing is left to `auto` but the steps of the plugin."""
    return Recipe(
        strategy=strategy,
        precision=Precision(compute="bf16"),
        schedule=Schedule(kind="cosine", warmup_steps=10),
        batch=Batch(global_size=32, accumulation=2),
        train=Train(max_steps=100),
        cluster=Cluster(procs_per_node=4),
    )


def hybrid_in_twos() -> Strategy:
    return replace(STRATEGIES["fsdp_hybrid"], hybrid_shard_size=2)


def exports() -> Iterator[tuple[str, str]]:
    """(strategy, format) for all that can be written."""
    for name, strategy in STRATEGIES.items():
        for file_format in FORMATS:
            try:
                export_strategy(recipe(strategy), file_format)
            except ConfigError:
                continue
            yield name, file_format


def file_name(name: str, file_format: str) -> str:
    return f"{name}.{file_format}." + ("json" if file_format == "deepspeed" else "yaml")


if __name__ == "__main__":
    for name, file_format in exports():
        text = export_strategy(recipe(STRATEGIES[name]), file_format)
        (Path(sys.argv[1]) / file_name(name, file_format)).write_text(text)
