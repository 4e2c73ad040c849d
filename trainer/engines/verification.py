"""Prove that the requested strategy is active: count on the live objects, and compare with its promise."""

from __future__ import annotations

from collections.abc import Callable, Set

import torch

from galley.registry import ENGINES
from galley.schema import Strategy
from galley.spec import Engaged
from galley.strategy.names import name_problems
from trainer.engines import engine_class
from trainer.engines.base import Engine, Promise, Setup
from trainer.engines.compiling import num_graphs
from trainer.engines.forward_formats import ForwardFormats
from trainer.engines.precision import TORCH_DTYPES
from trainer.run.failures import EngagementError

SCHEDULES = {"1f1b": "Schedule1F1B", "gpipe": "ScheduleGPipe", "interleaved": "ScheduleInterleaved1F1B"}
"""`strategy.schedule` -> class of torch.distributed.pipelining."""

# Partitions are padded for alignment.
PADDING_SHARE = 1.02
PADDING_ELEMENTS = 256


def promise(strategy: Strategy) -> Promise:
    """Return the promise of Galley's engines by the neutral description, of others by their own class."""
    if strategy.engine not in ENGINES.built_in:
        return engine_class(strategy).promise(strategy)
    if strategy.engine == "deepspeed":
        kinds = {"none": (), "optimizer": ("optimizer",), "grads": ("optimizer", "grads")}
        kinds["params"] = ("optimizer", "grads", "params")
        return Promise("DeepSpeedEngine", frozenset(kinds[strategy.shard]))
    if strategy.engine == "fsdp":
        # With `grads`, too: parameters stay gathered from forward to backward, not longer.
        return Promise("FSDPModule", frozenset({"optimizer", "grads", "params"}))
    if strategy.model_parallel > 1:
        parts = [SCHEDULES[strategy.schedule]] if strategy.pipeline_parallel > 1 else []
        parts += ["DTensor"] if strategy.tensor_parallel > 1 else []
        parts += ["ZeroRedundancyOptimizer"] if strategy.shard == "optimizer" else []
        return Promise(" + ".join(parts), frozenset({"optimizer", "grads", "params"}))
    return Promise("DistributedDataParallel" if strategy.data_parallel else None, frozenset())


def partitions(setup: Setup) -> int:
    """Return the number of parts that the recipe asks for, whatever the live objects have."""
    strategy, layout = setup.recipe.strategy, setup.layout
    if strategy.model_parallel > 1:
        return strategy.model_parallel
    return (strategy.hybrid_shard_size or layout.procs_per_node) if strategy.hybrid else layout.world_size


class EngagementProbe:
    """Counts at the first optimizer step: formats and gradients before it, the rest after it.

    Replicas are compared after the first step that moves the weights: warm-up begins with lr 0.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._grads = 0
        self._formats: ForwardFormats | None = None
        self._compared = "params" in promise(engine.setup.recipe.strategy).partitioned
        self.result: Engaged | None = None

    def before_forward(self) -> None:
        if self._formats is None:
            self._formats = ForwardFormats(self._engine.forwarded, self._engine.full_shape)

    def before_step(self) -> None:
        if self._formats is not None:
            self._formats.close()
        if self.result is None:
            self._grads = self._engine.held_grads()

    def after_step(self, lr: float) -> None:
        """Raise `EngagementError` on every rank if anything is not as promised. A collective."""
        if self._engine.optimizer_steps == 0:
            return
        if self.result is None:
            self.result = self._measure()
            check(self.result, self._engine)
        if lr > 0 and not self._compared:
            self._compared = True
            check_replicas(self._engine)

    def _measure(self) -> Engaged:
        engine = self._engine
        count: dict[str, Callable[[], int]] = {
            "params": engine.held_params,
            "grads": lambda: self._grads,
            "optimizer": engine.held_optimizer,
        }
        held = engine.setup.ranks.gather_json({kind: counted() for kind, counted in count.items()})
        return Engaged(
            strategy=engine.setup.recipe.strategy.name,
            engine=engine.name,
            backend=engine.setup.ranks.backend(),
            backend_reason=engine.setup.ranks.backend_reason,
            precision=self._precision(),
            reduce_dtype=_names({engine.reduce_dtype()}),
            master_dtype=_names({p.dtype for p in engine.trainable.values()}),
            compiled_graphs=num_graphs() if engine.setup.recipe.train.compile else 0,
            num_parameters=engine.most_elements("params", 1),
            elements_per_rank={kind: [rank[kind] for rank in held] for kind in count},
        )

    def _precision(self) -> str:
        """Return the formats of the layers on all ranks; empty if the model has no such layer.

        A collective.
        """
        rank_formats = _names(self._formats.seen) if self._formats is not None else ""
        by_rank: list[str] = self._engine.setup.ranks.gather_json(rank_formats)
        return ", ".join(sorted({name for names in by_rank for name in names.split(", ") if name}))


def check(engaged: Engaged, engine: Engine) -> None:
    """Compare class, world size and elements with the promise of the strategy."""
    problems = [
        *_name_problems(engine),
        *_wrapper_problems(engaged, engine),
        *_element_problems(engaged, engine),
        *engine.misplaced(),
    ]
    if problems:
        raise EngagementError(f"strategy '{engaged.strategy}' did not engage: " + "; ".join(problems))


def check_replicas(engine: Engine) -> None:
    """Compare the weights: ranks that train without a common gradient differ after one step."""
    by_rank: list[dict[str, float]] = engine.setup.ranks.gather_json(engine.checksums())
    name = engine.setup.recipe.strategy.name
    for part in {part: None for sums in by_rank for part in sums}:
        sums = [sums[part] for sums in by_rank if part in sums]
        if len(set(sums)) > 1:
            raise EngagementError(
                f"strategy '{name}' did not engage: the ranks have different {part}, sums {sums}"
            )


def _name_problems(engine: Engine) -> list[str]:
    """Return problems of a name that stands for another strategy than the one that was carried out."""
    return [problem.what for problem in name_problems(engine.setup.recipe.strategy)]


def _wrapper_problems(engaged: Engaged, engine: Engine) -> list[str]:
    wanted = promise(engine.setup.recipe.strategy).engine or type(engine.model).__name__
    world_size = engine.setup.layout.world_size
    problems = []
    if engaged.engine != wanted:
        problems.append(f"the model is carried by {engaged.engine}, not by {wanted}")
    if engine.world_size() != world_size:
        problems.append(f"{engine.world_size()} ranks share the gradients, not {world_size}")
    if engine.setup.recipe.train.compile and not engaged.compiled_graphs:
        problems.append("train.compile compiled nothing")
    wanted_format = engine.setup.recipe.precision.dtype
    if engaged.precision and wanted_format not in engaged.precision.split(", "):
        problems.append(f"the layers compute in {engaged.precision}, not in {wanted_format}")
    if engaged.master_dtype != "fp32":
        problems.append(f"the optimizer updates weights in {engaged.master_dtype}, not in fp32")
    return problems


def _names(dtypes: Set[torch.dtype | None] | Set[torch.dtype]) -> str:
    """Return Galley's names of the formats, torch's for others; `none` for None."""
    ours: dict[torch.dtype | None, str] = {dtype: name for name, dtype in TORCH_DTYPES.items()}
    return ", ".join(sorted(ours.get(dtype, str(dtype).lower()) for dtype in dtypes))


def _element_problems(engaged: Engaged, engine: Engine) -> list[str]:
    """Check that every rank holds at most its share, and that all together hold everything."""
    partitioned = promise(engine.setup.recipe.strategy).partitioned
    parts, problems = partitions(engine.setup), []
    for kind, held in engaged.elements_per_rank.items():
        total = engine.most_elements(kind, 1)
        share = engine.most_elements(kind, parts) if kind in partitioned else total
        share += engine.kept_whole() if kind == "params" else 0
        if max(held) > share * PADDING_SHARE + PADDING_ELEMENTS:
            problems.append(f"a rank holds {max(held)} {kind} elements, more than its share of {share}")
        if kind in partitioned and sum(held) < total:
            problems.append(f"all ranks hold {sum(held)} of {total} {kind} elements")
        if min(held) == 0 < total:
            problems.append(f"a rank holds no {kind} elements")
    return problems
