"""An Accelerate YAML file read into recipe keys, with the DeepSpeed file that it may name."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.interop.accelerate_keys import (
    DEEPSPEED,
    DYNAMO,
    FP8,
    FP8_ALIASES,
    IPEX,
    MPIRUN,
    TENSOR_PARALLEL,
    TOP,
)
from galley.interop.deepspeed import DEVICES, read_deepspeed, take_grad_clip, take_stage
from galley.interop.document import Document, read_yaml
from galley.interop.fsdp import read_fsdp, read_parallelism, read_replicas
from galley.interop.reading import Block, Reading, is_off
from galley.interop.values import boolean, choice, integer, mapping, text

NO_ENGINES = {
    **dict.fromkeys(("TPU", "XLA"), "TPUs are not supported"),
    "MEGATRON_LM": "Megatron-LM is not an engine here: strategy=tp, pp and 3d cut a model over ranks",
    **{
        f"MULTI_{kind}": f"{name} are not supported"
        for kind, name in {
            "XPU": "Intel GPUs (xpu)", "HPU": "Gaudi accelerators", "NPU": "Ascend NPUs", "MLU": "MLUs",
            "MUSA": "MUSA GPUs", "SDAA": "SDAA accelerators", "NEURON": "Neuron accelerators",
        }.items()
    },
}  # fmt: skip
"""`distributed_type` -> why nothing else of such a file is read."""
PRECISIONS = {"no": "fp32", "false": "fp32", "fp16": "fp16", "bf16": "bf16", "fp8": "fp8"}
"""YAML reads an unquoted `no` as false."""
TYPES = ("NO", "MULTI_CPU", "MULTI_GPU", "DEEPSPEED", "FSDP", "TP")
OF_GPUS = ("MULTI_GPU", "DEEPSPEED", "FSDP", "TP")
DEFAULT_PORT = 29500  # where Accelerate's processes meet
FP8_ENGINES = {"TE": "transformer_engine", "MSAMP": "msamp", "AO": "torchao"}


def read_accelerate(path: Path, named_by: str, deepspeed_config: Path | None = None) -> list[Reading]:
    """What the file sets, and what the DeepSpeed file sets that goes with it.

    `deepspeed_config` says where that file is, whatever the YAML says. Raises `ConfigError` where a
    file cannot be read.
    """
    document = read_yaml(path, named_by)
    reading = Reading(document)
    if str(document.data.get("compute_environment", "LOCAL_MACHINE")) != "LOCAL_MACHINE":
        what = "is not supported: SageMaker runs jobs of its own"
        reading.refuse("compute_environment", what, "LOCAL_MACHINE")
        return [reading]
    why = NO_ENGINES.get(str(document.data.get("distributed_type")).upper())
    if why is not None:
        reading.refuse("distributed_type", why, f"valid: {', '.join(TYPES)}")
        return [reading]
    top = Block(reading, "", document.data, TOP)
    kind = _distributed_type(top)
    _read_processes(top, kind)
    _read_precision(top)
    _read_launch(top)
    _read_compile(top)
    readings = [reading]
    if kind == "DEEPSPEED":
        readings += _read_deepspeed(top, document, deepspeed_config)
        read_replicas(top)
    elif kind == "FSDP":
        read_fsdp(top)
        read_parallelism(top)
    elif kind is not None:
        reading.take("strategy.engine", "torch", "distributed_type")
        reading.take("strategy.data_parallel", kind != "NO", "distributed_type")
        reading.take("strategy.shard", "none", "distributed_type")
        read_replicas(top)
        top.block("tp_config", TENSOR_PARALLEL).take("tp_size", "strategy.tensor_parallel", integer)
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
    top.reading.refuse("distributed_type", f"{found} is not supported", f"valid: {', '.join(TYPES)}")
    return None


def _refuse_idle(top: Block, kind: str | None) -> None:
    """Accelerate does not read the block of another type; whoever wrote it expected something."""
    for name, owners in (
        ("deepspeed_config", ("DEEPSPEED",)),
        ("fsdp_config", ("FSDP",)),
        ("parallelism_config", ("FSDP", "DEEPSPEED", "MULTI_GPU", "MULTI_CPU", "TP")),
        ("tp_config", ("TP", "MULTI_GPU")),
    ):
        if kind not in (None, *owners) and not is_off(top.read(name, mapping)):
            what = f"is not used: distributed_type is {kind}"
            top.reading.refuse(name, what, f"distributed_type: {owners[0]}")


def _read_processes(top: Block, kind: str | None) -> None:
    """Accelerate counts the processes of all machines together."""
    machines = top.take("num_machines", "cluster.nodes", integer) or 1
    processes = top.read("num_processes", integer)
    _read_device(top, kind)
    if machines > 1:
        _read_rendezvous(top)
    if processes in (None, -1):
        return
    each, rest = divmod(processes, machines)
    if rest or each < 1:
        what = f"num_processes {processes} is not a multiple of num_machines {machines}"
        top.reading.refuse("num_processes", what)
    else:
        top.reading.take("cluster.procs_per_node", each, "num_processes")


def _read_device(top: Block, kind: str | None) -> None:
    """A file of GPUs means GPUs also where it is read on a machine without one."""
    if kind == "MULTI_CPU":
        top.reading.take("cluster.device", "cpu", "distributed_type")
    elif kind == "MULTI_GPU":
        top.reading.take("cluster.device", "cuda", "distributed_type")
    cpu = top.read("use_cpu", boolean)
    if cpu or (cpu is False and kind in OF_GPUS):
        top.reading.take("cluster.device", "cpu" if cpu else "cuda", "use_cpu")


def _read_rendezvous(top: Block) -> None:
    """Where the machines meet under `launcher=local`; alone, a machine needs no such place."""
    host, port = top.read("main_process_ip", text), top.read("main_process_port", integer)
    if host is not None:
        place = f"{host}:{port or DEFAULT_PORT}"
        top.reading.take("launcher.torchrun.rendezvous", place, "main_process_ip")
        top.take("rdzv_backend", "launcher.torchrun.backend", choice({"static": "static", "c10d": "c10d"}))


def _read_compile(top: Block) -> None:
    """NO asks for nothing: the recipe may compile."""
    block = top.block("dynamo_config", DYNAMO)
    for part in (top, block):
        backend = part.read("dynamo_backend", lambda value: "NO" if value is False else text(value))
        if backend is not None and backend.upper() == "INDUCTOR":
            top.reading.take("train.compile", True, part.name("dynamo_backend"))
        elif backend is not None and backend.upper() != "NO":
            what = f"{backend} is not supported: models are compiled by inductor"
            top.reading.refuse(part.name("dynamo_backend"), what, "valid: NO, INDUCTOR")


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
    file = mpirun.read("mpirun_hostfile", text)
    if file is not None:
        name = mpirun.name("mpirun_hostfile")
        top.reading.take("launcher.kind", "mpi", name)
        _read_hosts(top.reading, file, name)
    mpirun.take("mpirun_ccl", "launcher.env.CCL_WORKER_COUNT", str)
    top.block("ipex_config", IPEX)


def _read_hosts(reading: Reading, file: str, name: str) -> None:
    """An mpirun hostfile stays the file that it is: its slots and ranges count, too."""
    try:
        Path(file).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        hint = "name the hosts in its place: launcher=mpi 'launcher.mpi.hosts=[HOST1,HOST2]', without the key"
        reading.refuse(name, f"'{file}' cannot be read here", hint)
        return
    reading.take("launcher.mpi.hostfile", file, name)


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
