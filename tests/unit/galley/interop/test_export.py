"""`strategy export`: golden files, round trips, what cannot be written, and what the engines read."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from galley.errors import ConfigError
from galley.interop.export import FORMATS, export_strategy
from galley.schema import Precision, Recipe, Schedule, Strategy
from tests.support import REPO, not_available, run_galley, run_process
from tests.unit.galley.interop.files import compose
from tests.unit.galley.interop.strategies import STRATEGIES, exports, file_name, hybrid_in_twos, recipe

GOLDEN = REPO / "tests" / "golden" / "interop"
EXPORTS = list(exports())
NAMES = [file_name(*export) for export in EXPORTS]


def refused(asked: Recipe, file_format: str) -> list[str]:
    """The keys that the format has no word for."""
    with pytest.raises(ConfigError) as caught:
        export_strategy(asked, file_format)
    return [problem.where for problem in caught.value.problems]


def test_there_is_a_golden_file_for_every_export_and_no_other() -> None:
    assert sorted(file.name for file in GOLDEN.iterdir()) == sorted(NAMES)


@pytest.mark.parametrize(("name", "file_format"), EXPORTS, ids=NAMES)
def test_export_is_the_golden_file(name: str, file_format: str) -> None:
    text = export_strategy(recipe(STRATEGIES[name]), file_format)
    assert text == (GOLDEN / file_name(name, file_format)).read_text()


@pytest.mark.parametrize(("name", "file_format"), EXPORTS, ids=NAMES)
def test_what_is_written_is_read_as_the_same_strategy(name: str, file_format: str, tmp_path: Path) -> None:
    """Another engine's file gives that engine, and the same partition and offload."""
    file = tmp_path / "written"
    file.write_text(export_strategy(recipe(STRATEGIES[name]), file_format))
    kind = "deepspeed" if file_format == "deepspeed" else "accelerate"
    found = compose(f"strategy.{kind}_config={file}", "batch.global_size=32", "schedule.warmup_ratio=null")
    asked = STRATEGIES[name]
    assert found.precision.compute == "bf16"
    if asked.engine == "torch" or file_format in (asked.engine, "accelerate"):
        assert replace(found.strategy, deepspeed_config=None, accelerate_config=None) == asked
    else:
        for key in ("shard", "hybrid", "offload_optimizer", "offload_params", "cpu_ram_efficient_loading"):
            assert getattr(found.strategy, key) == getattr(asked, key), key
        assert found.strategy.engine == file_format


@pytest.mark.parametrize(
    ("name", "file_format", "keys"),
    [
        ("single", "deepspeed", ["strategy.data_parallel"]),
        ("single", "fsdp", ["strategy.data_parallel"]),
        ("zero1", "fsdp", ["strategy.shard"]),
        ("zero2_offload", "fsdp", ["strategy.offload_optimizer"]),
        ("zero3_nvme", "fsdp", ["strategy.offload_params"]),
        ("zero3_nvme", "accelerate", ["strategy.offload_nvme_path"]),
        ("fsdp_hybrid", "deepspeed", ["strategy.hybrid"]),
        ("fsdp_offload", "deepspeed", ["strategy.cpu_ram_efficient_loading"]),
    ],
)
def test_what_a_format_has_no_word_for_is_named(name: str, file_format: str, keys: list[str]) -> None:
    assert refused(recipe(STRATEGIES[name]), file_format) == keys


def test_every_strategy_is_written_as_every_format_or_refused() -> None:
    """The two tables above leave none out."""
    assert len(EXPORTS) + 8 == len(STRATEGIES) * len(FORMATS)


def test_engine_options_are_deepspeed_s_and_named_elsewhere() -> None:
    options = {"zero_optimization": {"overlap_comm": False}, "aio": {"block_size": 1}}
    asked = recipe(replace(STRATEGIES["zero2"], engine_options=options))
    written = json.loads(export_strategy(asked, "deepspeed"))
    assert written["zero_optimization"] == {"stage": 2, "overlap_comm": False}
    assert written["aio"] == {"block_size": 1}
    named = ["strategy.engine_options.zero_optimization.overlap_comm", "strategy.engine_options.aio"]
    assert refused(asked, "accelerate") == refused(asked, "fsdp") == named


def test_loss_scaling_is_in_deepspeed_s_file_only() -> None:
    precision = Precision(compute="fp16", loss_scale_window=1000, min_loss_scale=1.0)
    asked = replace(recipe(STRATEGIES["zero2"]), precision=precision)
    block = json.loads(export_strategy(asked, "deepspeed"))["fp16"]
    assert block == {
        "enabled": True,
        "initial_scale_power": 16,
        "loss_scale_window": 1000,
        "hysteresis": 1,
        "min_loss_scale": 1,
    }
    assert refused(asked, "accelerate") == ["precision.loss_scale_window", "precision.min_loss_scale"]
    uneven = replace(asked, precision=replace(precision, min_loss_scale=0.5))
    assert refused(uneven, "deepspeed") == ["precision.min_loss_scale"]


def test_steps_that_only_the_data_tells_are_auto() -> None:
    asked = replace(recipe(STRATEGIES["zero2"]), schedule=Schedule(warmup_ratio=0.1))
    params = json.loads(export_strategy(asked, "deepspeed"))["scheduler"]["params"]
    assert (params["warmup_num_steps"], params["total_num_steps"]) == ("auto", 100)


def test_groups_of_a_stated_size_are_replicas_of_shards() -> None:
    asked = recipe(hybrid_in_twos())
    written = yaml.safe_load(export_strategy(asked, "fsdp"))
    assert written["parallelism_config"] == {
        "parallelism_config_dp_replicate_size": 2,
        "parallelism_config_dp_shard_size": 2,
    }
    three = replace(asked, strategy=replace(asked.strategy, hybrid_shard_size=3))
    assert refused(three, "fsdp") == ["strategy.hybrid_shard_size"]
    uncounted = replace(asked, cluster=replace(asked.cluster, procs_per_node=None))
    assert refused(uncounted, "fsdp") == ["cluster.procs_per_node"]


@pytest.mark.parametrize("name", ["zero2", "fsdp"])
def test_accelerate_would_train_plain_ddp_on_the_cpu(name: str) -> None:
    asked = recipe(STRATEGIES[name])
    asked = replace(asked, cluster=replace(asked.cluster, device="cpu"))
    assert refused(asked, "accelerate") == ["cluster.device"]


def test_only_fsdp1_s_keys_have_prefetch_and_unsynchronized_modules() -> None:
    asked = replace(STRATEGIES["fsdp"], engine_options={"forward_prefetch": True})
    block = yaml.safe_load(export_strategy(recipe(asked), "fsdp"))["fsdp_config"]
    assert (block["fsdp_version"], block["fsdp_forward_prefetch"]) == (1, True)
    loose = replace(STRATEGIES["fsdp"], sync_module_states=False)
    block = yaml.safe_load(export_strategy(recipe(loose), "fsdp"))["fsdp_config"]
    assert (block["fsdp_version"], block["fsdp_sync_module_states"]) == (1, False)


@pytest.mark.slow
def test_the_command_writes_the_file_and_nothing_else(tmp_path: Path) -> None:
    done = run_galley(["strategy", "export", "--format", "deepspeed", "strategy=zero2"], cwd=tmp_path)
    assert (done.rc, done.err) == (0, "")
    assert json.loads(done.out)["zero_optimization"] == {"stage": 2}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["export"], "strategy export: needs --format\n      valid: deepspeed, accelerate, fsdp"),
        (["export", "--format", "deepsped"], "did you mean 'deepspeed'?"),
        (["exprot", "--format", "fsdp"], "strategy exprot: is not an action\n      did you mean 'export'?"),
        (["export", "--format=fsdp", "strategy=single"], "strategy.data_parallel: cannot be written as"),
    ],
)
def test_mistakes_of_the_command_end_with_exit_code_2(words: list[str], message: str) -> None:
    done = run_galley(["strategy", *words])
    assert (done.rc, done.out) == (2, "")
    assert message in done.err


@pytest.fixture(scope="module")
def as_read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """File name -> what DeepSpeed and Accelerate read from it."""
    if not all(map(importlib.util.find_spec, ("deepspeed", "accelerate"))):
        not_available("deepspeed and accelerate are not installed", "exported files, read by their engines")
    folder = tmp_path_factory.mktemp("exports")
    for name, file_format in EXPORTS:
        text = export_strategy(recipe(STRATEGIES[name]), file_format)
        (folder / file_name(name, file_format)).write_text(text)
    program = [sys.executable, "-P", Path(__file__).with_name("real_parsers.py"), folder]
    done = run_process(program, env={"PYTHONPATH": str(REPO)}, timeout=240)
    assert done.rc == 0, done.err
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    assert sorted(found) == sorted(NAMES)
    return found


STAGES = {"none": 0, "optimizer": 1, "grads": 2, "params": 3}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "file_format"), EXPORTS, ids=NAMES)
def test_the_engine_reads_what_was_meant(name: str, file_format: str, as_read: dict[str, Any]) -> None:
    found, asked = as_read[file_name(name, file_format)], STRATEGIES[name]
    if file_format == "deepspeed":
        assert _deepspeed_reads(found, asked)
    elif asked.engine == "deepspeed" and file_format == "accelerate":
        devices = (found["offload_optimizer"], found["offload_param"])
        assert found["stage"] == STAGES[asked.shard]
        assert devices == (asked.offload_optimizer, asked.offload_params)
    elif asked.engine != "torch":
        assert _fsdp_reads(found, asked)
    ranks = 1 if name == "single" else 4
    assert found.get("processes", ranks) == ranks


def _deepspeed_reads(found: dict[str, Any], asked: Strategy) -> bool:
    devices = (found["offload_optimizer"] or "none", found["offload_param"] or "none")
    assert found["stage"] == STAGES[asked.shard]
    assert devices == (asked.offload_optimizer, asked.offload_params)
    assert (found["bf16"], found["fp16"], found["clip"]) == (True, False, 1.0)
    assert (found["batch"], found["scheduler"]) == ([32, 2], "WarmupCosineLR")
    return bool(found["optimizer"] == ["adamw", 1e-4])


def _fsdp_reads(found: dict[str, Any], asked: Strategy) -> bool:
    if found["version"] == 1:
        return bool(found["sharding_strategy"] == "HYBRID_SHARD") and asked.hybrid
    assert found["reshard"] == asked.reshard_after_forward
    assert found["offload"] == ("CPUOffloadPolicy" if asked.offload_params == "cpu" else "OffloadPolicy")
    assert found["classes"] == asked.wrap_classes
    assert found["min_num_params"] == (asked.wrap_min_params if asked.wrap == "size" else None)
    return bool(found["ram_efficient"] == asked.cpu_ram_efficient_loading)
