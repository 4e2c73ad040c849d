"""An Accelerate YAML file read into recipe keys, with the DeepSpeed file that it may name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.interop.accelerate_keys import DEEPSPEED, DYNAMO, FP8, FP8_ALIASES, IPEX, MPIRUN, TOP
from galley.interop.deepspeed import DEVICES, read_deepspeed, take_grad_clip, take_stage
from galley.interop.document import Document, read_yaml
from galley.interop.fsdp import read_fsdp, read_parallelism
from galley.interop.reading import Block, Reading
from galley.interop.values import boolean, choice, integer, mapping, text

PRECISIONS = {"no": "fp32", "false": "fp32", "fp16": "fp16", "bf16": "bf16", "fp8": "fp8"}
"""YAML reads an unquoted `no` as false."""
TYPES = ("NO", "MULTI_CPU", "MULTI_GPU", "DEEPSPEED", "FSDP")
FP8_ENGINES = {"TE": "transformer_engine", "MSAMP": "msamp", "AO": "torchao"}


def read_accelerate(path: Path, named_by: str, deepspeed_config: Path | None = None) -> list[Reading]:
    """What the file sets, and what the DeepSpeed file sets that goes with it.

    `deepspeed_config` says where that file is, whatever the YAML says. Raises `ConfigError` where a
    file cannot be read.
    """
    document = read_yaml(path, named_by)
    reading = Reading(document)
    if str(document.data.get("compute_environment", "LOCAL_MACHINE")) != "LOCAL_MACHINE":
        reading.refuse(
            "compute_environment", "is not supported: SageMaker runs jobs of its own", "LOCAL_MACHINE"
        )
        return [reading]
    top = Block(reading, "", document.data, TOP)
    kind = _distributed_type(top)
    _read_processes(top, kind)
    _read_precision(top)
    _read_launch(top)
    readings = [reading]
    if kind == "DEEPSPEED":
        readings += _read_deepspeed(top, document, deepspeed_config)
    elif kind == "FSDP":
        read_fsdp(top)
        read_parallelism(top)
    elif kind is not None:
        reading.take("strategy.engine", "torch", "distributed_type")
        reading.take("strategy.data_parallel", kind != "NO", "distributed_type")
        reading.take("strategy.shard", "none", "distributed_type")
    _refuse_idle(top, kind)
    reading.close()
    return readings


def _distributed_type(top: Block) -> str | None:
    if not top.has("distributed_type"):
        top.reading.refuse("distributed_type", "is missing", f"valid: {', '.join(TYPES)}")
        return None
    found = str(top.read("distributed_type", lambda value: "NO" if value is False else text(value)))
    if found.upper() in TYPES:
        return found.upper()
    what = "TPUs are not supported" if found.upper() in ("TPU", "XLA") else f"{found} is not supported"
    top.reading.refuse("distributed_type", what, f"valid: {', '.join(TYPES)}")
    return None


def _refuse_idle(top: Block, kind: str | None) -> None:
    """Accelerate does not read the block of another type; whoever wrote it expected something."""
    for name, owner in (
        ("deepspeed_config", "DEEPSPEED"),
        ("fsdp_config", "FSDP"),
        ("parallelism_config", "FSDP"),
    ):
        if kind not in (None, owner) and top.read(name, mapping):
            top.reading.refuse(name, f"is not used: distributed_type is {kind}", f"distributed_type: {owner}")


def _read_processes(top: Block, kind: str | None) -> None:
    """Accelerate counts the processes of all machines together."""
    machines = top.take("num_machines", "cluster.nodes", integer) or 1
    processes = top.read("num_processes", integer)
    if kind == "MULTI_CPU":
        top.reading.take("cluster.device", "cpu", "distributed_type")
    if top.read("use_cpu", boolean):
        top.reading.take("cluster.device", "cpu", "use_cpu")
    if processes in (None, -1):
        return
    each, rest = divmod(processes, machines)
    if rest or each < 1:
        what = f"num_processes {processes} is not a multiple of num_machines {machines}"
        top.reading.refuse("num_processes", what)
    else:
        top.reading.take("cluster.procs_per_node", each, "num_processes")


def _read_precision(top: Block) -> None:
    precision = top.read("mixed_precision", choice(PRECISIONS))
    if top.read("fp16", boolean):
        top.reading.take("precision.compute", "fp16", "fp16")
    fp8 = top.block("fp8_config", FP8, FP8_ALIASES)
    if precision == "fp8":
        backend = str(fp8.read("backend", text) or "TE").upper()
        engine = FP8_ENGINES.get(backend, backend)
        missing = "is not installed" if find_spec(engine) is None else "is not used by any engine here"
        what = f"fp8 cannot be computed: its backend {backend} ({engine}) {missing}"
        top.reading.refuse("mixed_precision", what, "valid: no, bf16, fp16")
    elif precision is not None:
        top.reading.take("precision.compute", precision, "mixed_precision")


def _read_launch(top: Block) -> None:
    gpus = top.read("gpu_ids", str)
    if gpus is not None and gpus != "all":
        top.reading.take("launcher.env.CUDA_VISIBLE_DEVICES", gpus, "gpu_ids")
    mpirun = top.block("mpirun_config", MPIRUN)
    if mpirun.has("mpirun_hostfile"):
        top.reading.take("launcher.kind", "mpi", mpirun.name("mpirun_hostfile"))
    mpirun.take("mpirun_hostfile", "launcher.hostfile", text)
    mpirun.take("mpirun_ccl", "launcher.env.CCL_WORKER_COUNT", str)
    top.block("ipex_config", IPEX)
    top.block("dynamo_config", DYNAMO)


def _read_deepspeed(top: Block, document: Document, given: Path | None) -> list[Reading]:
    block = top.block("deepspeed_config", DEEPSPEED)
    path = block.read("deepspeed_config_file", text)
    readings = []
    if path is not None or given is not None:
        readings.append(_read_file(block, document, path, given))
    if not readings or block.has("zero_stage"):
        take_stage(block, "zero_stage")
    block.take("gradient_accumulation_steps", "batch.accumulation", integer)
    take_grad_clip(block, "gradient_clipping")
    _read_offload(block)
    block.read("zero3_save_16bit_model", boolean)  # the final model is always gathered
    shard = next((found for r in (*readings, top.reading) if (found := r.value("strategy.shard"))), None)
    loading = block.read("zero3_init_flag", boolean)
    if loading and shard not in (None, "params"):
        what = "only stage 3 can partition a model while it is loaded"
        top.reading.refuse(block.name("zero3_init_flag"), what, "set it to false")
    elif loading is not None:
        top.reading.take("strategy.cpu_ram_efficient_loading", loading, block.name("zero3_init_flag"))
    return readings


def _read_file(block: Block, document: Document, path: str | None, given: Path | None) -> Reading:
    """The path is relative to the YAML, unless the recipe says where the file is."""
    if given is not None:
        return read_deepspeed(given, "strategy.deepspeed_config")
    file = document.path.parent / Path(str(path)).expanduser()
    where = document.where(block.name("deepspeed_config_file"))
    if not file.is_file():
        hint = "say where it is: strategy.deepspeed_config=FILE.json"
        raise ConfigError(Problem(where, f"'{file}' does not exist", hint))
    return read_deepspeed(file, where)


def _read_offload(block: Block) -> None:
    for kind, key in (("optimizer", "strategy.offload_optimizer"), ("param", "strategy.offload_params")):
        device = block.take(f"offload_{kind}_device", key, choice(DEVICES))
        path = block.read(f"offload_{kind}_nvme_path", text)
        if device == "nvme" and path in (None, "none"):
            what = f"is nvme, but there is no offload_{kind}_nvme_path"
            block.reading.refuse(block.name(f"offload_{kind}_device"), what)
        elif device == "nvme":
            block.reading.take("strategy.offload_nvme_path", path, block.name(f"offload_{kind}_nvme_path"))
