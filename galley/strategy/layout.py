"""A recipe on a machine: device, ranks, and the split of the global batch.

Pure, but for a look whether files are there that the recipe names by their paths.
"""

from __future__ import annotations

from collections.abc import Iterator

from galley.counting import counted
from galley.errors import ConfigError, Problem
from galley.schema import Batch, Dtype, Recipe
from galley.spec import Backend, ClusterFacts, Device, Layout
from galley.strategy.parallel_dims import check_axes, check_chunks, with_chunks
from galley.system.half_precision import WORTH_IT, cost_text, has_instructions
from galley.system.nvme import drive_problems
from galley.system.pinning import core_problem, environment_problem
from galley.system.preload import preload_problems, resolve_preload

_CORES_FOR_A_WORKER = 4


def resolve_layout(recipe: Recipe, facts: ClusterFacts) -> Layout:
    """The layout of `recipe` on the machine that `facts` describe.

    Raises `ConfigError` when the device is missing or when
    `global_size = micro_size × accumulation × ranks` has no solution.
    """
    _refuse_missing(recipe, facts)
    if recipe.cluster.device == "cuda" and facts.gpus == 0:
        hint = "cluster.device=auto uses the CPU here"
        raise ConfigError(Problem("cluster.device", f"no CUDA device on {facts.hostname}", hint))
    device = _device(recipe, facts)
    procs = _procs_per_node(recipe, facts.gpus if device == "cuda" else facts.physical_cores)
    if device == "cuda" and procs > facts.gpus:
        what = f"{procs} ranks, but {facts.hostname} has {facts.gpus} GPUs"
        raise ConfigError(Problem("cluster.procs_per_node", what, "at most one rank a GPU"))
    world = procs * recipe.cluster.nodes
    check_groups(recipe, procs, world)
    replicas = world // recipe.strategy.model_parallel
    global_size, micro, accumulation = split_batch(with_chunks(recipe, replicas), replicas)
    check_chunks(recipe.strategy, accumulation)
    workers = _ccl_workers(recipe, device, procs, facts.physical_cores)
    return Layout(
        nodes=recipe.cluster.nodes,
        procs_per_node=procs,
        world_size=world,
        device=device,
        backend=resolve_backend(recipe, device, world),
        threads_per_proc=recipe.cluster.threads_per_proc or max(1, facts.physical_cores // procs - workers),
        global_size=global_size,
        micro_size=micro,
        accumulation=accumulation,
        ccl_workers=workers,
        precision=compute_format(recipe, facts),
        preload=resolve_preload(recipe.cluster.preload, facts),
        model_parallel=recipe.strategy.model_parallel,
    )


def compute_format(recipe: Recipe, facts: ClusterFacts) -> Dtype:
    """`precision.compute` with `auto` settled by the devices that the recipe uses."""
    if recipe.precision.compute != "auto":
        return recipe.precision.compute
    if _device(recipe, facts) == "cuda":
        return "bf16" if facts.bf16 else "fp32"
    known = has_instructions("bf16", facts.instructions)
    return "bf16" if known and facts.half_cost.get("bf16", 0.0) < WORTH_IT else "fp32"


def _device(recipe: Recipe, facts: ClusterFacts) -> Device:
    return "cuda" if facts.gpus and recipe.cluster.device != "cpu" else "cpu"


def _refuse_missing(recipe: Recipe, facts: ClusterFacts) -> None:
    """Raises `ConfigError` for a drive or a library that is not here; nodes elsewhere find out themselves."""
    problems = [] if facts.declared else list(drive_problems(recipe.strategy, facts.libaio))
    problems += preload_problems(recipe.cluster.preload, facts)
    if problems:
        raise ConfigError(problems)


def resolve_backend(recipe: Recipe, device: Device, world: int) -> Backend:
    """Raises `ConfigError` for a backend that does not carry the device."""
    wanted = recipe.strategy.backend
    if wanted != "auto" and (wanted == "nccl") != (device == "cuda"):
        valid = "nccl" if device == "cuda" else "gloo, ccl, mpi, probe"
        hint = f"valid: auto, {valid}; or another cluster.device"
        raise ConfigError(Problem("strategy.backend", f"'{wanted}' does not carry ranks on {device}", hint))
    if world == 1:
        return "none"
    return ("nccl" if device == "cuda" else "gloo") if wanted == "auto" else wanted


def _ccl_workers(recipe: Recipe, device: Device, procs: int, cores: int) -> int:
    """oneCCL's threads a rank. Raises `ConfigError` where they and OpenMP's need more than the cores.

    Ranks that merely take turns, without threads or workers being asked for, are only warned about.
    """
    workers, threads = recipe.strategy.ccl_workers, recipe.cluster.threads_per_proc
    if device == "cuda" or recipe.strategy.backend not in ("ccl", "probe"):
        unbound = recipe.strategy.pin_cores and device == "cpu" and core_problem(cores, procs, 0, threads)
        if threads and unbound:
            raise ConfigError(unbound)
        return 0
    asked = bool(workers or threads)
    if workers is None:
        workers = 1 if cores // procs >= _CORES_FOR_A_WORKER else 0
    problem = core_problem(cores, procs, workers, threads) if asked else None
    problem = problem or environment_problem(recipe.launcher.env, procs, cores)
    if problem is not None:
        raise ConfigError(problem)
    return workers


def declared_facts(recipe: Recipe) -> ClusterFacts:
    """The nodes as `cluster.*` describes them, for launchers whose nodes are not this machine.

    Where nothing says how many ranks a node has, it is one (`layout_warnings` tells). Memory that is
    not stated is 0: unknown. Raises `ConfigError` where the GPUs of a node follow from nothing.
    """
    cluster, kind = recipe.cluster, recipe.launcher.kind
    gpus = cluster.gpus_per_node
    if gpus is None:
        gpus = (cluster.procs_per_node or 0) if cluster.device == "cuda" else 0
    if cluster.device == "cuda" and not gpus:
        what = f"launcher={kind} runs on nodes whose GPUs cannot be counted from here"
        hint = "set cluster.procs_per_node=N (ranks a node), or cluster.gpus_per_node=N"
        raise ConfigError(Problem("cluster.procs_per_node", what, hint))
    stated = cluster.procs_per_node or (gpus if recipe.strategy.data_parallel else 1)
    procs = stated or cluster.max_procs_per_node or 1
    threads = cluster.threads_per_proc or 1
    return ClusterFacts(
        hostname=f"a node of launcher={kind}",
        gpus=gpus,
        gpu_memory_gib=cluster.gpu_memory_gib or 0.0,
        physical_cores=cluster.cpus_per_node or (procs * threads if stated else procs),
        memory_gib=cluster.memory_gib_per_node or 0.0,
        declared=True,
    )


def layout_problems(recipe: Recipe, facts: ClusterFacts) -> list[Problem]:
    """Why `recipe` cannot be laid out; empty where it can."""
    try:
        resolve_layout(recipe, facts)
    except ConfigError as error:
        return list(error.problems)
    return []


def check_groups(recipe: Recipe, procs_per_node: int, world_size: int) -> None:
    """HSDP replicates between groups of ranks: without two whole groups it would be another strategy.

    Tensor and pipeline parallel ranks are whole copies of the model; those of one matrix share a node.
    """
    check_axes(recipe.strategy, procs_per_node, world_size)
    if not recipe.strategy.hybrid:
        return
    size = recipe.strategy.hybrid_shard_size or procs_per_node
    if world_size % size or world_size // size < 2:
        what = f"{world_size} ranks = groups × {size} ranks has no solution with two groups or more"
        hint = "set strategy.hybrid_shard_size to a divisor of the ranks, or choose strategy=fsdp"
        raise ConfigError(Problem("strategy.hybrid_shard_size", what, hint))


def _procs_per_node(recipe: Recipe, devices: int) -> int:
    if not recipe.strategy.data_parallel:
        return 1
    if recipe.cluster.procs_per_node is not None:
        return recipe.cluster.procs_per_node
    return min(devices, recipe.cluster.max_procs_per_node or devices)


def split_batch(batch: Batch, world_size: int) -> tuple[int, int, int]:
    """(global_size, micro_size, accumulation) with the missing ones derived.

    A micro-batch that is not given is as large as it can be: accumulation 1. Raises `ConfigError`
    where no whole numbers fit.
    """
    micro, accumulation = batch.micro_size, batch.accumulation
    if batch.global_size is None:
        micro, accumulation = micro or 1, accumulation or 1
        return micro * accumulation * world_size, micro, accumulation
    given = (micro or 1) * (accumulation or 1) * world_size
    rest, remainder = divmod(batch.global_size, given)
    if remainder or (micro and accumulation and rest != 1):
        raise ConfigError(_batch_problem(batch, batch.global_size, world_size))
    if micro is None:
        return batch.global_size, rest, accumulation or 1
    return batch.global_size, micro, accumulation or rest


def _batch_problem(batch: Batch, global_size: int, world_size: int) -> Problem:
    micro, accumulation = batch.micro_size, batch.accumulation
    equation = (
        f"global_size {global_size} = micro_size {micro or '?'} × accumulation {accumulation or '?'}"
        f" × {world_size} ranks has no whole solution"
    )
    step = (micro or 1) * (accumulation or 1) * world_size
    if micro and accumulation:
        return Problem("batch.global_size", equation, f"these parts give global_size {step}")
    below = global_size // step * step
    near = [str(size) for size in (below, below + step) if size]
    return Problem("batch.global_size", equation, f"nearest sizes that work: {', '.join(near)}")


def layout_warnings(recipe: Recipe, layout: Layout, facts: ClusterFacts) -> list[str]:
    """What will work, but not as the user probably hopes."""
    found = []
    cluster = recipe.cluster
    stated = cluster.procs_per_node or cluster.gpus_per_node or cluster.cpus_per_node
    if facts.declared and not stated and recipe.strategy.data_parallel:
        ranks = counted(layout.procs_per_node, "rank")
        found.append(
            f"{ranks} a node, on CPUs: the nodes cannot be counted from here; "
            "set cluster.procs_per_node or cluster.gpus_per_node"
        )
    if layout.device == "cpu" and layout.procs_per_node * layout.threads_per_proc > facts.physical_cores:
        found.append(
            f"procs_per_node {layout.procs_per_node} × threads_per_proc {layout.threads_per_proc}"
            f" > {facts.physical_cores} physical cores: the ranks will take turns"
        )
    if layout.device == "cpu":
        found += format_warnings(recipe, facts)
    if layout.device == "cuda" and recipe.precision.compute == "auto" and layout.precision == "fp32":
        what = "the GPUs do not compute in bf16, or that is not known here"
        found.append(f"precision=auto is fp32: {what}; precision=bf16 or fp16 is much faster where they can")
    if recipe.checkpoint.every_steps is None and not recipe.eval.only:
        found.append("checkpoint.every_steps is null: a run that dies cannot be resumed from its middle")
    return found


def format_warnings(recipe: Recipe, facts: ClusterFacts) -> Iterator[str]:
    """Half precision on CPUs that emulate it, or may."""
    asked, compute = recipe.precision.compute, compute_format(recipe, facts)
    cost = facts.half_cost.get(compute)
    if asked in ("auto", "fp32"):
        return
    if facts.declared:
        yield (
            f"precision={asked}: whether the CPUs of the nodes have instructions for it is not known here; "
            "without, it is many times slower than fp32. `doctor` on a node measures it"
        )
    elif cost is not None and cost > 1:
        yield (
            f"{cost_text(compute, cost)} on {facts.hostname} (measured, the products of a layer): "
            "precision=auto takes what is faster"
        )
    elif cost is None and not has_instructions(compute, facts.instructions):
        yield (
            f"the CPUs of {facts.hostname} have no instructions for {compute}, which is then many times "
            "slower than fp32: precision=auto takes what is faster"
        )
