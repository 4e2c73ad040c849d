"""`strategy=auto`: the simplest strategy whose estimated memory fits the devices, with all its figures.

Strategies are tried from the simplest on: copies, then less and less held on each rank, then what leaves
the device, then models that are cut over ranks (TP, PP, 3D) with as few ranks a copy as will do. No
measurement, no torch: the estimate and the facts of the machine decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from galley.errors import ConfigError, Problem
from galley.model.shape import layer_shape, model_type
from galley.schema import Batch, Recipe
from galley.spec import ClusterFacts, Layout
from galley.strategy.estimate import Estimate, estimate_memory, memory_of_rank
from galley.strategy.layout import resolve_layout
from galley.strategy.parallel_dims import PLANNED_MODELS, shape_problems

AUTO = "auto"
ONE_RANK = ("single",)
RANKS = ("ddp", "zero1", "zero2", "fsdp")
OFFLOADED = ("zero2_offload", "zero3_offload")
CUT = ("tp", "pp", "3d")
USABLE = 0.9
"""Share of a rank's memory that an estimate may fill. The rest is for the framework, for what the
allocator cannot use, and for a layer that is gathered."""

RecipeOf = Callable[[str], Recipe]
"""The recipe under a strategy of that name; raises `ConfigError` where it is none."""


@dataclass(frozen=True)
class Tried:
    """A strategy that was looked at.

    Attributes:
        words: that ask for it.
        needed_gib: a rank, with activations as far as they are known; null where it was refused before.
        refused: why it is not taken; empty where it is.
    """

    words: tuple[str, ...]
    needed_gib: float | None
    refused: str

    @property
    def name(self) -> str:
        """Such as `tp tensor_parallel=4`."""
        return " ".join(word.removeprefix("strategy=").removeprefix("strategy.") for word in self.words)


@dataclass(frozen=True)
class Choice:
    """The last one of `tried`, and how much memory a rank has."""

    tried: tuple[Tried, ...]
    have_gib: float

    @property
    def words(self) -> tuple[str, ...]:
        return self.tried[-1].words

    @property
    def reason(self) -> str:
        taken = self.tried[-1]
        return (
            f"{taken.name} needs about {taken.needed_gib:.2f} GiB a rank; {USABLE:.0%} of the"
            f" {self.have_gib:.2f} GiB there are may be planned for"
        )

    def lines(self) -> list[str]:
        """A line each."""
        return [*(f"{one.name}: {one.refused}" for one in self.tried[:-1]), self.reason]


def choose(recipe_of: RecipeOf, facts: ClusterFacts) -> Choice:
    """The first strategy that fits. Raises `ConfigError` where none does, or where nobody can know."""
    layout = resolve_layout(replace(recipe_of("ddp"), batch=Batch(micro_size=1)), facts)
    have = memory_of_rank(layout, facts)
    if not have:
        what = "auto needs to know the memory of a device, and the nodes cannot be probed from here"
        key = "gpu_memory_gib" if layout.device == "cuda" else "memory_gib_per_node"
        raise ConfigError(Problem("strategy", what, f"set cluster.{key}=N, or name a strategy"))
    tried: list[Tried] = []
    for name in ladder(layout):
        for words, recipe in variants(recipe_of, name, layout):
            tried.append(_try(words, recipe, facts, have))
            if not tried[-1].refused:
                return Choice(tuple(tried), have)
    figures = "; ".join(f"{one.name}: {one.refused}" for one in tried[:8])
    what = f"auto: no strategy fits {USABLE:.0%} of {have:.2f} GiB a rank ({figures})"
    hint = "train.gradient_checkpointing=true, a smaller batch.micro_size, or more ranks"
    raise ConfigError(Problem("strategy", what, hint))


def ladder(layout: Layout) -> tuple[str, ...]:
    """From the simplest on. On CPUs there is nowhere to offload to."""
    offloaded = OFFLOADED if layout.device == "cuda" else ()
    if layout.world_size == 1:
        return (*ONE_RANK, *offloaded)
    return (*RANKS, *offloaded, *CUT)


def variants(
    recipe_of: RecipeOf, name: str, layout: Layout
) -> Iterator[tuple[tuple[str, ...], Recipe | Problem]]:
    """(words, recipe) of a strategy, one for each way to cut the model, the fewest ranks a copy first."""
    words = (f"strategy={name}",)
    try:
        recipe = recipe_of(name)
    except ConfigError as error:
        yield words, error.problems[0]
        return
    if name not in CUT:
        yield words, recipe
        return
    if name != "pp" and (kind := model_type(recipe.model)) not in PLANNED_MODELS:
        what = f"nobody has tried a tensor parallel plan for {kind or 'this model'}"
        yield words, Problem("strategy", what, "")
        return
    shape = layer_shape(recipe.model)
    most = min(layout.world_size, shape.num_layers) if shape else layout.world_size
    for tensor, pipeline in cuts(name, layout.procs_per_node, layout.world_size, most):
        strategy = replace(recipe.strategy, tensor_parallel=tensor, pipeline_parallel=pipeline)
        degrees = {"tensor_parallel": tensor, "pipeline_parallel": pipeline}
        asked = tuple(f"strategy.{key}={degree}" for key, degree in degrees.items() if degree > 1)
        problems = shape_problems(strategy, shape.num_layers, shape.num_heads) if shape else []
        yield (*words, *asked), problems[0] if problems else replace(recipe, strategy=strategy)


def cuts(name: str, procs_per_node: int, world_size: int, most_stages: int) -> list[tuple[int, int]]:
    """(tensor, pipeline) parallel degrees; a matrix stays inside of a node."""
    tensors = [n for n in range(2, procs_per_node + 1) if procs_per_node % n == 0]
    stages = range(2, most_stages + 1)
    pairs = [(t, p) for t in (tensors if name != "pp" else [1]) for p in (stages if name != "tp" else [1])]
    return sorted((pair for pair in pairs if world_size % (pair[0] * pair[1]) == 0), key=_fewest_ranks)


def _fewest_ranks(pair: tuple[int, int]) -> tuple[int, int]:
    return pair[0] * pair[1], pair[1]


def _try(words: tuple[str, ...], recipe: Recipe | Problem, facts: ClusterFacts, have_gib: float) -> Tried:
    if isinstance(recipe, Problem):
        return Tried(words, None, recipe.what)
    try:
        layout = resolve_layout(recipe, facts)
    except ConfigError as error:
        return Tried(words, None, error.problems[0].what)
    estimate = estimate_memory(recipe, layout)
    if estimate is None:
        what = "auto needs to know the size of the model"
        raise ConfigError(Problem("model.num_parameters", what, "set it, or name a strategy"))
    return Tried(words, estimate.peak_gib, _too_much(estimate, layout, facts, have_gib))


def _too_much(estimate: Estimate, layout: Layout, facts: ClusterFacts, have_gib: float) -> str:
    """Empty where it fits."""
    if estimate.peak_gib > USABLE * have_gib:
        return f"about {estimate.peak_gib:.2f} GiB a rank are too much"
    host = estimate.host_gib * layout.procs_per_node
    if facts.memory_gib and host > USABLE * facts.memory_gib:
        return f"about {host:.2f} GiB a node are too much for the {facts.memory_gib:.2f} GiB of its host"
    return ""
