"""What each rank holds of a model that is cut over ranks: the plan of the trainer, counted without torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from math import prod

from galley.model.causal_lm import Parameters, Shape, parameters_of
from galley.schema import Recipe, Strategy
from galley.spec import Layout
from galley.strategy.optimizers import num_moments
from galley.strategy.parallel_dims import layer_spans
from galley.tasks import task_of

ROWWISE, REPLICATED = "rowwise", "replicated"


@dataclass(frozen=True)
class Held:
    """Elements on one rank."""

    params: int
    grads: int
    optimizer: int


def part_of(shape: Shape, name: str, style: str | None, parts: int, index: int = 0) -> int:
    """Elements of a parameter on rank `index` of the `parts` that share it; rank 0 holds the most.

    DTensor cuts as `torch.chunk` does: parts of ⌈size ÷ parts⌉, of which the last are smaller or empty.
    """
    if style in (None, REPLICATED) or (style == ROWWISE and name.endswith(".bias")):
        return prod(shape)
    size = shape[-1] if style == ROWWISE else shape[0]
    most = -(-size // parts)
    return max(0, min(most, size - index * most)) * (prod(shape) // max(1, size))


def held_by_rank(recipe: Recipe, layout: Layout) -> list[Held] | None:
    """In the order of the ranks; None for a model whose parameters are not known."""
    strategy = recipe.strategy
    by_share = [held_by_stage(recipe, layout, share) for share in range(strategy.tensor_parallel)]
    known = [copies for copies in by_share if copies is not None]
    if len(known) < len(by_share):
        return None
    places = product(range(strategy.pipeline_parallel), range(layout.data_parallel))
    return [held[stage][copy] for stage, copy in places for held in known]


def held_by_stage(recipe: Recipe, layout: Layout, share: int = 0) -> list[list[Held]] | None:
    """Rank of the pipeline -> copy of the model -> what it holds, of the ranks with one `share`."""
    model = parameters_of(recipe.model, headed=task_of(recipe).headed)
    if model is None or len(model.layers) < recipe.strategy.num_stages:
        return None
    styles = _styles(model, recipe.strategy)
    return [
        list(_of_copies(recipe, layout, _sizes(model, names, styles, recipe.strategy, share), model.shapes))
        for names in names_by_rank(model, recipe.strategy)
    ]


def names_by_rank(model: Parameters, strategy: Strategy) -> list[list[str]]:
    """Rank of the pipeline -> names of the parameters of its stages."""
    stages = [
        [name for layer in span for name in model.layers[layer]]
        for span in layer_spans(len(model.layers), strategy.num_stages)
    ]
    stages[0] = [*model.start, *stages[0]]
    stages[-1] = [*stages[-1], *model.end]
    ranks = strategy.pipeline_parallel
    return [list(dict.fromkeys(n for names in stages[rank::ranks] for n in names)) for rank in range(ranks)]


def _styles(model: Parameters, strategy: Strategy) -> Mapping[str, str]:
    """The model's own plan, and over it the recipe's, of the modules that there are."""
    modules = {name.rpartition(".")[0] for name in model.shapes}
    styles = dict(model.styles)
    for pattern, style in strategy.tp_plan.items():
        styles |= dict.fromkeys(fnmatch.filter(modules, pattern), style)
    return {name: style for name, style in styles.items() if name != model.tied}


def _sizes(
    model: Parameters, names: list[str], styles: Mapping[str, str], strategy: Strategy, share: int
) -> dict[str, int]:
    parts = strategy.tensor_parallel
    return {n: part_of(model.shapes[n], n, styles.get(n.rpartition(".")[0]), parts, share) for n in names}


def _of_copies(
    recipe: Recipe, layout: Layout, sizes: Mapping[str, int], shapes: Mapping[str, Shape]
) -> Iterator[Held]:
    total = sum(sizes.values())
    own = [total] * layout.data_parallel
    if recipe.strategy.shard == "optimizer":
        own = _dealt(sizes, shapes, layout.data_parallel, recipe.optim.weight_decay > 0)
    for elements in own:
        yield Held(total, total, num_moments(recipe.optim) * elements)


def _dealt(sizes: Mapping[str, int], shapes: Mapping[str, Shape], copies: int, decayed: bool) -> list[int]:
    """Torch's ZeroRedundancyOptimizer: whole tensors, the largest of a group first, to whoever has least.

    Matrices are a group, where they alone are decayed, and come first.
    """
    own = [0] * copies
    for name in sorted(sizes, key=lambda name: (decayed and len(shapes[name]) < 2, -sizes[name])):
        own[own.index(min(own))] += sizes[name]
    return own
