"""Choose which modules FSDP gathers at once: whole transformer layers, or modules of a size."""

from __future__ import annotations

import torch

from galley.errors import ConfigError, Problem, valid_values
from galley.schema import Strategy


def modules_to_wrap(model: torch.nn.Module, strategy: Strategy) -> list[torch.nn.Module]:
    """Return the modules, inner before outer, without the model itself.

    Raises `ConfigError` if a class named by the recipe does not occur in the model.
    """
    if strategy.wrap == "none":
        return []
    if strategy.wrap == "size":
        return by_size(model, strategy.wrap_min_params)
    if strategy.wrap_classes is None:
        return _own_layers(model)
    names = {type(module).__name__ for module in model.modules()}
    missing = [name for name in strategy.wrap_classes if name not in names]
    if missing:
        what = f"{type(model).__name__} has no module of class {', '.join(missing)}"
        raise ConfigError(Problem("strategy.wrap_classes", what, valid_values(missing[0], sorted(names))))
    return [m for m in model.modules() if type(m).__name__ in strategy.wrap_classes and m is not model][::-1]


def _own_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the layers inside of which the model must not be split, as Transformers lists them.

    Only members of a list of layers count: `_no_split_modules` lists embeddings, too, but those share their
    weight with the head. For a model that lists none (DeBERTa-v2), its largest stack of equal layers.
    """
    listed = set(getattr(model, "_no_split_modules", None) or ())
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    layers = [layer for stack in stacks for layer in stack if type(layer).__name__ in listed]
    layers = layers or max(map(_equal_layers, stacks), key=_num_params, default=[])
    if not layers:
        what = f"{type(model).__name__} names no layers of its own"
        hint = "set 'strategy.wrap_classes=[CLASS]', strategy.wrap=size or strategy.wrap=none"
        raise ConfigError(Problem("strategy.wrap", what, hint))
    return layers


def _equal_layers(stack: torch.nn.ModuleList) -> list[torch.nn.Module]:
    """Return the members if they are several of one class, else none."""
    layers = list(stack)
    return layers if len(layers) > 1 and len({type(layer) for layer in layers}) == 1 else []


def _num_params(layers: list[torch.nn.Module]) -> int:
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def by_size(model: torch.nn.Module, min_params: int) -> list[torch.nn.Module]:
    """Return modules of at least `min_params` parameters that no wrapped module inside them holds already."""
    wrapped: list[torch.nn.Module] = []

    def visit(module: torch.nn.Module) -> int:
        """Count the parameters of `module` that are not in a wrapped one; wrap it if they suffice."""
        left = sum(p.numel() for p in module.parameters(recurse=False))
        left += sum(visit(child) for child in module.children())
        callable_ = not isinstance(module, torch.nn.ModuleList | torch.nn.ModuleDict)
        if module is model or not callable_ or left < min_params:
            return left
        wrapped.append(module)
        return 0

    visit(model)
    return wrapped
