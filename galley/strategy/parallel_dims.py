"""Tensor, pipeline and data parallel: the equations between ranks, layers, heads and micro-batches.

Ranks are numbered stage by stage, copy by copy, and the ranks of one matrix are neighbors:
rank = (pipeline × data_parallel + data) × tensor_parallel + tensor.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate, pairwise

from galley.counting import counted
from galley.errors import ConfigError, Problem
from galley.schema import Batch, Recipe, Strategy

STAGED_MODELS = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
"""Types of Transformers whose causal language models are cut into pipeline stages."""
PLANNED_MODELS = ("gpt_neox", "llama", "mistral", "qwen2", "qwen3")
"""Types that Transformers has a tensor parallel plan for, among those that are tested here."""
UNPLANNED_MODELS = (
    "albert", "bart", "bert", "blenderbot", "bloom", "camembert", "deberta", "deberta-v2", "distilbert",
    "electra", "gpt2", "gpt_bigcode", "gpt_neo", "mpnet", "opt", "roberta", "t5", "xlm-roberta",
)  # fmt: skip
"""Common types that Transformers has none for; of a type in neither list, the ranks find out."""


def check_axes(strategy: Strategy, procs_per_node: int, world_size: int) -> None:
    """Raises `ConfigError` where the ranks are not whole copies, or a matrix would span two nodes."""
    tensor, pipeline = strategy.tensor_parallel, strategy.pipeline_parallel
    if strategy.model_parallel == 1:
        return
    if world_size % strategy.model_parallel:
        what = (
            f"{counted(world_size, 'rank')} = tensor_parallel {tensor} × pipeline_parallel {pipeline}"
            " × data-parallel ? has no whole solution"
        )
        hint = f"a multiple of {strategy.model_parallel} ranks: set cluster.procs_per_node or cluster.nodes"
        raise ConfigError(Problem(_where(strategy), what, hint))
    if procs_per_node % tensor:
        what = f"tensor_parallel {tensor} does not divide the {counted(procs_per_node, 'process')} of a node"
        hint = "the ranks of one matrix talk in every layer: tensor_parallel × N = cluster.procs_per_node"
        raise ConfigError(Problem("strategy.tensor_parallel", what, hint))


def shape_problems(strategy: Strategy, num_layers: int | None, num_heads: int | None) -> list[Problem]:
    """Of a model of that shape; null is a number that is not known."""
    found = []
    tensor, stages = strategy.tensor_parallel, strategy.num_stages
    if num_heads and num_heads % tensor:
        what = f"{counted(num_heads, 'attention head')} = tensor_parallel {tensor} × ? has no whole solution"
        valid = ", ".join(str(n) for n in range(2, num_heads + 1) if num_heads % n == 0)
        found.append(Problem("strategy.tensor_parallel", what, f"valid: {valid}"))
    if num_layers and num_layers < stages:
        each = stages // strategy.pipeline_parallel
        what = (
            f"{counted(num_layers, 'layer')} {'is' if num_layers == 1 else 'are'} less than"
            f" pipeline_parallel {strategy.pipeline_parallel} × {counted(each, 'stage')} a rank = {stages}"
        )
        hint = (
            f"at most {counted(num_layers, 'stage')}: a smaller strategy.pipeline_parallel or stages_per_rank"
        )
        found.append(Problem("strategy.pipeline_parallel", what, hint))
    return found


def layer_spans(num_layers: int, num_stages: int) -> list[range]:
    """Which layers each stage has: consecutive, at least one, and as even as can be.

    Embeddings and head count as a layer each, as in BLOOM's 72 = 70 + 2. What is left over goes to the
    stages between the first and the last.
    """
    ends = (0, num_stages - 1)
    load = [1 + (stage == ends[0]) + (stage == ends[1]) for stage in range(num_stages)]
    own = [1] * num_stages
    for _ in range(num_layers - num_stages):
        stage = min(range(num_stages), key=lambda index: (load[index], index in ends))
        load[stage] += 1
        own[stage] += 1
    return [range(start, end) for start, end in pairwise(accumulate(own, initial=0))]


def chunks_fit(strategy: Strategy, chunks: int) -> bool:
    """Whether the schedule carries so many micro-batches a step (torch.distributed.pipelining 2.13)."""
    if strategy.pipeline_parallel == 1 or strategy.schedule == "gpipe":
        return True
    if strategy.schedule == "1f1b":
        return chunks >= strategy.num_stages
    return chunks % max(1, chunks // strategy.pipeline_parallel) == 0


def check_chunks(strategy: Strategy, chunks: int) -> None:
    """Raises `ConfigError` where the schedule does not carry so many micro-batches a step."""
    if chunks_fit(strategy, chunks):
        return
    stages, ranks = strategy.num_stages, strategy.pipeline_parallel
    what = f"schedule 1f1b needs at least {counted(stages, 'micro-batch')} a step, one a stage, not {chunks}"
    if strategy.schedule == "interleaved":
        dealt = f"{counted(chunks, 'micro-batch')} to {counted(ranks, 'rank')}"
        what = f"schedule interleaved cannot deal {dealt} in whole rounds"
    hint = (
        "global_size = micro_size × accumulation (chunks) × data-parallel ranks: "
        f"set batch.accumulation to a multiple of {stages if strategy.schedule == '1f1b' else ranks}"
    )
    raise ConfigError(Problem("batch.accumulation", what, hint))


def with_chunks(recipe: Recipe, replicas: int) -> Batch:
    """The batch; a pipeline whose chunks nobody named gets the fewest that its schedule carries."""
    batch, strategy = recipe.batch, recipe.strategy
    named = batch.accumulation or (batch.micro_size and batch.global_size)
    if strategy.pipeline_parallel == 1 or named:
        return batch
    if batch.global_size is None:
        return replace(batch, accumulation=strategy.num_stages)
    share = batch.global_size // replicas
    possible = range(strategy.pipeline_parallel, share + 1)
    fitting = (n for n in possible if share % n == 0 and chunks_fit(strategy, n))
    return replace(batch, accumulation=next(fitting, None))


def _where(strategy: Strategy) -> str:
    return "strategy.tensor_parallel" if strategy.tensor_parallel > 1 else "strategy.pipeline_parallel"
