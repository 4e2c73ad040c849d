"""Rules between the keys of one recipe, whatever machine it runs on. Each states its equation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from galley.config.rank_paths import data_here, place_problems
from galley.config.rules.extensions import extension_problems
from galley.config.rules.hub import energy_problems, hub_problems
from galley.config.rules.k8s import k8s_problems
from galley.config.rules.launcher import unread_problems
from galley.config.rules.model import is_own_module, model_problems
from galley.config.rules.model_sizes import size_problems
from galley.config.rules.schedule import schedule_problems
from galley.config.rules.strategy import strategy_problems
from galley.data.local import cache_problems
from galley.data.roles import mixture_problems, needed
from galley.errors import Problem, valid_values
from galley.metrics import DIRECTIONS, kept_best, split_direction, unknown_direction, watched
from galley.model.shape import layer_shape, model_type
from galley.registry import TASKS
from galley.schema import Recipe
from galley.schema.launcher_traits import traits
from galley.strategy.names import name_problems
from galley.strategy.optimizers import optimizer_problems
from galley.strategy.parallel_dims import PLANNED_MODELS, STAGED_MODELS, UNPLANNED_MODELS, shape_problems
from galley.system.preload import spelling_problems
from galley.tasks import names_of, task_metrics, task_of
from galley.tasks.reports import reports_problems
from galley.trackers import tracker_problems
from galley.urls import url_problem

RESERVED_ENV = (
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHONPATH", "PYTHONSAFEPATH"
)  # fmt: skip


def recipe_problems(recipe: Recipe) -> list[Problem]:
    """Every rule the recipe breaks, and what is wrong with its local data files."""
    return [*_rules(recipe), *place_problems(recipe), *_data(recipe)]


def _data(recipe: Recipe) -> list[Problem]:
    task, data = task_of(recipe), recipe.data
    problems = [*task.column_problems(data.columns), *mixture_problems(data)]
    if traits(recipe).shares_files:
        problems += cache_problems(data)
    return problems + task.file_problems(data_here(recipe), needed(recipe, task.learns_names))


def _rules(recipe: Recipe) -> Iterator[Problem]:
    yield from _task(recipe)
    yield from model_problems(recipe)
    yield from size_problems(recipe)
    yield from _streaming(recipe)
    yield from _one_source(recipe)
    yield from _batch(recipe)
    yield from schedule_problems(recipe.schedule)
    yield from optimizer_problems(recipe)
    yield from _groups(recipe)
    yield from _strategy(recipe)
    yield from _model_parallel(recipe)
    yield from _checkpoint(recipe)
    yield from _stop(recipe)
    yield from _eval(recipe)
    yield from _metric(recipe)
    yield from task_of(recipe).rule_problems(recipe)
    yield from _target(recipe)
    yield from _environment(recipe)
    yield from unread_problems(recipe)
    if traits(recipe).in_pods:
        yield from k8s_problems(recipe)
    yield from tracker_problems(recipe)
    yield from filter(None, [url_problem("hpo.storage", recipe.hpo.storage)])
    yield from energy_problems(recipe)
    yield from hub_problems(recipe)
    yield from extension_problems(recipe)


def _task(recipe: Recipe) -> Iterator[Problem]:
    kind = recipe.task.kind
    for folder in recipe.plugins:
        if not Path(folder).expanduser().is_dir():
            yield Problem("plugins", f"'{folder}' is not a folder", "a folder with Python files")
    if ":" in kind:
        yield from reports_problems(recipe)
    elif kind not in TASKS:
        hint = f"{valid_values(kind, TASKS)}; or MODULE:CLASS from a folder in plugins"
        yield Problem("task.kind", f"'{kind}' is not a task", hint)


def _one_source(recipe: Recipe) -> Iterator[Problem]:
    if recipe.data.one_source_batches and not task_of(recipe).one_source_batches:
        what = f"is not read by task '{recipe.task.kind}'"
        valid = " or ".join(names_of(lambda task: task.one_source_batches))
        yield Problem("data.one_source_batches", what, f"task={valid}, or data.one_source_batches=false")


def _streaming(recipe: Recipe) -> Iterator[Problem]:
    if not recipe.data.streaming or recipe.eval.only:  # what is measured is read whole
        return
    task = task_of(recipe)
    if not task.streamed or not recipe.task.lm.packing:
        what = "texts are streamed packed" if task.streamed else f"task '{task.name}' cannot stream"
        hint = f"task={' or '.join(names_of(lambda task: task.streamed))}, with task.lm.packing=true"
        yield Problem("data.streaming", what, hint)
    if recipe.train.max_steps is None:
        yield Problem("train.max_steps", "a stream has no end: the run needs one", "train.max_steps=N")
    for key, value in (("hold_out", recipe.data.hold_out), ("max_samples", recipe.data.max_samples)):
        if value is not None:
            yield Problem(f"data.{key}", "cannot be counted off a stream", f"data.{key}=null")
    if recipe.data.loader_workers:
        what = "a stream is read by the rank itself"
        yield Problem("data.loader_workers", what, "data.loader_workers=0")
    if recipe.model.tokenizer == "characters":
        yield Problem("model.tokenizer", "characters are those of all texts, which a stream does not know")


def _batch(recipe: Recipe) -> Iterator[Problem]:
    batch = recipe.batch
    if batch.global_size is None and batch.micro_size is None:
        yield Problem("batch.global_size", "the recipe gives no batch size", "set batch.global_size=N")
    if batch.global_size is not None:
        product = (batch.micro_size or 1) * (batch.accumulation or 1)
        if batch.global_size % product:
            parts = f"micro_size {batch.micro_size or '?'} × accumulation {batch.accumulation or '?'}"
            yield Problem(
                "batch.global_size",
                f"global_size {batch.global_size} is not a multiple of {parts}",
                "global_size = micro_size × accumulation × ranks: leave one of them out to have it derived",
            )


def _groups(recipe: Recipe) -> Iterator[Problem]:
    for index, group in enumerate(recipe.optim.groups):
        where = f"optim.groups[{index}]"
        try:
            re.compile(group.match)
        except re.error as error:
            what = f"{group.match!r} is not a regular expression: {error}"
            yield Problem(f"{where}.match", what, "such as 'classifier' or 'lora_B'")
        if group.lr is None and group.weight_decay is None:
            yield Problem(where, "changes nothing", "give it lr, weight_decay or both")


def evaluates_during(recipe: Recipe) -> bool:
    """Whether the run is evaluated before its end, too."""
    often = recipe.eval.every_steps is not None or recipe.eval.every_epochs is not None
    return recipe.eval.enabled and often


def _keep_best(recipe: Recipe) -> Iterator[Problem]:
    """A task of the user's own may report any `eval/…`; the run finds out at its first evaluation."""
    where, known = "checkpoint.keep_best", task_metrics(recipe)
    sought = kept_best(recipe, known)
    if sought is None:
        return
    name, word = split_direction(str(recipe.checkpoint.keep_best))
    if not evaluates_during(recipe) or recipe.eval.only:
        hint = "set eval.every_epochs=1 or eval.every_steps=N and eval.enabled=true"
        yield Problem(where, "needs evaluations during the run", f"{hint}, or {where}=null")
    if word is not None and word not in DIRECTIONS:
        yield Problem(where, f"'{word}' is not a direction", valid_values(word, ("max", "min")))
    elif name not in known and not (task_of(recipe).reports_any and name.startswith("eval/")):
        yield Problem(where, f"'{name}' is not a metric of the evaluation", valid_values(name, known))
    elif sought[1] is None:
        yield unknown_direction(where, name, f"{name}:max or {name}:min")


def _checkpoint(recipe: Recipe) -> Iterator[Problem]:
    yield from _keep_best(recipe)
    source = recipe.checkpoint.resume_from
    if source is not None and not Path(source).expanduser().is_dir():
        hint = "the folder of a run, or one of the folders in its checkpoints/"
        yield Problem("checkpoint.resume_from", f"'{source}' is not a folder", hint)


def _stop(recipe: Recipe) -> Iterator[Problem]:
    stop, most = recipe.train.stop_at_step, recipe.train.max_steps
    if stop is not None and most is not None and stop > most:
        yield Problem("train.stop_at_step", f"step {stop} is behind the last one, {most}", f"at most {most}")


def _strategy(recipe: Recipe) -> Iterator[Problem]:
    procs = recipe.cluster.procs_per_node
    if not recipe.strategy.data_parallel and (procs or 1) * recipe.cluster.nodes > 1:
        yield Problem(
            "cluster.procs_per_node",
            f"strategy '{recipe.strategy.name}' is one process, but procs_per_node is {procs}",
            "choose strategy=ddp, or leave cluster.procs_per_node out",
        )
    yield from list(strategy_problems(recipe.strategy)) or name_problems(recipe.strategy)
    if recipe.train.compile and recipe.strategy.engine == "deepspeed" and recipe.strategy.shard == "params":
        what = "ZeRO-3 gathers parameters by hooks inside the forward, which tear the graph apart"
        yield Problem("train.compile", what, "choose strategy=fsdp, or train.compile=false")


def _model_parallel(recipe: Recipe) -> Iterator[Problem]:
    """What is not combined with tensor or pipeline parallel, and what does not fit the model's shape."""
    strategy, name = recipe.strategy, recipe.strategy.name
    if strategy.model_parallel == 1 or strategy.engine != "torch":  # which is refused as it is
        return
    kind = "pipeline parallel" if strategy.pipeline_parallel > 1 else "tensor parallel"
    others = "strategy=zero3 or fsdp, which carry all of it"
    staged = strategy.pipeline_parallel > 1
    yield from _parallel_task(recipe, kind, staged, others)
    if is_own_module(recipe.model):
        yield Problem("model.architecture", f"a module of your own is not {kind} (strategy '{name}')", others)
    if recipe.model.lora.active:
        yield Problem("model.lora.method", f"adapters are not {kind} (strategy '{name}')", others)
    if recipe.train.compile:
        yield Problem("train.compile", f"is not combined with {kind} (strategy '{name}')", "valid: false")
    model = model_type(recipe.model)
    if staged and model is not None and model not in STAGED_MODELS:
        hint = f"{valid_values(model, STAGED_MODELS)}; or {others}"
        yield Problem("strategy.pipeline_parallel", f"'{model}' is not cut into stages", hint)
    if strategy.tensor_parallel > 1 and model in UNPLANNED_MODELS and not strategy.tp_plan:
        hint = f"valid: {', '.join(PLANNED_MODELS)}, …; or give a strategy.tp_plan; or {others}"
        yield Problem("strategy.tensor_parallel", f"Transformers has no plan to cut a '{model}'", hint)
    shape = layer_shape(recipe.model)
    if shape is not None:
        yield from shape_problems(strategy, shape.num_layers, shape.num_heads)


def _parallel_task(recipe: Recipe, kind: str, staged: bool, others: str) -> Iterator[Problem]:
    """`kind` of model parallelism that the task does not support; `staged`: it is the pipeline."""
    task, name = task_of(recipe), recipe.strategy.name
    if task.pipeline_parallel if staged else task.tensor_parallel:
        return
    valid = names_of(lambda task: task.pipeline_parallel if staged else task.tensor_parallel)
    what = f"task '{task.name}' is not {kind} (strategy '{name}')"
    if task.own:
        what, others = f"a task of your own is not {kind} (strategy '{name}')", "strategy=tp, zero3 or fsdp"
    yield Problem("task.kind", what, f"valid: {', '.join(valid)}; or {others}")


def _eval(recipe: Recipe) -> Iterator[Problem]:
    settings = recipe.eval
    if settings.every_steps is not None and settings.every_epochs is not None:
        what = f"every_epochs {settings.every_epochs:g} and every_steps {settings.every_steps} are both set"
        yield Problem("eval.every_epochs", what, "keep one of them: null for the other")
    if settings.every_epochs is not None and recipe.data.streaming:
        yield Problem("eval.every_epochs", "a stream has no epochs", "eval.every_steps=N")
    if settings.patience is not None and not evaluates_during(recipe):
        yield Problem(
            "eval.patience",
            "early stopping needs evaluations during the run",
            "set eval.every_steps=N or eval.every_epochs=N and eval.enabled=true, or eval.patience=null",
        )


def _metric(recipe: Recipe) -> Iterator[Problem]:
    """A task of the user's own may report anything; the run finds out at its first evaluation."""
    if not recipe.eval.enabled:
        return
    task, known, metric = task_of(recipe), task_metrics(recipe), recipe.eval.metric
    if not task.implementation:
        return
    if task.reports_any:
        yield from _direction(recipe)
    elif metric is not None and metric not in known:
        what = f"task '{task.name}' does not report '{metric}'"
        yield Problem("eval.metric", what, valid_values(metric, known))


def _direction(recipe: Recipe) -> Iterator[Problem]:
    """Which way is better is never guessed."""
    name, direction = watched(recipe, task_metrics(recipe))
    if recipe.eval.patience is not None and direction is None:
        yield unknown_direction("eval.mode", name, "eval.mode=max or min")


def _target(recipe: Recipe) -> Iterator[Problem]:
    task = recipe.task.seq2seq
    if (task.min_length or 0) > task.max_target_length:
        what = f"min_length {task.min_length} is above max_target_length {task.max_target_length}"
        yield Problem("task.seq2seq.min_length", what, f"valid: at most {task.max_target_length}")


def _environment(recipe: Recipe) -> Iterator[Problem]:
    for name in recipe.launcher.env:
        if name in RESERVED_ENV or name.startswith("GALLEY_"):
            yield Problem(f"launcher.env.{name}", "is set by Galley itself", "choose another variable")
    yield from spelling_problems(recipe.cluster.preload)
    if recipe.cluster.preload and "LD_PRELOAD" in recipe.launcher.env:
        what = f"and cluster.preload={recipe.cluster.preload} both say what is preloaded"
        yield Problem("launcher.env.LD_PRELOAD", what, "name all libraries in cluster.preload")
