"""The configuration files that the source documents print: read, written and read again, or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from galley.errors import ConfigError
from galley.interop.export import export_strategy
from galley.schema import Recipe
from galley.spec import ClusterFacts, MpiFacts
from launchers.mpi.hosts import hosts_of
from launchers.mpi.launcher import MpiLauncher
from tests.integration.local.standin import make_spec
from tests.unit.galley.interop.files import compose, problem, problems

DEEPSPEED_FILES = {
    "accelerate_zero2_file": "zero2_config_accelerate",
    "accelerate_zero3_offload_file": "zero3_offload_config_accelerate",
}


@pytest.fixture
def fixtures(shared_dir: Path) -> Path:
    return shared_dir / "fixtures"


def read(fixtures: Path, name: str) -> Recipe:
    """The recipe of a fixture, with its DeepSpeed file where it names one."""
    if not name.startswith("accelerate_"):
        return compose(f"strategy.deepspeed_config={fixtures}/{name}.json")
    overrides = [f"strategy.accelerate_config={fixtures}/{name}.yaml"]
    if name in DEEPSPEED_FILES:
        overrides.append(f"strategy.deepspeed_config={fixtures}/{DEEPSPEED_FILES[name]}.json")
    return compose(*overrides)


def neutral(recipe: Recipe) -> Recipe:
    """Without the names of the files that it was read from."""
    return replace(recipe, strategy=replace(recipe.strategy, deepspeed_config=None, accelerate_config=None))


@pytest.mark.parametrize(
    ("name", "strategy", "shard", "compute", "ranks"),
    [
        ("accelerate_0_11_0", "single", "none", "fp32", 1),
        ("accelerate_0_12_0", "single", "none", "fp32", 1),
        ("accelerate_multi_gpu", "ddp", "none", "fp16", 2),
        ("accelerate_zero2_plugin", "zero2", "grads", "fp16", 2),
        ("accelerate_zero2_file", "zero2", "grads", "fp16", 2),
        ("accelerate_zero3_offload_file", "zero3_offload", "params", "fp16", 2),
        ("accelerate_fsdp", "fsdp_offload", "params", "bf16", 2),
        ("zero2_config_accelerate", "zero2", "grads", "fp16", None),
        ("zero3_offload_config_accelerate", "zero3_offload", "params", "fp16", None),
    ],
)
def test_fixture_becomes_the_equivalent_strategy(
    fixtures: Path, name: str, strategy: str, shard: str, compute: str, ranks: int | None
) -> None:
    recipe = read(fixtures, name)
    assert (recipe.strategy.name, recipe.strategy.shard) == (strategy, shard)
    assert (recipe.precision.compute, recipe.cluster.procs_per_node) == (compute, ranks)


ROUND_TRIPS = [
    ("accelerate_0_11_0", "accelerate"),
    ("accelerate_0_12_0", "accelerate"),
    ("accelerate_multi_gpu", "accelerate"),
    ("accelerate_zero2_plugin", "accelerate"),
    ("accelerate_zero2_plugin", "deepspeed"),
    ("accelerate_zero2_file", "accelerate"),
    ("accelerate_zero2_file", "deepspeed"),
    ("accelerate_zero3_offload_file", "accelerate"),
    ("accelerate_fsdp", "accelerate"),
    ("accelerate_fsdp", "fsdp"),
    ("zero2_config_accelerate", "deepspeed"),
    ("zero2_config_accelerate", "accelerate"),
    ("zero3_offload_config_accelerate", "deepspeed"),
    ("zero3_offload_config_accelerate", "accelerate"),
]


@pytest.mark.parametrize(("name", "file_format"), ROUND_TRIPS)
def test_fixture_written_and_read_again_is_the_same_recipe(
    fixtures: Path, tmp_path: Path, name: str, file_format: str
) -> None:
    first = read(fixtures, name)
    kind = "deepspeed" if file_format == "deepspeed" else "accelerate"
    file = tmp_path / "written"
    file.write_text(export_strategy(first, file_format))
    ranks = [f"cluster.procs_per_node={n}" for n in [first.cluster.procs_per_node] if n is not None]
    ranks += [f"cluster.device={first.cluster.device}"] if kind == "deepspeed" else []  # it says neither
    assert neutral(compose(f"strategy.{kind}_config={file}", *ranks)) == neutral(first)


def test_every_fixture_is_read_or_refused(fixtures: Path) -> None:
    """None is forgotten here: a new one must appear in a test of this file, or be a job for Kubernetes."""
    covered = {name for name, _ in ROUND_TRIPS} | {name for name, _ in REFUSED}
    covered |= {"accelerate_fp8_0_34_0", "accelerate_mpi_0_28_0"}
    assert {file.stem for file in fixtures.iterdir()} == covered | {"pytorchjob"}


REFUSED = [
    (
        "accelerate_latest",
        ".yaml:18 (tpu_name): TPUs are not supported; the same holds for tpu_zone, command_file",
    ),
    ("accelerate_invalid_keys", "2 unknown keys: 'invalid_key'; 'another_invalid_key'"),
    (
        "accelerate_sagemaker_0_30_0",
        "accelerate_sagemaker_0_30_0.yaml:1 (compute_environment): is not supported: SageMaker",
    ),
]


@pytest.mark.parametrize(("name", "said"), REFUSED)
def test_what_a_fixture_asks_for_in_vain_is_said_once(fixtures: Path, name: str, said: str) -> None:
    assert said in problem(f"strategy.accelerate_config={fixtures}/{name}.yaml")


def _with_hostfile(fixtures: Path, folder: Path, slots: int) -> tuple[Path, str]:
    """A hostfile as Open MPI and as Intel MPI write it, and the fixture, without IPEX, that names it."""
    hosts = folder / "hostfile"
    hosts.write_text(f"# 4 nodes\nnode-[1-2] slots={slots}\n\nnode-3:{slots}\nuser@node-4 # spare\n")
    text = (fixtures / "accelerate_mpi_0_28_0.yaml").read_text().replace("ipex: true", "ipex: false")
    file = folder / "mpi.yaml"
    file.write_text(text.replace("/home/user/hostfile", str(hosts)))
    return hosts, f"strategy.accelerate_config={file}"


def test_a_hostfile_of_mpirun_is_the_launcher_s_and_is_planned(fixtures: Path, tmp_path: Path) -> None:
    """The fixture has 16 ranks on 4 machines."""
    hosts, word = _with_hostfile(fixtures, tmp_path, slots=4)
    recipe = compose(word)
    launcher = recipe.launcher
    assert (launcher.kind, launcher.mpi.hosts, launcher.mpi.hostfile) == ("mpi", [], str(hosts))
    assert launcher.torchrun.rendezvous is None
    assert launcher.env["CCL_WORKER_COUNT"] == "1"
    planned = hosts_of(recipe)
    assert planned == ("node-1", "node-2", "node-3", "user@node-4")
    spec = make_spec("succeed", 16)
    layout = replace(spec.layout, nodes=4, procs_per_node=4)
    mpi = MpiFacts("openmpi", "mpirun", "5")
    facts = ClusterFacts("node", 0, 0.0, 4, 0.0, mpi=mpi, hosts=planned)
    plan = MpiLauncher("/opt/python").plan(
        replace(spec, recipe=recipe, layout=layout), Path("/runs/a"), facts, 1
    )
    lines = [f"{host} slots=4" for host in planned]
    assert plan.files["hostfile"].splitlines() == lines
    hosts.unlink()
    assert f"(mpirun_config.mpirun_hostfile): '{hosts}' cannot be read here" in problem(word)


def test_fewer_slots_than_ranks_are_refused_and_typed_hosts_are_in_the_file_s_place(
    fixtures: Path, tmp_path: Path
) -> None:
    _, word = _with_hostfile(fixtures, tmp_path, slots=2)
    with pytest.raises(ConfigError, match="has 2 slots for node-1"):
        hosts_of(compose(word))
    mpi = compose(word, "launcher.mpi.hosts=[a,b,c,d]").launcher.mpi
    assert (mpi.hosts, mpi.hostfile) == (["a", "b", "c", "d"], None)


def test_zero2_file_keeps_what_only_deepspeed_knows(fixtures: Path) -> None:
    recipe = read(fixtures, "zero2_config_accelerate")
    options = recipe.strategy.engine_options
    assert options["zero_optimization"] == {
        "allgather_partitions": True,
        "allgather_bucket_size": 200_000_000,
        "overlap_comm": True,
        "reduce_scatter": True,
        "reduce_bucket_size": 200_000_000,
        "contiguous_gradients": True,
    }
    assert type(options["zero_optimization"]["reduce_bucket_size"]) is int
    assert options["optimizer"] == {"params": {"torch_adam": True}}
    precision = recipe.precision
    assert (precision.initial_scale_power, precision.loss_scale_window) == (15, 1000)
    assert (precision.hysteresis, precision.min_loss_scale) == (2, 1.0)
    assert recipe.schedule.kind == "linear"
    assert recipe.optim.lr == 1e-4, "auto: the recipe's"
    assert recipe.batch.global_size == 32, "auto: the recipe's"


def test_gpt2_xl_file_is_stage_3_with_both_offloads(fixtures: Path) -> None:
    """The table that the file is printed under says stage 2."""
    strategy = read(fixtures, "accelerate_zero3_offload_file").strategy
    assert (strategy.engine, strategy.shard) == ("deepspeed", "params")
    assert (strategy.offload_optimizer, strategy.offload_params) == ("cpu", "cpu")
    assert strategy.offload_pin_memory
    assert strategy.cpu_ram_efficient_loading, "zero3_init_flag"


def test_fsdp_fixture_in_full(fixtures: Path) -> None:
    strategy = read(fixtures, "accelerate_fsdp").strategy
    assert (strategy.engine, strategy.reshard_after_forward, strategy.hybrid) == ("fsdp", True, False)
    assert (strategy.wrap, strategy.wrap_classes) == ("layers", ["BertLayer"])
    assert (strategy.state_dict, strategy.sync_module_states) == ("sharded", True)
    assert (strategy.offload_optimizer, strategy.offload_params) == ("cpu", "cpu")
    assert strategy.cpu_ram_efficient_loading
    assert strategy.engine_options == {}


def test_fp8_is_refused_by_the_name_of_its_engine(fixtures: Path) -> None:
    found = problem(f"strategy.accelerate_config={fixtures}/accelerate_fp8_0_34_0.yaml")
    assert "accelerate_fp8_0_34_0.yaml:18 (mixed_precision)" in found
    assert "fp8" in found
    assert "TE (transformer_engine)" in found


def test_ipex_is_refused_with_the_reason(fixtures: Path) -> None:
    found = problems(f"strategy.accelerate_config={fixtures}/accelerate_mpi_0_28_0.yaml")
    assert any("(ipex_config.ipex): Accelerate 1.15 has removed IPEX" in text for text in found)


def test_missing_deepspeed_file_names_both_files_and_the_way_out(fixtures: Path) -> None:
    found = problem(f"strategy.accelerate_config={fixtures}/accelerate_zero2_file.yaml")
    assert "accelerate_zero2_file.yaml:3 (deepspeed_config.deepspeed_config_file)" in found
    assert "'/path/to/zero2_config_accelerate.json' does not exist" in found
    assert "strategy.deepspeed_config=FILE.json" in found
