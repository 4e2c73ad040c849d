"""The layout of one attempt: the sealed one, unless another number of ranks was started.

Environment:
    GALLEY_LAYOUT      JSON of the layout that `resume RUN cluster.…` planned
    GALLEY_ELASTIC     1 if the agents may start more or fewer ranks than were sealed
    GALLEY_MICRO_SIZE  the most samples that a rank may hold at once, after memory ran out
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from galley.config.rank_paths import with_uploads
from galley.errors import ConfigError, Problem
from galley.run.relayout import fit_batch, relayout
from galley.spec import Layout, MemoryLimit, MovedSpec, RunSpec, from_json
from trainer.hosts.rank_facts import RankFacts

LAYOUT, ELASTIC, MICRO_SIZE = "GALLEY_LAYOUT", "GALLEY_ELASTIC", "GALLEY_MICRO_SIZE"


def as_started(
    sealed: RunSpec, facts: RankFacts, environ: Mapping[str, str], limit: MemoryLimit | None = None
) -> RunSpec:
    """Return the sealed run for the ranks that were started, within the memory limit of earlier attempts.

    Raises `ConfigError` if there are more or fewer ranks than planned and the job is not elastic:
    two ranks that each believe to be alone must not train.
    """
    layout = from_json(Layout, environ[LAYOUT]) if LAYOUT in environ else sealed.layout
    if facts.world_size != layout.world_size:
        if environ.get(ELASTIC) != "1":
            what = (
                f"{facts.world_size} ranks were started ({facts.launcher}), the run has {layout.world_size}"
            )
            hint = "start the run with the plan that was sealed with it, or `resume RUN cluster.nodes=N`"
            raise ConfigError(Problem("world size", what, hint))
        layout = relayout(sealed.recipe, layout, facts.world_size)

    limits = [limit.micro_size] if limit is not None else []
    limits += [int(environ[MICRO_SIZE])] if MICRO_SIZE in environ else []
    if limits and min(limits) < layout.micro_size:
        layout = fit_batch(layout, min(limits))
    return sealed if layout == sealed.layout else MovedSpec.of(sealed, layout)


def with_uploaded(spec: RunSpec, code: Path) -> RunSpec:
    """Return the run with the folders that came with its code in place of those on the user's machine."""
    recipe = with_uploads(spec.recipe, code)
    return spec if recipe is spec.recipe else MovedSpec.of(spec.sealed, spec.layout, recipe)
