"""The optimizer, its schedule, the batch, and when to evaluate and save."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from galley.schema.types import Fraction, NonNegative, Positive


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
    """The optimizer. Bias and normalisation parameters are never decayed.

    Attributes:
        kind: `adamw`; `adamw_8bit` keeps its state in 8 bits (bitsandbytes); `adafactor` keeps a row and a
            column of state per matrix; `lion` keeps one moment and wants a lower rate than AdamW; `muon`
            orthogonalizes the momentum of the matrices of numbered layers, scaled so that AdamW's rate
            fits, and updates all other parameters by AdamW; `sgd` adds the decay to the gradient.
        betas: of AdamW and Lion.
        eps: of AdamW.
        momentum: of `sgd` and `muon`; null is 0.9 under `sgd` and 0.95 under `muon`.
        nesterov: of `sgd` and `muon`; null is false under `sgd` and true under `muon`.
        groups: `{match, lr, weight_decay}` each; a parameter belongs to the first that it matches. One
            that no trainable parameter belongs to is an error.
        layer_decay: the rate of each layer is that of the layer above it times this; embeddings lie
            below the first layer, the head above the last (Clark et al. 2020, arXiv:2003.10555). A
            group's own rate stands as it is. Null is one rate for all.
    """

    kind: Literal["adamw", "adamw_8bit", "adafactor", "lion", "muon", "sgd"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    nesterov: bool | None = None
    grad_clip: Annotated[float, Field(gt=0)] | None = 1.0
    groups: list[ParamGroup] = field(default_factory=list)
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None


@dataclass(frozen=True)
class Schedule:
    """The learning rate over the run. Give `warmup_steps` or `warmup_ratio`, not both.

    Attributes:
        kind: what follows the warm-up. `linear`, `cosine` and `polynomial` fall to `min_ratio` at the last
            step; `cosine_restarts` does so `cycles` times; `inverse_sqrt` falls with the square root of the
            step; `wsd` stays at the peak and falls over the last `decay_steps`; `one_cycle` rises and falls
            by half cosines; `constant` stays.
        warmup_steps: optimizer steps of warm-up, which is linear except under `one_cycle`.
        warmup_ratio: the same as a share of all steps; null under `one_cycle` is 0.3.
        warmup_from: the rate of the first step as a share of the peak; null is 0, under `one_cycle` 0.04.
        min_ratio: the lowest rate after the warm-up as a share of the peak; null is 0, under `one_cycle`
            4e-6. `constant` and `inverse_sqrt` have none.
        power: exponent of `polynomial`; null is 1.
        cycles: falls of `cosine_restarts`; null is 1.
        decay_steps: optimizer steps of the fall of `wsd`; or give `decay_ratio`.
        decay_ratio: the same as a share of all steps.
        decay: the shape of the fall of `wsd`; null is linear.
        timescale: optimizer steps after which `inverse_sqrt` would have begun to fall without a warm-up;
            null is the warm-up, and 10,000 without one.
    """

    kind: Literal[
        "linear", "cosine", "cosine_restarts", "polynomial", "inverse_sqrt", "wsd", "one_cycle", "constant"
    ] = "linear"
    warmup_steps: NonNegative | None = None
    warmup_ratio: Fraction | None = None
    warmup_from: Fraction | None = None
    min_ratio: Fraction | None = None
    power: Annotated[float, Field(gt=0)] | None = None
    cycles: Positive | None = None
    decay_steps: Positive | None = None
    decay_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    decay: Literal["linear", "cosine", "1-sqrt"] | None = None
    timescale: Positive | None = None


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
        stop_at_step: ends the run after this step, with a checkpoint from which another one can go on
            (`checkpoint.resume_from`); the schedule goes by all the steps as before.
        log_every_steps: optimizer steps between rows of metrics.jsonl.
        length_grouped: batches of samples of like length (a seeded shuffle of buckets).
        gradient_checkpointing: recompute activations in the backward pass.
        compile: `torch.compile` for batches of any length; under fsdp layer by layer.
        energy: report `energy_kwh`, what the machines drew from the first step to the last evaluation of
            the attempt that ended the run, as CodeCarbon tells it; everything else on them counts too.
        country: where the machines stand, as an ISO 3166 code of three letters (`DEU`). `co2_eq_kg` is then
            reported, and CodeCarbon's emissions.csv kept in the run folder. Needs `energy`.
        region: part of the country of which CodeCarbon knows the energy mix; of the USA and Canada.
    """

    epochs: Annotated[float, Field(gt=0)] = 3.0
    max_steps: Positive | None = None
    stop_at_step: Positive | None = None
    log_every_steps: Positive = 10
    length_grouped: bool = True
    gradient_checkpointing: bool = False
    compile: bool = False
    energy: bool = False
    country: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = None
    region: str | None = None


@dataclass(frozen=True)
class Eval:
    """When and how the model is measured, and when that ends the run.

    Attributes:
        only: train nothing and save no model; what `eval` sets.
        every_steps: optimizer steps between evaluations; there is always one at the end.
        every_epochs: the same in epochs, such as 1 or 0.5; give one of them, or neither.
        batch_size: samples a rank holds at once.
        metric: the metric that early stopping watches; null is that of `checkpoint.keep_best`, or else the
            task's own first one.
        mode: whether a greater or a smaller value of it is better; null follows from the metric.
        patience: evaluations without improvement that end the run; null never does.
    """

    enabled: bool = True
    only: bool = False
    every_steps: Positive | None = None
    every_epochs: Annotated[float, Field(gt=0)] | None = None
    batch_size: Positive = 64
    metric: str | None = None
    mode: Literal["max", "min"] | None = None
    patience: Positive | None = None


@dataclass(frozen=True)
class Checkpoint:
    """When the training state is saved.

    Attributes:
        every_steps: null saves none; the final model is written all the same.
        model: write the final weights to model/; false for trials of which only the metrics count.
        keep: the newest so many are kept.
        keep_best: `METRIC`, `METRIC:max` or `METRIC:min` of the evaluations, such as `eval/f1`: the
            checkpoint of the best one is saved and kept beside the newest, model/ holds its weights, and
            result.json its metrics. Null: model/ holds the last weights.
        resume_from: a checkpoint's folder, or that of a run with checkpoints, from which a new run
            continues under any strategy and number of ranks; it is read, never changed. Data, seed
            and global batch must be the same. The run's own checkpoints come first once it has any.
        asynchronous: training waits for a copy in host memory only, 12 bytes a parameter shared by
            the ranks, and goes on while it is written. The files are the same either way.
    """

    every_steps: Positive | None = None
    model: bool = True
    keep: Positive = 2
    keep_best: str | None = None
    resume_from: str | None = None
    asynchronous: bool = True
