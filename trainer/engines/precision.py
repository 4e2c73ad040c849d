"""Compute formats. Parameters, gradients and optimizer state stay fp32; autocast casts the work."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from galley.schema import Dtype, Precision

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def autocast(compute: Dtype, device_kind: str) -> AbstractContextManager[object]:
    """Return a context in which the operations that tolerate it run in `compute`."""
    return nullcontext() if compute == "fp32" else torch.autocast(device_kind, dtype=TORCH_DTYPES[compute])


def autocast_forward(model: torch.nn.Module, compute: Dtype, device_kind: str) -> None:
    """Make the model's forward run in `compute`, whoever calls it and whatever wraps it.

    The forward itself is changed, not the caller: DeepSpeed switches an outer autocast off,
    and its own fp16 autocast steps one gradient scaler once per parameter group.
    """
    if compute != "fp32":
        context = torch.autocast(device_kind, dtype=TORCH_DTYPES[compute])
        model.forward = context(model.forward)


@dataclass
class LossScale:
    """Dynamic loss scaling for fp16 gradients.

    The rule is that of `torch.amp.GradScaler`, with the hysteresis and the floor of DeepSpeed's scaler. A
    step whose gradients are not finite is skipped. From the `hysteresis`-th skipped step since the scale last
    grew, each skipped step halves the scale; a window of good steps in a row doubles it.

    Attributes:
        scale: what the loss is multiplied by; 1 and fixed if `dynamic` is false.
        good_steps: finite steps since the scale last changed.
        overflows: skipped steps since the scale last grew.
        smallest: the smallest scale; an overflow at it fails the run.
    """

    dynamic: bool
    scale: float = 1.0
    good_steps: int = 0
    overflows: int = 0
    window: int = 2000
    hysteresis: int = 1
    smallest: float = 2.0**-14

    @classmethod
    def of(cls, precision: Precision) -> LossScale:
        """Return the scale of a recipe's precision; a fixed one unless it is fp16."""
        if precision.compute != "fp16":
            return cls(False)
        return cls(
            dynamic=True,
            scale=2.0**precision.initial_scale_power,
            window=precision.loss_scale_window,
            hysteresis=precision.hysteresis,
            smallest=cls.smallest if precision.min_loss_scale is None else precision.min_loss_scale,
        )

    def update(self, finite: bool) -> None:
        """Adapt the scale.

        Raises `FloatingPointError` if no scale is small enough: the model itself diverged.
        """
        if finite:
            self.good_steps += 1
            if self.good_steps == self.window:
                self.scale, self.good_steps, self.overflows = self.scale * 2, 0, 0
            return
        self.good_steps = 0
        self.overflows += 1
        if self.overflows < self.hysteresis:
            return
        if self.scale <= self.smallest:
            raise FloatingPointError(
                f"fp16 gradients overflow at every loss scale down to {self.scale}: "
                "lower optim.lr, or set precision=bf16"
            )
        self.scale = max(self.scale / 2, self.smallest)
