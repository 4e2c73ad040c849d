"""What each optimizer keeps per parameter, what it reads of `optim`, and under which strategies it works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from galley.errors import Problem
from galley.schema import Optim, Recipe


@dataclass(frozen=True)
class OptimizerKind:
    """One value of `optim.kind`.

    Attributes:
        bytes_per_param: state in bytes per trained parameter; at most, where it depends on the shapes.
        elementwise: each element is updated by itself, so that a rank may update any part of a tensor.
        reads: keys of `optim` that only some optimizers read.
    """

    bytes_per_param: float
    elementwise: bool
    reads: tuple[str, ...]


KINDS = {
    "adamw": OptimizerKind(8.0, True, ("betas", "eps")),
    # Codes of one byte, and an fp32 scale for each 256 of them.
    "adamw_8bit": OptimizerKind(2 * (1 + 4 / 256), False, ("betas", "eps")),
    # 4 bytes × (rows + columns) / (rows × columns), of matrices of 128 × 128 and more.
    "adafactor": OptimizerKind(0.0625, False, ()),
    "lion": OptimizerKind(4.0, True, ("betas",)),
    # 4 for the matrices of layers; embeddings and head have AdamW's 8.
    "muon": OptimizerKind(8.0, False, ("betas", "eps", "momentum", "nesterov")),
    "sgd": OptimizerKind(4.0, True, ("momentum", "nesterov")),
}
_OPTIONAL = ("betas", "eps", "momentum", "nesterov")
FP32 = 4
SGD_MOMENTUM = 0.9
MUON_MOMENTUM = 0.95


def momentum(optim: Optim) -> float:
    """`optim.momentum`, or what its null means."""
    if optim.momentum is not None:
        return optim.momentum
    return MUON_MOMENTUM if optim.kind == "muon" else SGD_MOMENTUM


def state_bytes(optim: Optim) -> float:
    """Bytes of optimizer state per trained parameter."""
    return 0.0 if optim.kind == "sgd" and not momentum(optim) else KINDS[optim.kind].bytes_per_param


def num_moments(optim: Optim) -> int:
    """Elements of fp32 state per trained parameter under an elementwise optimizer."""
    return round(state_bytes(optim) / FP32)


def optimizer_problems(recipe: Recipe) -> Iterator[Problem]:
    """Keys that the optimizer does not read, and strategies that cannot carry it."""
    optim, strategy, usual = recipe.optim, recipe.strategy, Optim()
    kind = KINDS[optim.kind]
    for key in _OPTIONAL:
        if key not in kind.reads and getattr(optim, key) != getattr(usual, key):
            readers = [name for name, other in KINDS.items() if key in other.reads]
            what = f"optim.kind={optim.kind} has no {key}"
            yield Problem(f"optim.{key}", what, f"leave it out, or optim.kind={'|'.join(readers)}")
    if optim.kind in ("sgd", "muon") and optim.nesterov and not momentum(optim):
        yield Problem("optim.nesterov", "Nesterov's momentum needs a momentum", "optim.momentum=0.9")
    if not kind.elementwise and (strategy.engine != "torch" or strategy.model_parallel > 1):
        whole = ", ".join(name for name, other in KINDS.items() if other.elementwise)
        what = f"{optim.kind} updates whole tensors, and strategy {strategy.name} cuts them"
        yield Problem("optim.kind", what, f"strategy=ddp or single, or optim.kind one of {whole}")
    if optim.kind != "adamw" and strategy.engine == "deepspeed" and strategy.offload_optimizer != "none":
        what = f"DeepSpeed updates in host memory by AdamW only, not by {optim.kind}"
        yield Problem("optim.kind", what, "strategy.offload_optimizer=none, or optim.kind=adamw")
