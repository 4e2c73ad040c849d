"""Pieces of a model for a pipeline: the model itself, without the modules of other ranks.

A stage is a copy of the model's structure that shares the tensors, so that every parameter keeps its
name. Layers of other stages return their input, the first stage has the embeddings, and the last one the norm
and the head. All but the first take hidden states where the model takes embeddings.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch

from galley.errors import ConfigError, Problem, valid_values
from galley.schema import Strategy
from galley.strategy.parallel_dims import layer_spans, shape_problems
from trainer.compatibility import returns_tuple


@dataclass(frozen=True)
class Anatomy:
    """Names of the modules of a model's base, in the order of its forward.

    Attributes:
        added: embeddings that are added to the input's.
        before: modules between embeddings and layers.
        after: modules after the layers.
    """

    layers: str = "layers"
    added: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ("norm",)


ANATOMIES = {
    "gpt2": Anatomy("h", added=("wpe",), before=("drop",), after=("ln_f",)),
    "gpt_neox": Anatomy(before=("emb_dropout",), after=("final_layer_norm",)),
    "llama": Anatomy(),
    "mistral": Anatomy(),
    "qwen2": Anatomy(),
    "qwen3": Anatomy(),
}
"""`model_type` of Transformers -> where it is cut; each is tested to compute the same in pieces."""


class Skipped(torch.nn.Module):
    """A layer of another stage: it returns its input."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.attention_type = getattr(layer, "attention_type", "full_attention")
        self.in_tuple = returns_tuple(layer)

    def forward(self, hidden_states: torch.Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if self.in_tuple else hidden_states


class Nothing(torch.nn.Module):
    """Embeddings of another stage: a zero that is added."""

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return torch.zeros((), device=positions.device)


class Stage(torch.nn.Module):
    """One piece: tokens or hidden states [batch, length(, hidden)] -> hidden states, or logits in fp32."""

    def __init__(self, model: Any, index: int, num_stages: int) -> None:
        super().__init__()
        anatomy = anatomy_of(model)
        self.first, self.last = index == 0, index == num_stages - 1
        self.model = copy_structure(model)
        self.base = self.model.base_model
        layers = getattr(self.base, anatomy.layers)
        span = layer_spans(len(layers), num_stages)[index]
        for number, layer in enumerate(layers):
            if number not in span:
                layers[number] = Skipped(layer)
        if not self.first:
            self._leave_out_start(anatomy)
        if not self.last:
            self._leave_out_end(anatomy)

    def _leave_out_start(self, anatomy: Anatomy) -> None:
        if not (self.last and _is_tied(self.model)):  # a tied head keeps the name of the embeddings
            _replace(self.base, self.model.get_input_embeddings(), Nothing())
        for name in anatomy.added:
            setattr(self.base, name, Nothing())
        for name in anatomy.before:
            setattr(self.base, name, torch.nn.Identity())

    def _leave_out_end(self, anatomy: Anatomy) -> None:
        for name in anatomy.after:
            setattr(self.base, name, torch.nn.Identity())
        for name, child in list(self.model.named_children()):
            if child is not self.base:
                delattr(self.model, name)

    def forward(self, inputs: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        given = {"input_ids" if self.first else "inputs_embeds": inputs, "attention_mask": attention_mask}
        if self.last:
            logits: torch.Tensor = self.model(**given).logits
            return logits.float()
        hidden: torch.Tensor = self.base(**given).last_hidden_state
        return hidden

    def held(self) -> dict[str, torch.nn.Parameter]:
        """Return the parameters of this stage, by the names of the whole model."""
        return dict(self.model.named_parameters())


def anatomy_of(model: Any) -> Anatomy:
    """Return where a model can be cut. Raises `ConfigError` for a model that Galley does not know to cut."""
    kind = str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))
    headed = hasattr(model, "base_model") and getattr(model, "get_output_embeddings", lambda: None)()
    if kind not in ANATOMIES or headed is None:
        what = f"'{type(model).__name__}' is not cut into stages"
        hint = f"{valid_values(kind, ANATOMIES)}, as causal language models; or strategy=tp, zero3 or fsdp"
        raise ConfigError(Problem("strategy.pipeline_parallel", what, hint))
    return ANATOMIES[kind]


def check_layers(model: Any, strategy: Strategy) -> None:
    """Raise `ConfigError` if there are more stages than layers."""
    anatomy = anatomy_of(model)
    layers = getattr(model.base_model, anatomy.layers)
    problems = shape_problems(strategy, len(layers), None)
    if problems:
        raise ConfigError(problems)


def copy_structure(model: torch.nn.Module) -> Any:
    """Return new modules with the parameters and buffers of `model`."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def empty(model: torch.nn.Module) -> None:
    """Replace all tensors by names and shapes (the meta device). Tied tensors stay tied."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                shape = torch.empty_like(parameter, device="meta")
                new = torch.nn.Parameter(shape, parameter.requires_grad)
                module._parameters[name] = made.setdefault(id(parameter), new)  # type: ignore[assignment]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = made.setdefault(id(buffer), torch.empty_like(buffer, device="meta"))


def _is_tied(model: Any) -> bool:
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    return head.weight is embeddings.weight


def _replace(base: torch.nn.Module, old: torch.nn.Module, new: torch.nn.Module) -> None:
    for name, child in list(base.named_children()):
        if child is old:
            setattr(base, name, new)
