"""Build the parameter groups and their optimizer.

They are the same under every strategy, so that strategies give the same results.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Any

import torch

from galley.errors import ConfigError, Problem
from galley.schema import Optim
from trainer.optim.optimizers import MUON, optimizer_class

_NUM_SUGGESTIONS = 3
_LAYER = re.compile(r"\.(\d+)\.")


def param_groups(model: torch.nn.Module, settings: Optim) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups of one learning rate and decay, decayed groups first.

    Vectors and scalars are not decayed: they are the biases and the scales of normalisation
    layers, whatever their modules are called. `lr_scale` is a group's rate as a multiple of
    `settings.lr`. Raises `ConfigError` for a group of the recipe that matches no parameter.
    """
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    members = _members(list(named), settings)
    scales = layer_scales(list(named), settings.layer_decay)
    by_muon = muon_names(model) if settings.kind == "muon" else frozenset[str]()

    made: dict[tuple[float, float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in named.items():
        group = settings.groups[members[name]] if name in members else None
        scale = scales[name] if group is None or group.lr is None else group.lr / settings.lr
        group_decay = group.weight_decay if group is not None else None
        decay = settings.weight_decay if group_decay is None else group_decay
        key = (decay if parameter.ndim >= 2 else 0.0, scale, name in by_muon)
        made.setdefault(key, []).append(parameter)
    return [
        {
            "params": made[key],
            "weight_decay": key[0],
            "lr": settings.lr * key[1],
            "lr_scale": key[1],
            **({MUON: key[2]} if by_muon else {}),
        }
        for key in sorted(made, reverse=True)
    ]


def set_learning_rate(groups: list[dict[str, Any]], lr: float) -> None:
    """Set `lr` for parameters without a rate of their own, and scale the rates of the others alike."""
    for group in groups:
        group["lr"] = lr * group["lr_scale"]


def make_optimizer(model: torch.nn.Module, settings: Optim) -> torch.optim.Optimizer:
    """Return the optimizer of `optim.kind` over the model's parameter groups."""
    make, options = optimizer_class(settings)
    return make(param_groups(model, settings), lr=settings.lr, **options)


def muon_names(model: torch.nn.Module) -> frozenset[str]:
    """Return the matrices of numbered layers, which Muon updates: no embeddings, no head, no vectors.

    Raises `ConfigError` for a model that has none.
    """
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    names = frozenset(
        name
        for name, p in model.named_parameters()
        if p.requires_grad and p.ndim == 2 and id(p) not in embeddings and _LAYER.search(name)
    )
    if not names:
        what = "no matrix that is trained is part of a numbered layer"
        raise ConfigError(Problem("optim.kind=muon", what, "optim.kind=adamw"))
    return names


def layer_scales(names: list[str], decay: float | None) -> dict[str, float]:
    """Return each parameter name with `decay` to the power of the number of layers above it.

    A layer is the first number in a name. A name without a number is below all layers if it is an
    embedding, else above them. Raises `ConfigError` if no name has a number.
    """
    if decay is None:
        return dict.fromkeys(names, 1.0)
    numbers = {name: _LAYER.search(name) for name in names}

    layers = {name: int(match[1]) for name, match in numbers.items() if match}
    if not layers:
        what = "no parameter that is trained is part of a numbered layer"
        raise ConfigError(Problem(f"optim.layer_decay={decay}", what, "optim.layer_decay=null"))
    top = max(layers.values()) + 1
    below = {name: -1 for name in names if "embed" in name}
    return {name: decay ** (top - layers.get(name, below.get(name, top))) for name in names}


def _members(names: list[str], settings: Optim) -> dict[str, int]:
    """Map each parameter name to the index of the first group that it matches.

    Names without a group are absent.
    """
    members: dict[str, int] = {}
    problems = []
    for index, group in enumerate(settings.groups):
        matched = [name for name in names if re.search(group.match, name)]
        unclaimed = [name for name in matched if name not in members]
        members |= dict.fromkeys(unclaimed, index)
        where = f"optim.groups[{index}].match={group.match}"
        if not matched:
            problems.append(Problem(where, "matches no trained parameter", _near(group.match, names)))
        elif not unclaimed:
            hint = "put it before the group that has its parameters"
            problems.append(Problem(where, "matches nothing that the groups before it left", hint))

    if problems:
        raise ConfigError(problems)
    return members


def _near(pattern: str, names: list[str]) -> str:
    """Suggest names, or parts of names, that resemble the pattern; else the first names."""
    parts = dict.fromkeys(part for name in names for part in name.split(".") if not part.isdigit())
    similar = get_close_matches(pattern, [*parts, *names], n=_NUM_SUGGESTIONS, cutoff=0.5)
    if similar:
        return f"did you mean {' or '.join(repr(name) for name in similar)}?"
    return f"names are like {', '.join(names[:_NUM_SUGGESTIONS])}"
