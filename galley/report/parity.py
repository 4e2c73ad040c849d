"""Whether two runs of one recipe are the same training, and if not, why not. Pure.

The cause is read off where the curves part. In one optimizer step, the loss comes from the samples
and the weights, the gradient norm from how gradients are scaled, summed and rounded, and the next
step's loss from the update. The first of them that differs names the part that is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf, isfinite
from typing import Literal

from galley.counting import counted
from galley.schema import Dtype

CauseName = Literal[
    "compute_dtype",
    "reduce_dtype",
    "master_dtype",
    "sampler",
    "accumulation_scale",
    "missing_all_reduce",
    "update",
    "failed",
]
UNIT_ROUNDOFF: dict[Dtype, float] = {"fp32": 2.0**-24, "fp16": 2.0**-11, "bf16": 2.0**-8}
"""Half the distance from 1 to the next larger number of the format (Higham 2002, section 2.1)."""

# A gradient norm this far off a simple factor is not explained by it.
_SCALE_MARGIN = 0.02
# Rounding moves the norm of a whole gradient by less than this share.
_LARGEST_ROUNDING = 2 * UNIT_ROUNDOFF["bf16"]
# Unit roundoffs by which two orders of summation may move the norm of the same gradient.
_FINEST = 256
# metrics.jsonl rounds the rates that tokens a sample are computed from.
_TOKENS_MARGIN = 2e-3


@dataclass(frozen=True)
class Tolerance:
    """What rounding explains. The largest deviation over all steps may be at most this.

    Attributes:
        loss: relative, of a loss below 1 absolute.
        grad_norm: relative.
        weights: root mean square of the difference over that of the reference.
    """

    loss: float
    grad_norm: float
    weights: float


TOLERANCES: dict[Dtype, Tolerance] = {
    "fp32": Tolerance(loss=1e-5, grad_norm=1e-4, weights=1e-5),
    "fp16": Tolerance(loss=5e-3, grad_norm=5e-2, weights=1e-3),
    "bf16": Tolerance(loss=3e-2, grad_norm=2e-1, weights=2e-3),
}
"""By the coarsest format that takes part in a step."""


@dataclass(frozen=True)
class Evidence:
    """What is known of one run.

    Attributes:
        losses, grad_norms: one a step; a norm is null where an fp16 step overflowed.
        tokens: mean tokens of a sample, one a step: a fingerprint of which samples it saw.
        weights_format: the coarsest format that holds all final weights exactly; null unknown.
        failure: why the run did not succeed; empty where it did.
    """

    strategy: str
    compute: Dtype
    reduce: Dtype
    world_size: int
    accumulation: int
    losses: tuple[float, ...] = ()
    grad_norms: tuple[float | None, ...] = ()
    tokens: tuple[float, ...] = ()
    weights_format: Dtype | None = None
    failure: str = ""


@dataclass(frozen=True)
class WeightsDeviation:
    """`largest` absolute difference of one weight, and `rms`, as in `Tolerance.weights`."""

    largest: float
    rms: float


@dataclass(frozen=True)
class Cause:
    """The probable cause, and what gives it away."""

    name: CauseName
    explanation: str


@dataclass(frozen=True)
class Comparison:
    """One run against the reference.

    Attributes:
        loss, grad_norm: largest deviation over all common steps, as in `Tolerance`; infinite where
            there is none.
        weights: null where the run left none.
        first_step: the first optimizer step, counted from 1, outside the tolerance; null if none.
        cause: null where all is within the tolerance.
    """

    strategy: str
    loss: float
    grad_norm: float
    weights: WeightsDeviation | None
    tolerance: Tolerance
    first_step: int | None
    cause: Cause | None

    @property
    def within(self) -> bool:
        return self.cause is None


def compare(reference: Evidence, candidate: Evidence, weights: WeightsDeviation | None) -> Comparison:
    """Judge `candidate` by `reference`, a run that succeeded, of the same recipe."""
    tolerance = tolerance_of(reference)
    losses, norms = loss_deviations(reference, candidate), norm_deviations(reference, candidate)
    complete = len(candidate.losses) == len(reference.losses)
    outside = [
        step
        for step, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1)
        if loss > tolerance.loss or norm > tolerance.grad_norm
    ]
    equal = weights is not None and weights.rms <= tolerance.weights
    within = complete and not candidate.failure and not outside and equal
    return Comparison(
        strategy=candidate.strategy,
        loss=max(losses, default=inf),
        grad_norm=max(norms, default=inf),
        weights=weights,
        tolerance=tolerance,
        first_step=outside[0] if outside else None,
        cause=None if within else find_cause(reference, candidate),
    )


def tolerance_of(reference: Evidence) -> Tolerance:
    formats = (reference.compute, reference.reduce)
    return TOLERANCES[max(formats, key=lambda name: UNIT_ROUNDOFF[name])]


def loss_deviations(reference: Evidence, candidate: Evidence) -> list[float]:
    """One a common step, as in `Tolerance.loss`; infinite where the candidate's is not finite."""
    pairs = zip(reference.losses, candidate.losses, strict=False)
    return [abs(a - b) / max(1.0, abs(a)) if isfinite(b) else inf for a, b in pairs]


def norm_deviations(reference: Evidence, candidate: Evidence) -> list[float]:
    """One a common step, as in `Tolerance.grad_norm`; 0 where fp16 overflowed in both."""
    return [0.0 if ratio is None else abs(ratio - 1) for ratio in _norm_ratios(reference, candidate)]


def find_cause(reference: Evidence, candidate: Evidence) -> Cause:
    """The most probable cause of a deviation that is there."""
    if candidate.failure:
        return _cause_of_failure(candidate.failure)
    if len(candidate.losses) != len(reference.losses):
        what = f"logged {counted(len(candidate.losses), 'step')}, the reference {len(reference.losses)}"
        return Cause("failed", what)
    found = next(_differing_formats(reference, candidate), None)
    return found or _parting(reference, candidate)


def _cause_of_failure(message: str) -> Cause:
    lonely = "the ranks have different weights" in message or "ranks share the gradients" in message
    return Cause("missing_all_reduce" if lonely else "failed", message)


def _differing_formats(reference: Evidence, candidate: Evidence) -> Iterator[Cause]:
    """What is stated, or stands in the weights: it needs no inference."""
    if candidate.compute != reference.compute:
        what = f"computes in {candidate.compute}, the reference in {reference.compute}"
        yield Cause("compute_dtype", what)
    if candidate.weights_format not in (None, reference.weights_format):
        what = f"every final weight is exact in {candidate.weights_format}: the master weights are not fp32"
        yield Cause("master_dtype", what)
    if candidate.reduce != reference.reduce:
        what = f"gradients are summed in {candidate.reduce}, those of the reference in {reference.reduce}"
        yield Cause("reduce_dtype", what)


def _parting(reference: Evidence, candidate: Evidence) -> Cause:
    """The first quantity, in the order in which a step computes them, that differs."""
    tolerance = tolerance_of(reference)
    losses, ratios = loss_deviations(reference, candidate), _norm_ratios(reference, candidate)
    tokens = zip(reference.tokens, candidate.tokens, strict=False)
    for step, (loss, ratio) in enumerate(zip(losses, ratios, strict=True), 1):
        ours, theirs = next(tokens, (0.0, 0.0))
        if abs(ours - theirs) > _TOKENS_MARGIN * ours:
            what = f"step {step} saw samples of {theirs:.1f} tokens on average, not of {ours:.1f}"
            return Cause("sampler", what)
        if loss > tolerance.loss:
            return _wrong_loss(step, loss, ratios[0], reference)
        if ratio is not None and abs(ratio - 1) > tolerance.grad_norm:
            return _wrong_gradient(step, ratio, ratios, candidate)
    return Cause("update", "losses and gradients agree to the last step, the final weights do not")


def _wrong_loss(step: int, deviation: float, first_ratio: float | None, reference: Evidence) -> Cause:
    if step == 1:
        what = f"the first loss differs by {deviation:.1e}, before any update: other samples or weights"
        return Cause("sampler", what)
    off = 0.0 if first_ratio is None else abs(first_ratio - 1)
    if off > _FINEST * UNIT_ROUNDOFF[reference.reduce]:
        what = f"the first gradient norm is off by {off:.1e}, more than {reference.reduce} explains"
        return Cause("reduce_dtype", f"{what}: summed in a coarser format")
    what = f"all agreed up to step {step - 1}, whose update differs (optimizer, learning rate, clipping)"
    return Cause("update", what)


def _wrong_gradient(step: int, ratio: float, ratios: Sequence[float | None], candidate: Evidence) -> Cause:
    loss = f"the loss of step {step} is the same"
    scale = _simple_scale(ratios[step - 1 :], candidate)
    if scale:
        return Cause("accumulation_scale", f"{loss}, the gradient is {scale}: scaled twice or not at all")
    if abs(ratio - 1) <= _LARGEST_ROUNDING:
        what = f"{loss}, the gradient norm is off by {abs(ratio - 1):.1e}: summed in a coarser format"
        return Cause("reduce_dtype", what)
    what = f"{loss}, the gradient norm is {ratio:.3g} times it by no simple factor: ranks were left out"
    return Cause("missing_all_reduce", what)


def _simple_scale(ratios: Sequence[float | None], candidate: Evidence) -> str:
    """The factor that the first norms have in common, in words; empty where there is none."""
    first = [ratio for ratio in ratios[:3] if ratio is not None]
    factors = {"accumulation": candidate.accumulation, "ranks": candidate.world_size}
    factors["accumulation × ranks"] = candidate.accumulation * candidate.world_size
    for name, factor in factors.items():
        for value, word in ((float(factor), f"{name} ({factor})"), (1 / factor, f"1 / {name} ({factor})")):
            if factor > 1 and all(abs(ratio / value - 1) < _SCALE_MARGIN for ratio in first):
                return f"{word} times too large" if value > 1 else f"{word} of what it should be"
    return ""


def _norm_ratios(reference: Evidence, candidate: Evidence) -> list[float | None]:
    """Candidate over reference, one a common step; infinite where only one of them is finite."""
    pairs = zip(reference.grad_norms, candidate.grad_norms, strict=False)
    return [_ratio(ours, theirs) for ours, theirs in pairs]


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    if ours is None and theirs is None:
        return None
    if ours is None or theirs is None:
        return inf
    if ours == 0:
        return 1.0 if theirs == 0 else inf
    return theirs / ours
