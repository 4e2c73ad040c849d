"""The recipe: every key a user may set, with its type, unit and default.

These dataclasses are the single source of names: composition, validation, `explain` and the
did-you-mean suggestions all read them. A `Recipe` is complete and checked; whatever depends on
the machine (world size, device, micro-batch) is in `galley.spec.Layout`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Dtype = Literal["fp32", "bf16", "fp16"]
OffloadDevice = Literal["none", "cpu", "nvme"]


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters beside frozen weights, through PEFT (Hu et al. 2021, arXiv:2106.09685).

    Attributes:
        r: rank of the adapters; null trains the whole model.
        alpha: an adapter's output is scaled by alpha / r, or by alpha / √r with `rank_stabilized`.
        dropout: of an adapter's input.
        target_modules: last names of the layers that get adapters (`query`), or `[all-linear]`; null
            is PEFT's own choice for the kind of model.
        modules_to_save: further modules that are trained in full and kept with the adapters. The head
            and whatever the stored model lacks are among them in any case.
        merge: the final `model/` is the whole model with the adapters added to its weights, not the
            adapters by themselves.
    """

    r: Positive | None = None
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Fraction = 0.0
    target_modules: list[str] | None = None
    modules_to_save: list[str] = field(default_factory=list)
    rank_stabilized: bool = False
    merge: bool = False


@dataclass(frozen=True)
class Shape:
    """Of the model's layers, for the memory estimate, where no local config.json tells it."""

    num_layers: Positive | None = None
    hidden_size: Positive | None = None
    num_heads: Positive | None = None
    intermediate_size: Positive | None = None


@dataclass(frozen=True)
class Model:
    """What is trained.

    Attributes:
        name: a Hugging Face repository, a folder, or `embedded:NAME` for a model that an
            installed package carries (`minilm`, `deberta_minilm`, `smollm2`).
        from_config: take only the configuration of `name`; the weights are drawn from the seed.
        architecture: a model type of Transformers (`gpt2`, `llama`, `t5`), built with its default
            configuration and weights drawn from the seed; `name` is then not read, and `tokenizer` is
            needed.
        config: values over those of the model's configuration: `{n_layer: 2}`.
        tokenizer: as `name`, where it is not the model's own; `embedded:gpt2_bpe` is GPT-2's, and
            `characters` has one token for each character of the training data.
        num_parameters: for the memory estimate, where it cannot be read from a local folder.
        ignore_mismatched_head: give the model a new head when the stored one has another
            number of labels; otherwise that is an error.
        trust_remote_code: run code from the model's repository.
        attn_implementation: passed to Transformers; null leaves the choice to it.
        dropout: every dropout probability of the model; null leaves those of its config.json.
        lora: train adapters instead of the whole model.
    """

    name: str = "embedded:minilm"
    from_config: bool = False
    architecture: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    num_parameters: Positive | None = None
    shape: Shape = field(default_factory=Shape)
    ignore_mismatched_head: bool = False
    trust_remote_code: bool = False
    attn_implementation: str | None = None
    dropout: Fraction | None = None
    lora: Lora = field(default_factory=Lora)


@dataclass(frozen=True)
class Source:
    """One of several sources of a mixture: keys as in `data`.

    Attributes:
        weight: its share of the training samples, next to the others'; of equal weights each gives as
            many. The smallest share that a source can fill decides the size of an epoch.
    """

    name: str = ""
    subset: str | None = None
    path: str | None = None
    weight: Annotated[float, Field(gt=0)] = 1.0


@dataclass(frozen=True)
class Data:
    """What it is trained on.

    Attributes:
        name: a Hugging Face dataset, or `embedded:NAME`; not read when `path` is set.
        subset: the dataset's configuration on the hub (`mrpc` of `glue`).
        train_split, eval_split: their names on the hub; null for `train`, and the first of
            `validation`, `dev`, `test`.
        hold_out: so many training samples are kept for evaluation, instead of an evaluation split.
        path: a folder with `train.*` and `dev.*` or `validation.*` (csv, tsv, json, jsonl,
            parquet, arrow, txt), or several such files a split: `train-*.jsonl`.
        mix: several sources, read instead of `name` and `path`.
        documents: what one sample of a txt file is: the whole `file`, a `line`, or a `paragraph`
            between empty lines.
        text_columns: one column, or two for sentence pairs; null to recognise them.
        label_column: null to recognise it (`label`, or GLUE's `Quality`).
        columns: the column of each thing that a task reads, by its name: `{text: content}`; what is
            not named is recognised. Classification has the two keys above.
        label_names: what the numbers of tags mean, in their order; null where the tags are text.
        max_length: tokens a sample; longer ones are truncated, or cut in pieces by the task.
        max_samples: at most so many training and evaluation samples each; null for all.
        streaming: read while training, without preparing and keeping the whole; a run then has
            `train.max_steps` instead of epochs.
        shuffle_buffer: samples that a stream holds and shuffles together.
        workers: processes that tokenise; 0 does it in the rank itself.
        cache_dir: tokenised data, keyed by content; null is `$XDG_CACHE_HOME/galley`.
    """

    name: str = "embedded:pydoc_pairs"
    subset: str | None = None
    train_split: str | None = None
    eval_split: str | None = None
    hold_out: Positive | None = None
    path: str | None = None
    mix: list[Source] = field(default_factory=list)
    documents: Literal["file", "line", "paragraph"] = "file"
    text_columns: list[str] | None = None
    label_column: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    label_names: list[str] | None = None
    max_length: Positive = 128
    max_samples: Positive | None = None
    streaming: bool = False
    shuffle_buffer: Positive = 1000
    workers: NonNegative = 0
    cache_dir: str | None = None


@dataclass(frozen=True)
class Classification:
    """What only classification of one label knows.

    Attributes:
        class_weights: factor of the loss of each class, in their order, or `balanced`: samples ÷
            (classes × samples of the class), counted in the training split.
    """

    class_weights: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = None


@dataclass(frozen=True)
class QuestionAnswering:
    """What only `question_answering` knows.

    Attributes:
        doc_stride: tokens of the context that neighboring windows of `data.max_length` share.
        max_answer_length: tokens of an answer.
        no_answer_threshold: "no answer" wins where its score is above that of the best span by more
            than this; only with data that have such questions.
    """

    doc_stride: Positive = 128
    max_answer_length: Positive = 30
    no_answer_threshold: float = 0.0


@dataclass(frozen=True)
class Contrastive:
    """What only `contrastive` knows.

    Attributes:
        scale: factor of the cosines, the inverse of the temperature.
    """

    scale: Annotated[float, Field(gt=0)] = 20.0


@dataclass(frozen=True)
class Distillation:
    """What only `distillation` knows.

    Attributes:
        teacher: the folder of a classifier that was trained on the same labels (`RUN/model`), or its
            name on the hub; it has the tokenizer of `model.name`.
        temperature: both logits are divided by it before they are compared.
        weight: share of the teacher in the loss; the rest is the labels'.
    """

    teacher: str | None = None
    temperature: Annotated[float, Field(gt=0)] = 2.0
    weight: Fraction = 0.5


@dataclass(frozen=True)
class LanguageModeling:
    """What only `causal_lm` and `masked_lm` know.

    Attributes:
        packing: join all texts and cut the whole into pieces of `data.max_length` tokens; otherwise
            a text is a sample, truncated.
        separator: put the end-of-text token behind every text.
        fim_rate: share of the texts that are rearranged for fill-in-the-middle.
        fim_spm_rate: share of those in which the suffix comes first (SPM), not the prefix (PSM).
        eval_stride: tokens between the starts of two evaluation windows of `data.max_length`; each
            token is measured once, with what came before it in its window. Null is `data.max_length`.
        mask_rate: masked_lm: share of the tokens that are to be found again.
    """

    packing: bool = True
    separator: bool = True
    fim_rate: Fraction = 0.0
    fim_spm_rate: Fraction = 0.5
    eval_stride: Positive | None = None
    mask_rate: Annotated[float, Field(gt=0, lt=1)] = 0.15


@dataclass(frozen=True)
class Seq2Seq:
    """What only `seq2seq` knows; `data.max_length` is the length of the source.

    Attributes:
        prefix: put before every source.
        max_target_length: tokens of the target, and of what is generated.
        beams: of beam search in evaluation; 1 is greedy.
        generate: whether evaluation generates and reports BLEU.
    """

    prefix: str = ""
    max_target_length: Positive = 64
    beams: Positive = 1
    generate: bool = True


@dataclass(frozen=True)
class Task:
    """What the model learns.

    Attributes:
        kind: one of those in conf/task/, or `MODULE:CLASS`, a class of your own behind the task seam
            (`trainer.tasks.base.Task`), from one of the folders in `plugins`.
        classification: read by `sequence_classification` and `distillation` only.
        qa: read by `question_answering` only.
        contrastive: read by `contrastive` only.
        distillation: read by `distillation` only.
        lm: read by `causal_lm` and `masked_lm` only.
        seq2seq: read by `seq2seq` only.
    """

    kind: str = "sequence_classification"
    classification: Classification = field(default_factory=Classification)
    qa: QuestionAnswering = field(default_factory=QuestionAnswering)
    contrastive: Contrastive = field(default_factory=Contrastive)
    distillation: Distillation = field(default_factory=Distillation)
    lm: LanguageModeling = field(default_factory=LanguageModeling)
    seq2seq: Seq2Seq = field(default_factory=Seq2Seq)


@dataclass(frozen=True)
class Strategy:
    """How parameters, gradients and optimizer state are spread over the ranks.

    A neutral description; each engine is configured from it, and outside files are read into it.

    Attributes:
        engine: what carries the run: `torch` (one process, or DDP), `deepspeed` (ZeRO) or `fsdp`
            (FSDP2).
        data_parallel: whether the ranks share one batch; without it there is one rank.
        shard: what is partitioned over the ranks: `none`, `optimizer` (ZeRO-1), `grads`
            (optimizer and gradients, ZeRO-2), `params` (all three, ZeRO-3). Under fsdp `grads`
            keeps the parameters gathered from the forward to the end of the backward.
        hybrid: fsdp: partitioned inside groups of ranks, replicated between the groups (HSDP).
        hybrid_shard_size: ranks of one such group; null is the ranks of a node.
        backend: what carries the collectives: `auto` is nccl on CUDA and gloo on CPU; `probe` is the
            first of oneCCL, MPI and gloo that the CPU ranks have; any other is taken, or an error.
        ccl_workers: oneCCL's own threads a rank, each on a core that does not compute; null is one
            where a rank has at least four cores, otherwise none.
        pin_cores: bind each CPU rank to its share of the physical cores.
        offload_optimizer: where optimizer state lives between steps.
        offload_params: where parameters live between uses. fsdp offloads both to `cpu` or none.
        offload_pin_memory: page-locked host memory for what is offloaded; without a GPU there is none.
        offload_nvme_path: folder on the NVMe drive, where a device is `nvme`.
        wrap: fsdp: what is gathered at once: `layers` (one transformer layer), `size` (modules of
            at least `wrap_min_params`), `none` (the whole model). DeepSpeed needs no such choice.
        wrap_classes: names of the layer classes; null is the model's own `_no_split_modules`.
        wrap_min_params: parameters (elements) a module has at least to be wrapped by itself.
        state_dict: how the engine's own checkpoints would hold the weights, `sharded` or `full`. Kept
            for outside files and without effect: a checkpoint here holds whole tensors, each in the
            file of one rank, for any strategy to read, and the final model is full.
        sync_module_states: the main rank's weights are sent to all before they are partitioned.
        cpu_ram_efficient_loading: only the main rank reads the weights into memory, the others
            receive their part; needs `sync_module_states`. DeepSpeed calls it zero3_init. Kept for
            outside files and without effect on results: every rank reads the weights before they are
            partitioned.
        engine_options: settings of the engine that the description has no word for, under the
            engine's own keys: for deepspeed a part of its JSON (`zero_optimization.overlap_comm`),
            for fsdp `forward_prefetch`. The engine takes them as they are, or refuses them.
        deepspeed_config: a DeepSpeed JSON file that the strategy is read from.
        accelerate_config: an Accelerate YAML file that the strategy is read from.
    """

    name: str = "ddp"
    engine: Literal["torch", "deepspeed", "fsdp"] = "torch"
    data_parallel: bool = True
    shard: Literal["none", "optimizer", "grads", "params"] = "none"
    backend: Literal["auto", "gloo", "nccl", "ccl", "mpi", "probe"] = "auto"
    ccl_workers: NonNegative | None = None
    pin_cores: bool = False
    hybrid: bool = False
    hybrid_shard_size: Positive | None = None
    offload_optimizer: OffloadDevice = "none"
    offload_params: OffloadDevice = "none"
    offload_pin_memory: bool = True
    offload_nvme_path: str | None = None
    wrap: Literal["layers", "size", "none"] = "layers"
    wrap_classes: list[str] | None = None
    wrap_min_params: Positive = 100_000_000
    state_dict: Literal["sharded", "full"] = "sharded"
    sync_module_states: bool = True
    cpu_ram_efficient_loading: bool = False
    engine_options: dict[str, Any] = field(default_factory=dict)
    deepspeed_config: str | None = None
    accelerate_config: str | None = None

    @property
    def reshard_after_forward(self) -> bool:
        """What FSDP2's `fully_shard` calls the difference between `params` and `grads`."""
        return self.shard == "params"


@dataclass(frozen=True)
class Precision:
    """Number formats. Master weights are fp32 whatever the compute format is.

    Attributes:
        compute: format of matrix products and activations. `auto` is bf16 on GPUs that have it (compute
            capability 8.0) and fp32 elsewhere; a sealed run says which.
        reduce: format in which gradients are summed over the ranks.
        initial_scale_power: fp16 starts with a loss scale of 2 to this power.
        loss_scale_window: good steps in a row after which the scale is doubled.
        hysteresis: steps with an overflow after which the scale is halved.
        min_loss_scale: an overflow at this scale fails the run; null lets it fall to 2^-14.
    """

    compute: Literal["auto", "fp32", "bf16", "fp16"] = "fp32"
    reduce: Dtype = "fp32"
    initial_scale_power: NonNegative = 16
    loss_scale_window: Positive = 2000
    hysteresis: Positive = 1
    min_loss_scale: Annotated[float, Field(gt=0)] | None = None

    @property
    def dtype(self) -> Dtype:
        """`compute` of a sealed run, where it is no longer `auto`."""
        assert self.compute != "auto", "seal() settles it"  # noqa: S101
        return self.compute


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with settings of their own; what is null is that of the other parameters.

    Attributes:
        match: a regular expression that is searched for in the parameters' names.
        lr: the peak; the schedule scales it as it scales `optim.lr`.
        weight_decay: of its matrices.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    match: str
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True)
class Optim:
    """AdamW. Bias and normalisation parameters are never decayed.

    Attributes:
        groups: `{match, lr, weight_decay}` each; a parameter belongs to the first that it matches. One
            that no trainable parameter belongs to is an error.
        layer_decay: the rate of each layer is that of the layer above it times this; embeddings lie
            below the first layer, the head above the last (Clark et al. 2020, arXiv:2003.10555). A
            group's own rate stands as it is. Null is one rate for all.
    """

    lr: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    groups: list[ParamGroup] = field(default_factory=list)
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the run. Give `warmup_steps` or `warmup_ratio`, not both.

    Attributes:
        kind: the decay after warm-up, to zero at the last step (`constant` has none).
        warmup_steps: optimizer steps of linear warm-up.
        warmup_ratio: the same as a share of all steps.
    """

    kind: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: NonNegative | None = None
    warmup_ratio: Fraction | None = None


@dataclass(frozen=True)
class Batch:
    """`global_size = micro_size × accumulation × data-parallel ranks`.

    What is null follows from the rest and from the layout.

    Attributes:
        global_size: samples an optimizer step sees.
        micro_size: samples a rank holds at once.
        accumulation: micro-batches a step.
    """

    global_size: Positive | None = None
    micro_size: Positive | None = None
    accumulation: Positive | None = None


@dataclass(frozen=True)
class Train:
    """How long, and how the loop behaves.

    Attributes:
        max_steps: optimizer steps; ends the run before `epochs` do.
        log_every_steps: optimizer steps between rows of metrics.jsonl.
        length_grouped: batches of samples of like length (a seeded shuffle of buckets).
        gradient_checkpointing: recompute activations in the backward pass.
        compile: `torch.compile` for batches of any length; under fsdp layer by layer.
    """

    epochs: Annotated[float, Field(gt=0)] = 3.0
    max_steps: Positive | None = None
    log_every_steps: Positive = 10
    length_grouped: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False


@dataclass(frozen=True)
class Eval:
    """When and how the model is measured, and when that ends the run.

    Attributes:
        only: train nothing and save no model; what `eval` sets.
        every_steps: null evaluates once, at the end.
        batch_size: samples a rank holds at once.
        metric: the metric that early stopping watches; null is the task's own first one.
        mode: whether a greater or a smaller value of it is better; null follows from the metric.
        patience: evaluations without improvement that end the run; null never does.
    """

    enabled: bool = True
    only: bool = False
    every_steps: Positive | None = None
    batch_size: Positive = 64
    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    patience: Positive | None = None


@dataclass(frozen=True)
class Checkpoint:
    """When the training state is saved.

    Attributes:
        every_steps: null saves none; the final model is written all the same.
        keep: the newest so many are kept.
        resume_from: a checkpoint's folder, or that of a run with checkpoints, from which a new run
            continues under any strategy and number of ranks; it is read, never changed. Data, seed
            and global batch must be the same. The run's own checkpoints come first once it has any.
        asynchronous: training waits for a copy in host memory only, 12 bytes a parameter shared by
            the ranks, and goes on while it is written. The files are the same either way.
    """

    every_steps: Positive | None = None
    keep: Positive = 2
    resume_from: str | None = None
    asynchronous: bool = True


@dataclass(frozen=True)
class Torchrun:
    """How torchrun's agents find each other (`launcher=local` with `cluster.nodes` > 1).

    The run is started on the first machine; on each of the others, which see the same run folder,
    `join RUN NODE` starts the ranks.

    Attributes:
        rendezvous: `HOST:PORT`, a free port of the first machine by the name that all know it by.
        backend: `c10d` numbers the machines as they come, `static` as they are numbered.
        min_nodes, max_nodes: an elastic run: it goes on with any number of machines between them, from
            its last checkpoint and with the same global batch, when others are lost or join.
            `cluster.nodes` is what it is planned for; it needs `c10d`.
        max_restarts: how often an elastic run is started again after a rank failed.
    """

    rendezvous: str | None = None
    backend: Literal["c10d", "static"] = "c10d"
    min_nodes: Positive | None = None
    max_nodes: Positive | None = None
    max_restarts: NonNegative = 3


@dataclass(frozen=True)
class Mpi:
    """What only mpirun knows (`launcher=mpi`).

    Attributes:
        flavor: `auto` takes the first that is found.
        program: the mpirun to use; null looks for one on PATH, then beside the interpreter.
        hosts: as many as `cluster.nodes`, reached by ssh; none is this machine.
        bind: what a rank may not leave: `core` is `cluster.threads_per_proc` cores of its own.
        pin_masks: CPUs of each rank of a node, in hexadecimal and in quotes (`"0x3"`), instead of `bind`.
        options: further words of mpirun's command line.
    """

    flavor: Literal["auto", "openmpi", "mpich", "intel"] = "auto"
    program: str | None = None
    hosts: list[str] = field(default_factory=list)
    bind: Literal["none", "core", "socket", "numa"] = "none"
    pin_masks: list[str] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Slurm:
    """What only Slurm knows (`launcher=slurm`). Names are those of sbatch's own options.

    Attributes:
        exclusive: no other job on the nodes.
        exclude: nodes that must not be used.
        spare_nodes: further nodes, one of which takes the place of each that fails.
        container_image: run every node's processes in this image, by `container_runtime`.
        container_mounts: `SOURCE:TARGET` each; the run folder is always mounted.
        container_python: the interpreter inside the image.
        save_lead_s: seconds before the time limit at which the run saves and is queued again; more
            than the time between two rows of metrics and the time to save.
        requeue: run again, from the last checkpoint, after preemption, time limit or node failure.
        directives: further options of sbatch, such as `--mail-type=END`.
        setup: lines of bash before the ranks start, such as `module load cuda`; run as they are.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclusive: bool = False
    exclude: list[str] = field(default_factory=list)
    spare_nodes: NonNegative = 0
    container_image: str | None = None
    container_runtime: Literal["pyxis", "apptainer"] = "pyxis"
    container_mounts: list[str] = field(default_factory=list)
    container_python: str = "python3"
    save_lead_s: Positive = 120
    requeue: bool = True
    directives: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class K8s:
    """What only Kubernetes knows (`launcher=k8s`). Names are those of Kubernetes' own fields.

    Attributes:
        kind: `pytorchjob` (Kubeflow Training Operator v1) or `trainjob` (Kubeflow Trainer v2).
        context, namespace: null is kubectl's current one.
        name: of the job, before the number of the attempt; null follows from the run folder.
        image: with Python and the packages of the run; the code is not part of it.
        python: the interpreter inside the image.
        transport: how code and run.json reach the pods: `configmap` needs no shared storage here;
            with `claim` the run folder lies on the claim, which is mounted here at `claim_here`.
        claim: PersistentVolumeClaim for run folders and caches; null loses everything but the
            result and the logs when the pods end.
        claim_here: folder at which this machine sees the claim, for `transport: claim`.
        mount_path: folder at which the pods see the claim.
        shm_gib: size of /dev/shm, which counts as memory; null is up to the pod's memory limit.
        gpu_resource: the resource that `cluster.gpus_per_node` counts.
        tolerations: `{key, operator, value, effect}` each.
        secret: the Secret with a key for each name of `launcher.forward_env`; absent keys are
            left out. Values never leave the cluster.
        run_as_user, run_as_group, fs_group: ids of the non-root user of the pods.
        queue: a Kueue LocalQueue.
        gang: who starts all pods or none.
        scheduler: null is that of `gang`, or the cluster's.
        gang_timeout_s: seconds the pods of a gang wait for each other.
        min_nodes, max_nodes: an elastic PyTorchJob; `cluster.nodes` is where it starts.
        max_restarts: of the ranks of an elastic job, or of a pod that ends.
        clean_pods: what the operator removes when the job ends: `Running` pods only, which keeps
            the logs of all that have ended; `All`; or `None`.
        termination_grace_s: seconds between a pod's SIGTERM and its kill; null is twice the
            longest save of earlier attempts, and at least `launcher.grace_s` and 30.
        keep_s: seconds after which the cluster forgets a job that has ended; null never does.
        runtime: the training runtime of a TrainJob; null brings one along.
    """

    kind: Literal["pytorchjob", "trainjob"] = "pytorchjob"
    context: str | None = None
    namespace: str | None = None
    name: str | None = None
    image: str = "galley:cpu"
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    image_pull_secrets: list[str] = field(default_factory=list)
    python: str = "python3"
    transport: Literal["configmap", "claim"] = "configmap"
    claim: str | None = "galley"
    claim_here: str | None = None
    mount_path: str = "/galley"
    shm_gib: Annotated[float, Field(gt=0)] | None = None
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = field(default_factory=dict)
    tolerations: list[dict[str, str | int]] = field(default_factory=list)
    service_account: str | None = None
    secret: str = "galley"  # noqa: S105
    run_as_user: Positive = 1000
    run_as_group: Positive = 1000
    fs_group: Positive = 1000
    priority_class: str | None = None
    queue: str | None = None
    gang: Literal["none", "volcano", "coscheduling"] = "none"
    scheduler: str | None = None
    gang_timeout_s: Positive = 600
    min_nodes: Positive | None = None
    max_nodes: Positive | None = None
    max_restarts: NonNegative = 0
    clean_pods: Literal["Running", "All", "None"] = "Running"
    termination_grace_s: Positive | None = None
    keep_s: NonNegative | None = None
    runtime: str | None = None
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = "ClusterTrainingRuntime"


@dataclass(frozen=True)
class Ray:
    """What only Ray knows (`launcher=ray`).

    Attributes:
        address: of the cluster's dashboard, which takes jobs.
        resources: further resources that a node of the run takes, by the names that the cluster
            gave them (`ray start --resources`).
    """

    address: str = "http://127.0.0.1:8265"
    resources: dict[str, Annotated[float, Field(gt=0)]] = field(default_factory=dict)


@dataclass(frozen=True)
class Launcher:
    """What starts the processes.

    Attributes:
        timeout_s: seconds after which a collective that hangs fails the run.
        grace_s: seconds between the request to end and the kill.
        env: further environment variables of the ranks.
        forward_env: names of variables whose values the ranks take from the user's
            environment; the values are never written down.
        torchrun: read by `launcher=local` only.
        mpi: read by `launcher=mpi` only.
        slurm: read by `launcher=slurm` only.
        k8s: read by `launcher=k8s` only.
        ray: read by `launcher=ray` only.
    """

    kind: Literal["local", "mpi", "slurm", "k8s", "pytorchjob", "trainjob", "ray"] = "local"
    timeout_s: Positive = 300
    grace_s: Annotated[float, Field(gt=0)] = 3.0
    env: dict[str, Annotated[str, Field(coerce_numbers_to_str=True)]] = field(default_factory=dict)
    forward_env: list[str] = field(default_factory=lambda: ["HF_TOKEN", "WANDB_API_KEY"])
    torchrun: Torchrun = field(default_factory=Torchrun)
    mpi: Mpi = field(default_factory=Mpi)
    slurm: Slurm = field(default_factory=Slurm)
    k8s: K8s = field(default_factory=K8s)
    ray: Ray = field(default_factory=Ray)


@dataclass(frozen=True)
class Cluster:
    """Where it runs.

    Attributes:
        nodes: hosts that the ranks are spread over.
        procs_per_node: exactly so many ranks a node; null is one a device.
        max_procs_per_node: at most so many, where `procs_per_node` is null.
        device: `auto` is CUDA where it is found.
        threads_per_proc: OpenMP threads a rank; null is cores ÷ ranks.
        gpus_per_node, cpus_per_node, memory_gib_per_node: what a node of a cluster has for the run
            and is asked for; null is as little as the ranks need. This machine is probed instead.
        time_limit_min: minutes after which the cluster ends the run; null leaves it to the cluster.
    """

    nodes: Positive = 1
    procs_per_node: Positive | None = None
    max_procs_per_node: Positive | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads_per_proc: Positive | None = None
    gpus_per_node: NonNegative | None = None
    cpus_per_node: Positive | None = None
    memory_gib_per_node: Annotated[float, Field(gt=0)] | None = None
    time_limit_min: Positive | None = None


@dataclass(frozen=True)
class Pruning:
    """When a trial is ended early because others do better. Needs `eval.every_steps`.

    Attributes:
        kind: `median`, `asha` and `hyperband` judge one objective; `pareto` any number, by
            non-dominated sorting at each rung.
        eta: of the trials that reach a rung, one in so many goes on; each rung is so many times
            further than the one before.
        min_fraction: of a trial's training, before which it is not judged: the first rung.
        min_trials: trials that reach a rung before one is judged there.
    """

    kind: Literal["none", "median", "asha", "hyperband", "pareto"] = "none"
    eta: Annotated[int, Field(ge=2)] = 3
    min_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    min_trials: Positive = 4


@dataclass(frozen=True)
class Choose:
    """Which trial of the front is the winner.

    Attributes:
        by: `knee`: nearest to the ideal; `weighted`: the greatest weighted sum; `epsilon`: the best
            in `metric` among those that keep `bounds`; `budget`: the same, where `bounds` are limits of
            cost (`wall_s`, `peak_memory_gib`, …).
        metric: null is the first objective.
        weights: objective -> weight, each objective scaled to the range of the front.
        bounds: metric -> the worst value allowed; for a metric that is no objective the greatest.
    """

    by: Literal["knee", "weighted", "epsilon", "budget"] = "knee"
    metric: str | None = None
    weights: dict[str, Annotated[float, Field(ge=0)]] = field(default_factory=dict)
    bounds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Hpo:
    """The sweep around the run; `none` runs it once.

    Attributes:
        trials: points that are tried, repeats included; null is all points of a grid.
        parallel: trials that run at the same time; a slot is refilled as soon as its trial ends.
        objectives: `METRIC`, `METRIC:max`, `METRIC:min` or `{metric, direction, bound}` each; a metric
            is one of the task's (`eval/f1`), `samples_per_s`, `tokens_per_s`, `wall_s`, `train_s`,
            `peak_memory_gib`, `cost` or `train/loss`.
        space: recipe key or config group -> a list of choices; `{low, high, log, step}`;
            `{choices: [...], when: {KEY: [VALUES]}}`; or Hydra's `interval()`, `range()`, `choice()`.
            `KEY=choice(…)` on the command line adds to it.
        constraints: `{metric, min, max}` each: bounds of metrics that are no objectives.
        max_memory_gib: a point whose memory estimate a rank is above it is never started; null is
            what a rank has on this machine.
        study_dir: the study's folder; null is `runs/RECIPE-KIND-sweep`, with a number behind it.
        sampler: of optuna: `tpe`, `nsga2`, `nsga3`, `gp`, `random`, `grid`, `cmaes`; null is optuna's
            own choice.
        storage: of optuna: URL of a database (`sqlite:///F`, `postgresql://…`); null is a file of
            the study's folder.
        seed: of the draws; null is the recipe's.
        repeats: how many seeds each point is run with, one trial each.
        retries: how often a trial is started again after a failure that another attempt may not have.
        cost_per_hour: of one node, in any currency; for the objective `cost`.
        warm: start trials from processes that hold the libraries already, where the launcher can.
    """

    kind: Literal["none", "optuna", "ray", "wandb", "grid", "random"] = "none"
    trials: Positive | None = 20
    parallel: Positive = 1
    objectives: list[str | dict[str, str | float | None]] = field(default_factory=list)
    space: dict[str, Any] = field(default_factory=dict)
    constraints: list[dict[str, str | float | None]] = field(default_factory=list)
    max_memory_gib: Annotated[float, Field(gt=0)] | None = None
    study_dir: str | None = None
    sampler: Literal["tpe", "nsga2", "nsga3", "gp", "random", "grid", "cmaes"] | None = None
    storage: str | None = None
    seed: NonNegative | None = None
    repeats: Positive = 1
    retries: NonNegative = 2
    cost_per_hour: Annotated[float, Field(ge=0)] | None = None
    warm: bool = False
    pruning: Pruning = field(default_factory=Pruning)
    choose: Choose = field(default_factory=Choose)


@dataclass(frozen=True)
class Tracker:
    """Where metrics go besides metrics.jsonl. A tracker that fails never ends a run.

    Attributes:
        project: of the tracker; MLflow calls it an experiment.
        entity: of W&B: a user or a team; null is the default of the key.
        name: of the run; null is the name of its folder.
        group: what the run belongs to; a sweep sets it to the study's name.
        mode: of W&B: `auto` is $WANDB_MODE, else online where there is a key, else offline.
        uri: of MLflow's tracking server; null is a database in the run folder.
    """

    kind: Literal["none", "wandb", "tensorboard", "mlflow", "trackio"] = "none"
    project: str = "galley"
    entity: str | None = None
    name: str | None = None
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    uri: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A whole run as the user asked for it: composed, typed and checked.

    Attributes:
        plugins: folders with Python files that the worker may import.
        run_dir: the run folder; null is `runs/RECIPE-STRATEGY-SHA`.
        detach: return once the job is submitted.
        after: a run that must succeed before this one starts, where the launcher has a queue.
    """

    recipe: str = "quickstart"
    profile: str = "full"
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    task: Task = field(default_factory=Task)
    strategy: Strategy = field(default_factory=Strategy)
    precision: Precision = field(default_factory=Precision)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    batch: Batch = field(default_factory=Batch)
    train: Train = field(default_factory=Train)
    eval: Eval = field(default_factory=Eval)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    launcher: Launcher = field(default_factory=Launcher)
    cluster: Cluster = field(default_factory=Cluster)
    hpo: Hpo = field(default_factory=Hpo)
    tracker: Tracker = field(default_factory=Tracker)
    plugins: list[str] = field(default_factory=list)
    seed: NonNegative = 42
    run_dir: str | None = None
    detach: bool = False
    after: str | None = None


JsonObject = dict[str, Any]
