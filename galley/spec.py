"""The values that travel from stage to stage. Frozen, with a JSON round trip (`to_json`, `from_json`).

Recipe ──seal──> RunSpec ──plan(RunSpec, ClusterFacts)──> LaunchPlan ──submit──> RunHandle
and, written by the run itself: Progress while it lives, RunResult at its end
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

from galley.schema import Batch, Dtype, Recipe

T = TypeVar("T")

State = Literal["queued", "running", "succeeded", "failed", "cancelled", "preempted", "unknown"]
Device = Literal["cpu", "cuda"]
Backend = Literal["none", "gloo", "nccl", "ccl", "mpi", "probe"]
MpiFlavor = Literal["openmpi", "mpich", "intel"]
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled", "preempted"})
FailureClass = Literal[
    "configuration", "data", "checkpoint", "oom", "nan", "disk_full", "hang", "node", "preempted", "user"
]


@dataclass(frozen=True)
class MpiFacts:
    """An mpirun. `program` is the path by which it is called."""

    flavor: MpiFlavor
    program: str
    version: str


@dataclass(frozen=True, order=True)
class Core:
    """A physical core.

    Attributes:
        package: the socket.
        cpu: the number by which the kernel knows its first hardware thread.
        node: NUMA node of its memory.
    """

    package: int
    cpu: int
    node: int = 0


@dataclass(frozen=True)
class ClusterFacts:
    """What the machine that runs the ranks is like; probed once, then passed as an argument.

    Attributes:
        gpus: CUDA devices that may be used, after `CUDA_VISIBLE_DEVICES`.
        gpu_memory_gib: of the smallest of them; 0 without one.
        bf16: whether all of them compute in bf16; false where it is not known.
        physical_cores: cores, not hardware threads, that this process may use.
        avoid: nodes on which an earlier attempt of the run failed.
        after: the scheduler's id of the job that must succeed first.
        mpi: the mpirun that was found.
        hosts: those that mpirun starts ranks on, one for each node; empty is this machine.
        node: number of this machine among those of the run; 0 is where it was started.
        address: of this machine, for those.
        save_s: seconds of the longest save of an earlier attempt; 0 where none is known.
        declared: the nodes are what the recipe says of them; nothing of them was probed.
        libaio: whether DeepSpeed can read and write an NVMe drive.
        libraries: paths of those that `cluster.preload` knows by name.
        preloaded: paths of what this process itself was preloaded with.
        cores: its physical cores, those that this process may use; empty if not probed.
        instructions: those of its CPUs for half precision (`amx_bf16`), by the kernel's names.
        half_cost: time of `bf16` and `fp16` on its CPUs in units of fp32's; empty if not measured.
    """

    hostname: str
    gpus: int
    gpu_memory_gib: float
    physical_cores: int
    memory_gib: float
    avoid: tuple[str, ...] = ()
    after: str | None = None
    mpi: MpiFacts | None = None
    hosts: tuple[str, ...] = ()
    node: int = 0
    address: str = ""
    save_s: float = 0.0
    bf16: bool = False
    declared: bool = False
    libaio: bool = False
    libraries: tuple[str, ...] = ()
    preloaded: tuple[str, ...] = ()
    cores: tuple[Core, ...] = ()
    instructions: tuple[str, ...] = ()
    half_cost: dict[Dtype, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """How the recipe lies on the machine. `global_size = micro_size × accumulation × data_parallel`.

    Attributes:
        model_parallel: ranks that hold one copy of the model together (TP × PP).
        backend: of the process group; `none` for one process; `probe` is settled by the ranks.
        threads_per_proc: OpenMP threads a rank.
        ccl_workers: further threads of oneCCL a rank.
        precision: what `precision.compute` is on these devices.
        preload: paths of the libraries that ranks load before all others.
    """

    nodes: int
    procs_per_node: int
    world_size: int
    device: Device
    backend: Backend
    threads_per_proc: int
    global_size: int
    micro_size: int
    accumulation: int
    ccl_workers: int = 0
    precision: Dtype = "fp32"
    preload: tuple[str, ...] = ()
    model_parallel: int = 1

    @property
    def data_parallel(self) -> int:
        """Copies of the model, each of which sees other samples."""
        return self.world_size // self.model_parallel


@dataclass(frozen=True)
class CodeSnapshot:
    """The code that runs: a copy of the working tree, uncommitted changes included.

    Attributes:
        sha256: of the sorted list of (path, sha256 of the content).
        commit: the commit it started from; null outside a git checkout.
        dirty: whether the tree differed from that commit.
    """

    sha256: str
    commit: str | None
    dirty: bool


@dataclass(frozen=True)
class RunSpec:
    """The sealed run: all that decides its result. Named by the sha256 of its JSON."""

    recipe: Recipe
    layout: Layout
    code: CodeSnapshot
    packages: dict[str, str]
    python: str
    version: int = 1

    @property
    def sha256(self) -> str:
        return hashlib.sha256(to_json(self.sealed).encode()).hexdigest()

    @property
    def sealed(self) -> RunSpec:
        """What run.json holds."""
        return self


@dataclass(frozen=True)
class MovedSpec(RunSpec):
    """A sealed run on another layout, for one attempt. Its name stays that of what was sealed."""

    origin: RunSpec = field(kw_only=True)

    @property
    def sealed(self) -> RunSpec:
        return self.origin

    @classmethod
    def of(cls, sealed: RunSpec, layout: Layout, recipe: Recipe | None = None) -> MovedSpec:
        """`recipe` differs from the sealed one in `cluster`, or in where an upload lies, only."""
        return cls(
            recipe=recipe or sealed.recipe,
            layout=layout,
            code=sealed.code,
            packages=sealed.packages,
            python=sealed.python,
            version=sealed.version,
            origin=sealed,
        )


@dataclass(frozen=True)
class LaunchPlan:
    """Exactly what submitting will do.

    Attributes:
        argv: the command, one element an argument; never a shell line.
        env: variables added to the environment of the command.
        forward_env: names of variables that are passed on where they are set.
        files: text by path relative to the run folder's `plan/`.
        attempt: counts from 1.
        layout: of this attempt, where it is not the sealed one.
    """

    launcher: str
    argv: tuple[str, ...]
    env: dict[str, str]
    forward_env: tuple[str, ...] = ()
    files: dict[str, str] = field(default_factory=dict)
    attempt: int = 1
    layout: Layout | None = None


@dataclass(frozen=True)
class RunHandle:
    """How a submitted attempt is found again from another process (`launch.json`).

    Attributes:
        attempt: counts from 1; `resume` adds one.
        job: what the launcher knows it by: the process id, the job id.
        host: where the job was submitted.
        started_at: Unix time of submission, in seconds.
        process_started_at: start time of the process `job` names, to tell it from a later
            process of the same id; null where `job` is not a process.
        layout: of this attempt, where it is not the sealed one.
    """

    launcher: str
    attempt: int
    job: str
    host: str
    started_at: float
    process_started_at: float | None = None
    layout: Layout | None = None


@dataclass(frozen=True)
class Progress:
    """Where a living run is (`progress.json`, replaced by the main rank at every change).

    Attributes:
        phase: `starting`, `data`, `model`, `train`, `eval`, `save`, `done`.
        step, max_steps: optimizer steps; 0 before they are known.
        time: Unix time of this message, in seconds.
    """

    phase: str
    step: int
    max_steps: int
    attempt: int
    time: float


@dataclass(frozen=True)
class DataRecord:
    """The data that a run has read (`data.json`), written by its main rank before the first step.

    Attributes:
        fingerprint: of the prepared training samples: equal content, equal value.
        files: sha256 by path, where the data are files of this machine.
    """

    fingerprint: str
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MemoryLimit:
    """What a step has taught about memory (`memory.json`): the most samples a rank holds at once."""

    micro_size: int


@dataclass(frozen=True)
class RankError:
    """Why one rank ended (`logs/attempt-N/rank-R.error.json`); the earliest is the run's cause."""

    rank: int
    time: float
    failure_class: FailureClass
    message: str
    traceback: str


@dataclass(frozen=True)
class Engaged:
    """What really carried the run, read off the live objects, not off the request.

    Attributes:
        engine: class that wrapped the model.
        backend_reason: who provides the backend, and why others were passed over; empty where the
            device leaves no choice.
        precision, reduce_dtype, master_dtype: formats in which the layers compute (empty where the model
            has none that can be watched), of the sum of gradients over the ranks, and of the weights that
            the optimizer updates.
        compiled_graphs: of `train.compile`, on the main rank.
        num_parameters: elements of the whole model, counted on the model itself; adapters included.
        elements_per_rank: for `params`, `grads` and `optimizer`, elements each rank holds,
            indexed by rank.
    """

    strategy: str
    engine: str
    backend: str
    precision: str
    elements_per_rank: dict[str, list[int]]
    backend_reason: str = ""
    reduce_dtype: str = ""
    master_dtype: str = ""
    compiled_graphs: int = 0
    num_parameters: int | None = None


@dataclass(frozen=True)
class RunResult:
    """How a run ended (`result.json`). Absent values are null, never guessed.

    Attributes:
        metrics: last evaluation (`eval/…`) and last training loss (`train/loss`).
        wall_s: from the first line of the worker to the last; train_s: the loop without
            evaluation and saving.
        samples_per_s, tokens_per_s: of training; of the evaluation where nothing is trained.
        latency_s: of one evaluation batch on the slowest rank, from its collation to its predictions.
        best_step: whose weights are in model/ and whose evaluation is in `metrics`, with
            `checkpoint.keep_best`; null: those are the last.
        resumed_from: name of the checkpoint that this attempt started from.
        batch: how the global batch was split at the end; other than sealed where the attempt had
            other ranks, or where memory ran out.
    """

    state: State
    exit_code: int
    message: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    epochs: float = 0.0
    wall_s: float = 0.0
    train_s: float = 0.0
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    latency_s: float | None = None
    peak_memory_gib: float | None = None
    world_size: int = 0
    attempts: int = 1
    best_step: int | None = None
    resumed_from: str | None = None
    engaged: Engaged | None = None
    first_failed_rank: int | None = None
    failure_class: FailureClass | None = None
    batch: Batch | None = None


_ADAPTERS: dict[type[Any], TypeAdapter[Any]] = {}


def adapter(kind: type[T]) -> TypeAdapter[T]:
    """The validator of a dataclass, made once: building one takes tens of milliseconds."""
    if kind not in _ADAPTERS:
        _ADAPTERS[kind] = TypeAdapter(kind)
    return _ADAPTERS[kind]


def to_json(value: Any) -> str:
    """Canonical JSON: sorted keys, two spaces, a final newline. Equal values, equal bytes."""
    return json.dumps(asdict(value), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def compact_json(value: Any) -> str:
    """As `to_json`, in one line: for the environment of a process."""
    return json.dumps(asdict(value), sort_keys=True, separators=(",", ":"))


def from_json(kind: type[T], text: str | bytes) -> T:
    """The inverse of `to_json`; raises `pydantic.ValidationError` on any other text."""
    return adapter(kind).validate_json(text)
