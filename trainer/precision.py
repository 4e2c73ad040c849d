"""Compute formats. Parameters, gradients and optimizer state stay fp32; autocast casts the work."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from galley.schema import Dtype

TORCH_DTYPES: dict[Dtype, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def autocast_forward(model: torch.nn.Module, compute: Dtype, device_kind: str) -> None:
    """Make the model's forward run in `compute`, whoever calls it and whatever wraps it.

    The forward itself is changed, not the calling side: DeepSpeed switches an outer autocast off,
    and its own fp16 autocast steps one gradient scaler once a parameter group.
    """
    if compute != "fp32":
        context = torch.autocast(device_kind, dtype=TORCH_DTYPES[compute])
        model.forward = context(model.forward)


@dataclass
class LossScale:
    """Dynamic loss scaling for fp16 gradients.

    The rule and the constants of `torch.amp.GradScaler`: halved after a step whose gradients are
    not finite (which is skipped), doubled after 2000 good steps in a row.

    Attributes:
        scale: what the loss is multiplied by; 1 and fixed where `dynamic` is false.
        good_steps: finite steps since the scale last changed.
    """

    dynamic: bool
    scale: float = 1.0
    good_steps: int = 0

    GROWTH_INTERVAL = 2000
    SMALLEST = 2.0**-14

    @classmethod
    def for_compute(cls, compute: Dtype) -> LossScale:
        return cls(True, 2.0**16) if compute == "fp16" else cls(False)

    def update(self, finite: bool) -> None:
        """Raises `FloatingPointError` where no scale is small enough: the model itself diverged."""
        if not finite:
            self.scale, self.good_steps = self.scale / 2, 0
            if self.scale < self.SMALLEST:
                raise FloatingPointError(
                    f"fp16 gradients overflow at any loss scale (down to {self.scale}): "
                    "lower optim.lr, or set precision=bf16"
                )
            return
        self.good_steps += 1
        if self.good_steps == self.GROWTH_INTERVAL:
            self.scale, self.good_steps = self.scale * 2, 0
