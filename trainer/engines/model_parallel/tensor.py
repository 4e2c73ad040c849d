"""Tensor parallel: which modules are cut, and how. torch's `parallelize_module` cuts them into DTensors."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)

from galley.config.rules.strategy import TP_STYLES
from galley.errors import ConfigError, Problem
from galley.schema import Strategy
from galley.strategy.parallel_dims import shape_problems
from galley.strategy.shards import part_of
from trainer.compatibility import transformers_tensor_plan

log = logging.getLogger("galley")

COLWISE, ROWWISE, GATHERED, EMBEDDING, REPLICATED = TP_STYLES
# Transformers' other names of the same styles.
_SYNONYMS = {"colwise_rep": GATHERED, "replicated_with_grad_allreduce": REPLICATED}

Plan = Mapping[str, str]
"""Name of a module -> one of `TP_STYLES`."""


def tensor_plan(model: Any, strategy: Strategy) -> dict[str, str]:
    """Return how each module of the whole model is cut: Transformers' plan, overridden by the recipe's.

    Embeddings are cut along the vocabulary, even if Transformers' plan leaves them out (GPT-NeoX).
    Modules that share their weight with another (a head tied to the embeddings) stay whole. Raises
    `ConfigError` if there is no plan, or if it cannot be carried out.
    """
    known = transformers_tensor_plan(model)
    patterns = {**(_embeddings(model) if known else {}), **known, **strategy.tp_plan}
    kind = _kind(model)
    if not patterns:
        what = f"Transformers has no tensor parallel plan for '{kind}'"
        hint = "give one: 'strategy.tp_plan={PATTERN: colwise}'; or strategy=pp, zero3 or fsdp"
        raise ConfigError(Problem("strategy.tensor_parallel", what, hint))
    modules = dict(model.named_modules())
    problems = list(_shape(model, strategy))
    plan: dict[str, str] = {}
    for pattern, style in patterns.items():
        matched = fnmatch.filter(modules, pattern)
        style = _SYNONYMS.get(style, style)
        if not matched and pattern in strategy.tp_plan:
            hint = f"names are like {', '.join(list(modules)[-3:])}"
            problems.append(Problem("strategy.tp_plan", f"'{pattern}' matches no module of {kind}", hint))
        if matched and style not in TP_STYLES:
            what = f"the plan of '{kind}' cuts {pattern} as '{style}', which is not supported"
            problems.append(Problem("strategy.tensor_parallel", what, f"valid: {', '.join(TP_STYLES)}"))
        plan |= dict.fromkeys(matched, style)
    shared = _shared(model)
    problems += [p for n in plan if (p := _uncut(modules[n], n, plan[n], strategy.tensor_parallel))]
    if problems:
        raise ConfigError(problems[:5])

    tied = [name for name in plan if shared & {id(p) for p in modules[name].parameters()}]
    if tied:
        log.info("tied weights stay whole on every rank: %s", ", ".join(tied))
    return {name: style for name, style in plan.items() if name not in tied}


def _embeddings(model: Any) -> dict[str, str]:
    """Cut embeddings like Megatron (Shoeybi et al., arXiv:1909.08053, section 3)."""
    module = model.get_input_embeddings()
    return {name: EMBEDDING for name, candidate in model.named_modules() if candidate is module}


def _kind(model: Any) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def _shape(model: Any, strategy: Strategy) -> list[Problem]:
    """Check the numbers of heads of queries, and of keys and values, which may have fewer."""
    config = getattr(model, "config", None)
    heads = getattr(config, "num_attention_heads", None)
    return shape_problems(strategy, None, getattr(config, "num_key_value_heads", None) or heads)


def _shared(model: torch.nn.Module) -> set[int]:
    """Return the parameters that have more than one name."""
    names: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)] = names.get(id(parameter), 0) + 1
    return {key for key, count in names.items() if count > 1}


def _uncut(module: torch.nn.Module, name: str, style: str, parts: int) -> Problem | None:
    """Return what prevents the cut. A vocabulary may be cut unevenly: its output is whole."""
    if style == REPLICATED:
        return None
    where = "strategy.tensor_parallel"
    if not isinstance(module, torch.nn.Linear | torch.nn.Embedding):
        what = f"{name} is a {type(module).__name__}: only Linear and Embedding can be cut"
        return Problem(where, what, "strategy=pp, zero3 or fsdp")
    rows, columns = module.weight.shape
    size = columns if style == ROWWISE else rows
    if style not in (GATHERED, EMBEDDING) and size % parts:
        what = f"{size} of {name} = tensor_parallel {parts} × ? has no whole solution"
        return Problem(where, what, "a divisor of it")
    return None


def cut(model: torch.nn.Module, plan: Plan, mesh: DeviceMesh) -> None:
    """Replace the parameters of the planned modules by DTensors, in place; each rank keeps its part.

    Every rank has the same weights before. Modules of other stages are skipped.
    """
    modules = {
        name for name, m in model.named_modules() if isinstance(m, torch.nn.Linear | torch.nn.Embedding)
    }
    styles = {name: _STYLES[style]() for name, style in plan.items() if style != REPLICATED}
    present = {name: style for name, style in styles.items() if name in modules}
    if present:
        parallelize_module(model, mesh, present, src_data_rank=None)


_STYLES: dict[str, Any] = {
    COLWISE: ColwiseParallel,
    ROWWISE: RowwiseParallel,
    GATHERED: lambda: ColwiseParallel(output_layouts=Replicate()),
    EMBEDDING: lambda: RowwiseParallel(input_layouts=Replicate()),
}


def planned_numel(name: str, shape: tuple[int, ...], plan: Plan, parts: int) -> int:
    """Return the elements of a parameter on the rank that holds most of it, by the plan alone."""
    return part_of(shape, name, plan.get(name.rpartition(".")[0]), parts)


def partial_names(names: list[str], plan: Plan) -> list[str]:
    """Return the parameters that are whole on every rank, but see only a part of the heads.

    Their gradients are summed over the ranks.
    """
    return [name for name in names if plan.get(name.rpartition(".")[0]) == REPLICATED]
