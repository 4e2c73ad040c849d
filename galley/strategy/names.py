"""What each name of a strategy means, and the name of a strategy that was described by its keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from galley.errors import Problem
from galley.registry import ENGINES
from galley.schema import Strategy

AUTO = "auto"
DEFINING = {
    key: getattr(Strategy(), key)
    for key in ("engine", "data_parallel", "shard", "tensor_parallel", "pipeline_parallel", "hybrid")
}
"""What a name stands for, with the defaults."""
STAGES = {"none": 0, "optimizer": 1, "grads": 2, "params": 3}
_ONE, _SEVERAL = range(1, 2), range(2, 2**31)


@dataclass(frozen=True)
class Meaning:
    """The values of a strategy's keys without which its name would be wrong.

    Attributes:
        shard: any of them.
        tensor, pipeline: whether the model is cut that way, over at least two ranks.
        hybrid: that it is; a name without the word leaves it open.
        offload: the device that the optimizer state or the parameters live on; null leaves it open.
    """

    engine: str
    shard: tuple[str, ...] = ("none",)
    data_parallel: bool = True
    tensor: bool = False
    pipeline: bool = False
    hybrid: bool = False
    offload: str | None = None


_BESIDE_A_CUT = ("none", "optimizer")
MEANINGS: dict[str, Meaning] = {
    "single": Meaning("torch", data_parallel=False),
    "ddp": Meaning("torch"),
    "oneccl_cpu": Meaning("torch"),
    "zero1": Meaning("deepspeed", ("optimizer",)),
    "zero2": Meaning("deepspeed", ("grads",)),
    "zero3": Meaning("deepspeed", ("params",)),
    "zero1_offload": Meaning("deepspeed", ("optimizer",), offload="cpu"),
    "zero2_offload": Meaning("deepspeed", ("grads",), offload="cpu"),
    "zero3_offload": Meaning("deepspeed", ("params",), offload="cpu"),
    "zero3_nvme": Meaning("deepspeed", ("params",), offload="nvme"),
    "fsdp": Meaning("fsdp", ("params",)),
    "fsdp_grad_op": Meaning("fsdp", ("grads",)),
    "fsdp_hybrid": Meaning("fsdp", ("params",), hybrid=True),
    "fsdp_offload": Meaning("fsdp", ("params",), offload="cpu"),
    "tp": Meaning("torch", _BESIDE_A_CUT, tensor=True),
    "pp": Meaning("torch", _BESIDE_A_CUT, pipeline=True),
    "3d": Meaning("torch", _BESIDE_A_CUT, tensor=True, pipeline=True),
}
"""Of every option of `strategy=` but `auto`, which is never the name of a sealed run."""


def contradictions(strategy: Strategy) -> list[str]:
    """Keys of `strategy` whose values are not what its name means; none where the name is unknown."""
    meaning = MEANINGS.get(strategy.name)
    if meaning is None:
        return []
    return [key for key, valid in _valid(meaning, strategy) if getattr(strategy, key) not in valid]


def _valid(meaning: Meaning, strategy: Strategy) -> Iterator[tuple[str, Any]]:
    yield "engine", (meaning.engine,)
    yield "data_parallel", (meaning.data_parallel,)
    yield "shard", meaning.shard
    yield "tensor_parallel", _SEVERAL if meaning.tensor else _ONE
    yield "pipeline_parallel", _SEVERAL if meaning.pipeline else _ONE
    if meaning.hybrid:
        yield "hybrid", (True,)
    if meaning.offload not in (None, strategy.offload_optimizer, strategy.offload_params):
        yield "offload_optimizer", (meaning.offload,)


def name_problems(strategy: Strategy) -> Iterator[Problem]:
    """The name of a strategy that the keys beside it do not describe."""
    wrong = contradictions(strategy)
    if not wrong:
        return
    name, key = strategy.name, wrong[0]
    meant = dict(_valid(MEANINGS[name], strategy))[key]
    valid = "at least 2" if meant is _SEVERAL else " or ".join(_word(value) for value in meant)
    what = f"strategy '{name}' means strategy.{key} {valid}, but {key} is {_word(getattr(strategy, key))}"
    hint = f"choose it by strategy={name} (in a recipe `strategy: {name}`): its name alone changes nothing"
    described = strategy_name(strategy)
    if described != name and described in MEANINGS:
        hint += f"; what the keys describe is strategy={described}"
    others = tuple(f"strategy.{key}" for key in ("name", *wrong[1:]))
    yield Problem(f"strategy.{key}", what, hint, others)


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def strategy_name(strategy: Strategy) -> str:
    """The name of `strategy=` for it, such as `zero3_offload`; a new one in the same manner if none is."""
    if strategy.engine not in ENGINES.built_in:  # of another package, which calls its strategies as it likes
        return strategy.name
    if strategy.engine == "torch":
        return _name_of_torch(strategy)
    devices = (strategy.offload_optimizer, strategy.offload_params)
    parts = ["nvme"] if "nvme" in devices else ["offload"] if "cpu" in devices else []
    if strategy.engine == "deepspeed":
        return "_".join([f"zero{STAGES[strategy.shard]}", *parts])
    grad_op = ["grad_op"] if strategy.shard == "grads" else []
    hybrid = ["hybrid"] if strategy.hybrid else []
    return "_".join(["fsdp", *grad_op, *hybrid, *parts])


def _name_of_torch(strategy: Strategy) -> str:
    if strategy.model_parallel > 1:
        cut = {"tp": strategy.tensor_parallel > 1, "pp": strategy.pipeline_parallel > 1}
        return "3d" if all(cut.values()) else next(name for name, is_cut in cut.items() if is_cut)
    return "ddp" if strategy.data_parallel else "single"
