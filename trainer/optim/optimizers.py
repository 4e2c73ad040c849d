"""The optimizers of `optim.kind`, and the part of their state that a checkpoint keeps.

State is kept by the names that the optimizer gives its tensors. An elementwise optimizer has the same names
for every parameter, each a tensor of the parameter's shape, so that an engine may cut them as it cuts the
parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from galley.errors import ConfigError, Problem
from galley.schema import Optim
from galley.strategy.optimizers import momentum

Groups = list[dict[str, Any]]
MakeOptimizer = Callable[..., torch.optim.Optimizer]
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")
MIN_QUANTIZED = 4096
"""Smaller parameters have fp32 state (bitsandbytes 0.50, `min_8bit_size`)."""
BLOCK = 256
"""Elements of quantized state that share a scale."""
MUON = "muon"
"""Key of a parameter group: whether Muon updates it."""
_COUNTS_STEPS = ("adamw", "adafactor", "muon")


def optimizer_class(settings: Optim) -> tuple[MakeOptimizer, dict[str, Any]]:
    """Return what makes the optimizer from parameter groups, and its options."""
    adam = {"betas": settings.betas, "eps": settings.eps}
    if settings.kind == "adamw":
        # `fused` is 4 times as fast as `foreach` on one CPU core, and deterministic.
        return torch.optim.AdamW, {**adam, "fused": True}
    if settings.kind == "sgd":
        options = {"momentum": momentum(settings), "nesterov": bool(settings.nesterov), "fused": True}
        return torch.optim.SGD, options
    if settings.kind == "lion":
        from lion_pytorch import Lion

        return Lion, {"betas": settings.betas}
    if settings.kind == "adafactor":
        return torch.optim.Adafactor, {}
    if settings.kind == "muon":
        return partial(MuonAndAdamW, settings=settings), {}
    return _adamw_8bit(), adam


class MuonAndAdamW(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024) for groups with `muon`, torch's AdamW for the others; one state for both.

    Muon's update is scaled to the root mean square of AdamW's (Liu et al. 2025, arXiv:2502.16982,
    section 2.2), so that one learning rate serves both.
    """

    def __init__(self, groups: Groups, lr: float, settings: Optim) -> None:
        super().__init__(groups, {"lr": lr})
        parts = [[g for g in self.param_groups if g[MUON] is wanted] for wanted in (True, False)]
        nesterov = settings.nesterov is not False
        self._updaters: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                parts[0],
                lr=lr,
                momentum=momentum(settings),
                nesterov=nesterov,
                adjust_lr_fn="match_rms_adamw",
            )
        ]

        if parts[1]:
            adamw = torch.optim.AdamW(parts[1], lr=lr, betas=settings.betas, eps=settings.eps, fused=True)
            self._updaters.append(adamw)
        for updater in self._updaters:
            # One dictionary for both, so that checkpoints see one optimizer.
            updater.state = self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for updater in self._updaters:
            updater.step()


def _adamw_8bit() -> MakeOptimizer:
    """Return bitsandbytes' 8-bit AdamW.

    torchao has one too, but compiles for a minute on a CPU. If torchao is installed, Transformers and PEFT
    import it, for seconds in every run.
    """
    try:
        from bitsandbytes import optim
    except ImportError as error:
        hint = "pip install bitsandbytes, or optim.kind=adamw"
        raise ConfigError(Problem("optim.kind=adamw_8bit", "bitsandbytes is not installed", hint)) from error
    made: MakeOptimizer = vars(optim)["AdamW8bit"]  # bitsandbytes does not mark it as exported
    return made


def elementwise_moments(settings: Optim) -> tuple[str, ...]:
    """Return the names of the state of each parameter under an elementwise optimizer."""
    if settings.kind == "sgd":
        return ("momentum_buffer",) if momentum(settings) else ()
    return ("exp_avg",) if settings.kind == "lion" else ADAM_MOMENTS


def moments(settings: Optim, optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> tuple[str, ...]:
    """Return the names of the state of one parameter under any optimizer."""
    if settings.kind == "adafactor":
        return ("row_var", "col_var") if parameter.ndim > 1 else ("variance",)
    if settings.kind == "adamw_8bit":
        quantized = parameter.numel() >= MIN_QUANTIZED
        return ("state1", "absmax1", "state2", "absmax2") if quantized else ("state1", "state2")
    if settings.kind == "muon" and _by_muon(optimizer, parameter):
        return ("momentum_buffer",)
    return elementwise_moments(settings)


def state_numel(settings: Optim, optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> int:
    """Return the number of elements of the state of one whole parameter."""
    if settings.kind == "adafactor" and parameter.ndim > 1:
        rows, columns = parameter.shape[-2:]
        return parameter.numel() // columns + parameter.numel() // rows
    scales = -(-parameter.numel() // BLOCK)
    names = moments(settings, optimizer, parameter)
    return sum(scales if name.startswith("absmax") else parameter.numel() for name in names)


def _by_muon(optimizer: torch.optim.Optimizer, parameter: torch.Tensor) -> bool:
    return any(p is parameter for group in optimizer.param_groups if group[MUON] for p in group["params"])


def restored_state(
    settings: Optim,
    optimizer: torch.optim.Optimizer,
    parameter: torch.Tensor,
    tensors: Mapping[str, torch.Tensor],
    steps: int,
) -> dict[str, Any]:
    """Return the state of which `tensors` are the named parts, after `steps` steps."""
    if any(tensor.numel() == 0 for tensor in tensors.values()) and parameter.numel():
        return {}  # a parameter that never had a gradient
    if settings.kind == "adamw_8bit":
        return {**_code_books(optimizer, parameter, tensors), **tensors, "step": steps}
    if settings.kind in _COUNTS_STEPS and "momentum_buffer" not in tensors:
        device = "cpu" if settings.kind == "adafactor" else parameter.device
        return {**tensors, "step": torch.tensor(float(steps), device=device)}
    return dict(tensors)


def _code_books(
    optimizer: Any, parameter: torch.Tensor, tensors: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the values that the codes of quantized state stand for, the same for every parameter."""
    if "absmax1" not in tensors:
        return {}
    optimizer.fill_qmap()
    books = optimizer.name2qmap
    return {"qmap1": books["dynamic"].to(parameter.device), "qmap2": books["udynamic"].to(parameter.device)}


def counts_steps(settings: Optim) -> bool:
    """Return whether an elementwise optimizer keeps the number of its steps in the state."""
    return settings.kind in _COUNTS_STEPS
