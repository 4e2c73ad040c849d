"""A sealed run on other ranks than it was sealed for: the global batch stays, its split follows. Pure.

A run is sealed with the layout that it was planned on. An attempt may have another one: because
`resume RUN cluster.…` asks for it, because an elastic job has more or fewer nodes than it began
with, or because memory ran out. What decides the training (data, seed, global batch) is the same;
a rank never holds more samples at once than it was sealed with.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from galley.config.keys import is_known, suggest
from galley.config.rules.recipe import recipe_problems
from galley.config.validate import validate
from galley.errors import ConfigError, Problem
from galley.schema import Batch, Recipe
from galley.spec import ClusterFacts, Layout, MovedSpec, RunSpec
from galley.strategy.layout import check_groups, resolve_backend, resolve_layout
from galley.strategy.parallel_dims import check_chunks

SECTION = "cluster"


def with_cluster(recipe: Recipe, texts: Sequence[str]) -> Recipe:
    """The recipe of a sealed run with other values of `cluster.*`.

    Raises `ConfigError` for every override of another key: it would be another run.
    """
    if not texts:
        return recipe
    values, problems = dict[str, Any](), list[Problem]()
    for text in texts:
        key, value, problem = _read(text)
        values[key] = value
        problems += [problem] if problem else []
    if problems:
        raise ConfigError(problems)
    container = json.loads(json.dumps(asdict(recipe)))
    container[SECTION] |= values
    changed, mistakes = validate(container)
    problems = [Problem(mistake.key, mistake.what, mistake.hint) for mistake in mistakes]
    problems += [problem for problem in recipe_problems(changed) if problem.where.startswith(f"{SECTION}.")]
    if problems:
        raise ConfigError(problems)
    return changed


def _read(text: str) -> tuple[str, Any, Problem | None]:
    """(name in the section, value, what is wrong with the override)."""
    from hydra.errors import HydraException

    from galley.config.hydra_bridge import parse_override

    try:
        override = parse_override(text)
        key, value = str(override.key_or_group), override.value()
    except HydraException as error:
        return text, None, Problem(text, f"cannot be read: {str(error).splitlines()[0]}", "write KEY=VALUE")
    section, _, name = key.partition(".")
    if section == SECTION and name and is_known(key):
        return name, value, None
    if section == SECTION and name:
        return name, value, Problem(text, f"'{key}' is not a key", suggest(key))
    what = "a resumed run keeps its sealed recipe; only the cluster it runs on may change"
    hint = "set cluster.…, or start a new run with checkpoint.resume_from=RUN"
    return name, value, Problem(text, what, hint)


def move(sealed: RunSpec, recipe: Recipe, facts: ClusterFacts) -> RunSpec:
    """The sealed run on the nodes that `recipe.cluster` and `facts` describe.

    Raises `ConfigError` where they cannot carry it, or cannot divide its global batch.
    """
    free = replace(recipe, batch=Batch(micro_size=1))
    layout = replace(resolve_layout(free, facts), global_size=sealed.layout.global_size)
    moved = fit_batch(layout, sealed.layout.micro_size)
    check_chunks(recipe.strategy, moved.accumulation)
    return MovedSpec.of(sealed, moved, recipe)


def relayout(recipe: Recipe, layout: Layout, world_size: int) -> Layout:
    """`layout` on `world_size` ranks: whole nodes of it, or one node of another size.

    Raises `ConfigError` where the global batch, or the recipe's groups of ranks, cannot be divided.
    """
    if not recipe.strategy.data_parallel and world_size > 1:
        what = f"strategy '{recipe.strategy.name}' is one process, but {world_size} ranks were started"
        raise ConfigError(Problem("world size", what, "start one rank"))
    nodes, rest = divmod(world_size, layout.procs_per_node)
    procs = layout.procs_per_node
    if rest or layout.nodes == 1:
        nodes, procs = 1, world_size
    check_groups(recipe, procs, world_size)
    moved = replace(layout, nodes=nodes, procs_per_node=procs, world_size=world_size)
    backend = resolve_backend(recipe, layout.device, world_size)
    fitted = fit_batch(replace(moved, backend=backend), layout.micro_size)
    check_chunks(recipe.strategy, fitted.accumulation)
    return fitted


def fit_batch(layout: Layout, largest_micro: int) -> Layout:
    """The split of the global batch with the largest micro-batch up to `largest_micro`.

    Raises `ConfigError` where `global_size = micro_size × accumulation × ranks` has no solution.
    """
    share, remainder = divmod(layout.global_size, layout.data_parallel)
    if remainder:
        what = (
            f"global_size {layout.global_size} = micro_size ? × accumulation ? × {layout.data_parallel} ranks"
            " has no whole solution"
        )
        ranks = [n for n in range(1, layout.global_size + 1) if layout.global_size % n == 0]
        hint = f"the global batch of a run stays; numbers of ranks that divide it: {_some(ranks, layout)}"
        raise ConfigError(Problem("world size", what, hint))
    micro = max(size for size in range(1, min(largest_micro, share) + 1) if share % size == 0)
    return replace(layout, micro_size=micro, accumulation=share // micro)


def halved(layout: Layout) -> Layout | None:
    """The layout after memory ran out: at most half the micro-batch; None where there is one sample."""
    return None if layout.micro_size == 1 else fit_batch(layout, layout.micro_size // 2)


def _some(ranks: list[int], layout: Layout) -> str:
    """The divisors next to the number of ranks that was asked for."""
    near = sorted(sorted(ranks, key=lambda n: abs(n - layout.world_size))[:6])
    return ", ".join(map(str, near))
