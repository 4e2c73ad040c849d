"""torch.compile: which forwards are compiled, once for batches of any size.

The forward function of a module is compiled, not the module, so that the hooks by which an engine
gathers parameters stay outside of the graph and names stay as they are. FSDP gathers layer by
layer, so each layer is a graph of its own; with other engines the whole model is one.
"""

from __future__ import annotations

from typing import Any

import torch

from galley.errors import ConfigError, Problem
from galley.schema import Strategy
from trainer.engines.wrapping import modules_to_wrap

# Graphs per function: training and evaluation, each for one sample and for more; twice as many
# for layers that differ in a number.
_GRAPHS_A_MODULE = 8


def compile_forwards(model: torch.nn.Module, strategy: Strategy, device_kind: str) -> None:
    """Compile on the first call. Raises `ConfigError` if there is no compiler.

    A graph that would have to be compiled again and again is an error, not a silent return to eager mode.
    """
    _check_compiler(device_kind)
    modules = modules_to_compile(model, strategy)
    limit = _GRAPHS_A_MODULE * len(modules)
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, limit)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, limit)
    config.fail_on_recompile_limit_hit = True
    for module in modules:
        module.forward = torch.compile(module.forward, dynamic=True)


def modules_to_compile(model: torch.nn.Module, strategy: Strategy) -> list[torch.nn.Module]:
    """Return the modules that FSDP gathers at once and that hold no other such module, or the whole model."""
    if strategy.engine == "fsdp" and strategy.wrap != "none":
        wrapped = set(modules_to_wrap(model, strategy))
        return [m for m in model.modules() if m in wrapped and not wrapped & set(list(m.modules())[1:])]
    inner = getattr(model, "get_base_model", None)  # PEFT's own forward only calls the inner model
    return [inner() if inner is not None else model]


def num_graphs() -> int:
    """Return the number of graphs that this process has compiled."""
    from torch._dynamo.utils import counters

    return int(counters["stats"]["unique_graphs"])


def _check_compiler(device_kind: str) -> None:
    """Raise `ConfigError` if there is no compiler for the device."""
    where = "train.compile"
    if device_kind == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigError(
                Problem(where, "needs Triton, which is not installed or not for this GPU", "valid: false")
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        hint = "install g++, or set CXX in launcher.env; valid: false"
        raise ConfigError(Problem(where, "needs a C++ compiler on a CPU, and there is none", hint)) from error
