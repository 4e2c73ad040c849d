"""The interface of strategies: an engine carries the model, its gradients and its optimizer.

The loop drives every engine alike:

    for each micro-batch:  with engine.micro_batch(last): engine.backward(weighted loss)
    norm = engine.step(lr)

An engine saves and restores its state by parameter name, so that a checkpoint does not depend on the
engine that wrote it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from galley.schema import Recipe, Strategy
from galley.spec import Layout
from trainer.engines.model_parallel.grid import Grid
from trainer.engines.precision import LossScale
from trainer.hosts.ranks import Ranks
from trainer.optim.optimizers import elementwise_moments

Batch = dict[str, torch.Tensor]
StepLoss = Callable[[torch.nn.Module, Batch, torch.Tensor], torch.Tensor]
"""(model, batch, weights) -> this batch's part of the mean loss of the step."""

ReadTensor = Callable[[str, str], torch.Tensor]
"""(moment, parameter name) -> the full tensor, fp32, on the CPU."""


@dataclass(frozen=True)
class Setup:
    """What every engine is built from.

    Attributes:
        frozen_sha256: hash of the parameters that are not trained; empty if all are.
        grid: the tensor and pipeline parallel ranks; None if each rank has, or gathers, a whole model.
        replicated: whether every rank has the same weights already, so that none need be sent.
    """

    recipe: Recipe
    layout: Layout
    ranks: Ranks
    frozen_sha256: str = ""
    grid: Grid | None = None
    replicated: bool = False

    @property
    def replicas(self) -> Ranks:
        """Return the ranks that see different samples: all, unless several hold one copy of the model."""
        return self.ranks if self.grid is None else self.grid.replicas

    @property
    def stream(self) -> int:
        """Return the number of this rank's random stream: ranks that share a matrix draw the same masks."""
        stage = 0 if self.grid is None else self.grid.stage
        return stage * self.replicas.world_size + self.replicas.rank


def persistent_buffers(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the state dict without its parameters, under none of their names."""
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return {name: t for name, t in model.state_dict().items() if name not in parameters}


def whole_state(
    model: torch.nn.Module, without: Container[str], whole: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return the state dict with `whole` of each tensor. Tied names share one, so that it is stored once."""
    by_identity: dict[int, torch.Tensor] = {}
    state = {name: t for name, t in model.state_dict(keep_vars=True).items() if name not in without}
    for tensor in state.values():
        if id(tensor) not in by_identity:
            by_identity[id(tensor)] = whole(tensor.detach())
    return {name: by_identity[id(tensor)] for name, tensor in state.items()}


@dataclass(frozen=True)
class Promise:
    """What a strategy promises; it is compared with measurements of the first step.

    Attributes:
        engine: the class that wraps the model; None if nothing does.
        partitioned: which of `params`, `grads` and `optimizer` are cut over the ranks.
    """

    engine: str | None
    partitioned: frozenset[str]


class Engine(ABC):
    """A model under one strategy.

    Attributes:
        model: the model itself, for evaluation and saving. Its forward runs in the recipe's
            compute format.
        module: what the loss calls in training: the model, or its wrapper.
        optimizer_steps: the number of steps that changed the weights (fp16 may skip some).
        even: whether the engine needs all micro-batches of the layout in every step, all of one shape.
    """

    even = False

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        self.model = model
        self.module = model
        self.setup = setup
        self.optimizer_steps = 0
        self.loss_scale = LossScale.of(setup.recipe.precision)
        self.parameters = dict(model.named_parameters())

    @classmethod
    def promise(cls, strategy: Strategy) -> Promise:
        """Return the promise of an engine from outside Galley; by default one rank, or replicas."""
        return Promise(None, frozenset())

    @property
    def name(self) -> str:
        """Return the class that really wraps the model."""
        return type(self.module).__name__

    @property
    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters that are trained, by name."""
        return {name: p for name, p in self.parameters.items() if p.requires_grad}

    @property
    def elementwise_moments(self) -> tuple[str, ...]:
        """Return the names of the optimizer's state of every parameter. For whole tensors see `moments`."""
        return elementwise_moments(self.setup.recipe.optim)

    def moments(self, name: str) -> tuple[str, ...]:
        """Return the names of the optimizer's state of one parameter."""
        return self.elementwise_moments

    @property
    def evaluated(self) -> torch.nn.Module:
        """Return the module that evaluation calls in place of the model."""
        return self.model

    @property
    def forwarded(self) -> torch.nn.Module:
        """Return the modules of this rank that compute in training."""
        return self.model

    def gradients(self, inputs: Sequence[tuple[Batch, torch.Tensor]], loss: StepLoss) -> torch.Tensor:
        """Run forward and backward of all micro-batches of a step, each a (batch, weights).

        Returns this rank's part of the loss; the parts of all ranks add up to the loss.
        """
        total = torch.zeros((), device=self.setup.ranks.device)
        for number, (batch, weights) in enumerate(inputs, 1):
            with self.micro_batch(last=number == len(inputs)):
                value = loss(self.module, batch, weights)
                self.backward(value)
            total += value.detach()
        return self.loss_part(total)

    def loss_part(self, loss: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of the loss that it has computed."""
        return loss

    @abstractmethod
    def micro_batch(self, last: bool) -> AbstractContextManager[None]:
        """Enclose forward and backward of one micro-batch. `last`: it is the last one of the step."""

    @abstractmethod
    def backward(self, loss: torch.Tensor) -> None:
        """Add to the gradients, which are SUMMED over micro-batches and ranks."""

    @abstractmethod
    def step(self, lr: float) -> torch.Tensor:
        """Clip, update, and clear the gradients. Returns their norm over all ranks before clipping.

        Under fp16 a step whose norm is not finite changes nothing.
        """

    @abstractmethod
    def world_size(self) -> int:
        """Return the number of ranks that share the gradients, read off the live objects."""

    @abstractmethod
    def reduce_dtype(self) -> torch.dtype | None:
        """Return the format in which gradients are summed over the ranks, read off the live objects.

        None for a lone rank.
        """

    @abstractmethod
    def held_grads(self) -> int:
        """Count the gradient elements on this rank. Only between the last backward and the step."""

    @abstractmethod
    def held_optimizer(self) -> int:
        """Count the elements of optimizer state on this rank. Only after the first step."""

    def held_params(self) -> int:
        """Count the parameter elements on this rank, between steps."""
        return sum(p.numel() for p in self.parameters.values())

    def full_numel(self, parameter: torch.nn.Parameter) -> int:
        """Return the number of elements of a parameter on all ranks together."""
        return parameter.numel()

    def full_shape(self, parameter: torch.nn.Parameter) -> tuple[int, ...]:
        """Return the shape of a parameter on all ranks together."""
        return tuple(parameter.shape)

    def most_elements(self, kind: str, parts: int) -> int:
        """Return the elements of a kind on the rank that holds most, with everything cut into `parts`."""
        chosen = self.parameters if kind == "params" else self.trainable
        most = sum(self.largest_part(parameter, parts) for parameter in chosen.values())
        return most * (len(self.elementwise_moments) if kind == "optimizer" else 1)

    def checksums(self) -> dict[str, float]:
        """Return sums of the weights by the name of a part.

        Ranks that have the same part have the same sum.
        """
        return {"weights": sum(float(p.detach().double().sum()) for p in self.parameters.values())}

    def largest_part(self, parameter: torch.nn.Parameter, parts: int) -> int:
        """Return the elements of a parameter on the rank that holds most of it, if it is cut into `parts`."""
        return -(-self.full_numel(parameter) // parts)

    def kept_whole(self) -> int:
        """Count the parameter elements that every rank keeps, as the recipe asks, though the rest is
        partitioned.
        """
        return 0

    def misplaced(self) -> list[str]:
        """Describe what is not kept where the recipe says, after the first step."""
        return []

    def reading_order(self) -> list[str]:
        """Return the names of the trainable parameters; those whose state is read at once stand together."""
        return list(self.trainable)

    @abstractmethod
    def moment(self, moment: str, name: str) -> torch.Tensor:
        """Return optimizer state of one parameter: whole, fp32, on the CPU. A collective."""

    def parameter(self, name: str) -> torch.Tensor:
        """Return one parameter: whole, fp32, on the CPU. A collective."""
        return self.parameters[name].detach().cpu()

    def buffers(self) -> dict[str, torch.Tensor]:
        """Return what the state dict holds besides parameters. Not a collective."""
        return persistent_buffers(self.model)

    @abstractmethod
    def load_moments(self, read: ReadTensor, optimizer_steps: int) -> None:
        """Restore the optimizer's state of every trainable parameter: the inverse of `moment`."""

    def full_state(self, without: Container[str] = ()) -> dict[str, torch.Tensor]:
        """Return the model's state dict, whole and on the CPU, on every rank. A collective.

        Names in `without` are left out.
        """
        return whole_state(self.model, without, torch.Tensor.cpu)

    def close(self) -> None:
        """Give back what would outlive the process. No rank may use the engine any more."""
        return


class RepeatableEngine(Engine):
    """An engine whose failed backward leaves nothing but gradients, which can be cleared.

    Engines whose ranks communicate in the backward are not repeatable: the other ranks wait for the failed
    one.
    """

    @abstractmethod
    def discard(self) -> None:
        """Clear the gradients and give back their memory."""
