"""One attempt of a run on one rank: data, model, training, result."""

from __future__ import annotations

import logging
import resource
import socket
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from galley.errors import CheckpointError, ConfigError, Problem
from galley.registry import TASKS
from galley.run.verify import record_data
from galley.rundir import RunFolder
from galley.schema import Batch, Recipe
from galley.spec import Layout, MemoryLimit, RunResult, RunSpec, State
from galley.system.cluster_check import HostReport, check_hosts, report_host
from galley.system.preload import loaded_problems
from galley.trackers import summary_of, track_run
from trainer import engines
from trainer.backends.prepare import prepare_backend
from trainer.checkpoints.best import kept_folder, resumed_best, with_weights
from trainer.checkpoints.resume import find_checkpoint
from trainer.checkpoints.store import Checkpoint
from trainer.data.batches import BatchPlan, SourcePlan, StreamPlan
from trainer.data.store import ArrowDataset
from trainer.data.stream import SampleStream
from trainer.engines import half_precision
from trainer.engines.base import Engine, Setup
from trainer.engines.model_parallel.grid import open_grid
from trainer.hosts import peers
from trainer.hosts.rank_facts import RankFacts
from trainer.hosts.ranks import Ranks, open_ranks
from trainer.models import adapters
from trainer.models.meta_init import load_on_main
from trainer.run.energy import EnergyMeter
from trainer.run.failures import StepMemoryError
from trainer.run.loop import Loop, Parts, end_step
from trainer.run.model_card import write_model_card
from trainer.run.out_of_memory import Restart
from trainer.run.publish import push_model
from trainer.run.telemetry import Telemetry
from trainer.run.warm_imports import importing
from trainer.tasks.base import Datasets, Task, TokenizedDataset
from trainer.warm import preloaded

log = logging.getLogger("galley")

_SUCCEEDED: tuple[State, int] = ("succeeded", 0)
MakeTask = Callable[[Recipe], Task]


@dataclass(frozen=True)
class Attempt:
    """What the worker knows of the attempt from its environment.

    Attributes:
        number: counts from 1.
        resume: continue from the last complete checkpoint, if there is one.
        started_at: `time.monotonic()` of the worker's first line.
        lost: ends this rank with a message; a thread calls it when another host is lost.
    """

    number: int
    resume: bool
    started_at: float
    lost: Callable[[str], None]


def run(
    spec: RunSpec,
    folder: RunFolder,
    facts: RankFacts,
    attempt: Attempt,
    journal: Telemetry,
    make_task: MakeTask,
) -> Loop:
    """Train, and write model/ and result.json.

    model/ is not written if a request ended the training, or if `checkpoint.model` is false. Returns the loop
    with all that it has in memory, because it is faster to let the end of the process free it all at once.
    Raises what ends the run otherwise.
    """
    recipe, layout = spec.recipe, spec.layout
    torch.set_num_threads(layout.threads_per_proc)
    check_preloaded(layout)

    if facts.is_local_main:
        half_precision.warn_if_emulated(recipe.precision.dtype, layout.device, socket.gethostname())

    grouped = recipe.strategy.data_parallel or layout.world_size > 1
    choice = prepare_backend(layout, recipe, facts.local_rank)
    ranks = open_ranks(facts, layout.device, recipe.launcher.timeout_s, grouped, choice)
    if layout.nodes > 1:
        reports = check_cluster(ranks)
        if recipe.launcher.host_timeout_s is not None:
            rank_log = folder.rank_log(attempt.number, ranks.rank)
            peers.watch_hosts(ranks, reports, recipe.launcher.host_timeout_s, rank_log, attempt.lost)

    warm = preloaded.take(recipe)
    task = warm.task if warm else make_task(recipe)
    grid = open_grid(recipe.strategy, layout, ranks)
    setup = Setup(recipe, layout, ranks, grid=grid)
    task.ranks = setup.replicas

    journal.enter("data")
    # Only for built-in tasks: a task from outside may need none of these libraries.
    meanwhile = importing if recipe.task.kind in TASKS.built_in else nullcontext
    data = warm.data if warm else task.datasets(partial(ranks.main_first, meanwhile))
    if ranks.is_main:
        note_data(folder, data, recipe)
    plan = make_plan(data.train, recipe, layout.global_size)

    journal.enter("model")
    model = make_model(ranks, task, recipe, warm.model if warm else None)
    checkpoint = open_checkpoint(spec, folder, attempt, ranks, data, plan)
    frozen = ranks.from_main(adapters.frozen_sha256(model) if ranks.is_main else None)

    if checkpoint and isinstance(data.train, SampleStream):
        data.train.seek(checkpoint.state.step * plan.global_size, checkpoint.state.stream)
    if checkpoint:
        checkpoint.load_weights(model, frozen)

    # Forked ranks inherit the weights, so that DDP and others need not broadcast them.
    replicated = warm is not None and not checkpoint and preloaded.are_replicas(model, ranks, warm.marks)
    engine = engines.wrap(model, replace(setup, frozen_sha256=frozen, replicated=replicated))
    del model  # the engine holds it now; a pipeline keeps only a part, and the rest must be freed
    if checkpoint:
        checkpoint.load_engine(engine)

    journal.rewind(checkpoint.state.step if checkpoint else 0)
    journal.tracking = track_run(spec, folder, ranks.is_main)
    kept = resumed_best(folder.checkpoints, checkpoint, ranks)
    loop = Loop(
        Parts(recipe, folder, ranks, task, data, engine, plan, journal),
        replace(checkpoint.state, kept=kept) if checkpoint else None,
    )

    energy = EnergyMeter(ranks, recipe.train, folder.root)
    train(loop, Restart(ranks.store, ranks.world_size, attempt.started_at))
    journal.last |= energy.stop()
    if loop.ended_by is None and recipe.checkpoint.model and not recipe.eval.only:
        journal.enter("save", loop.step)
        save_model(folder, task, engine, ranks, best_checkpoint(loop))

    result = make_result(loop, attempt, ranks, _resumed_from(folder, checkpoint))
    if ranks.is_main:
        folder.write_result(publish(folder, spec, result))
    engine.close()
    journal.tracking.finish(summary_of(result), result.state == "succeeded")
    journal.enter("done", loop.step)
    return loop


def train(loop: Loop, restart: Restart) -> None:
    """Run the loop. If memory runs out in a step, this process may start again and not return."""
    restart.ready = loop.writer.finish
    restart.watch()
    try:
        loop.run()
    except StepMemoryError as error:
        if error.micro_size is not None:
            loop.parts.folder.write_memory_limit(MemoryLimit(error.micro_size))
        if error.micro_size is None or not loop.parts.ranks.restartable:
            raise
        restart.request(error.micro_size)
    except RuntimeError:  # such as a lost peer, which may have lost its connection by starting again
        restart.hold()
        raise
    restart.end()


def note_data(folder: RunFolder, data: Datasets, recipe: Recipe) -> None:
    """Write data.json at the first preparation; warn if a later attempt finds other data."""
    before = folder.read_data()
    if before is None:
        folder.write_data(record_data(data.train.fingerprint, recipe.data))
    elif before.fingerprint != data.train.fingerprint:
        log.warning("the data are not those of the run's first attempt: see `verify %s`", folder.root)


def make_plan(train: TokenizedDataset, recipe: Recipe, global_size: int) -> BatchPlan:
    """Return which samples each step takes, for the kind of data that the recipe has."""
    if isinstance(train, SampleStream):
        return StreamPlan(train.lengths, recipe.seed, global_size, recipe.train.max_steps or 1)
    if recipe.data.one_source_batches and isinstance(train, ArrowDataset):
        weights = [source.weight for source in recipe.data.mix]
        return SourcePlan(train.lengths, recipe.seed, global_size, train.numbers("source"), weights)
    return BatchPlan(train.lengths, recipe.seed, global_size, recipe.train.length_grouped)


def check_preloaded(layout: Layout) -> None:
    """Raise `ConfigError` if this rank lacks a library that had to be loaded before all others."""
    problems = list(loaded_problems(layout.preload, socket.gethostname()))
    if problems:
        raise ConfigError(problems)


def check_cluster(ranks: Ranks) -> list[HostReport]:
    """Compare the hosts' packages and clocks. A collective.

    Raises `ConfigError` on every rank if two hosts have different packages.
    """
    ranks.barrier()  # so that all clocks are read at the same moment
    reports = [HostReport(**report) for report in ranks.gather_json(asdict(report_host()))]
    peers.remember(reports)
    for warning in check_hosts(reports):
        log.warning("%s", warning)
    return reports


def make_model(
    ranks: Ranks, task: Task, recipe: Recipe, preloaded_model: torch.nn.Module | None
) -> torch.nn.Module:
    """Return `prepare_model` of the preloaded model if there is one, else of the loaded one. A collective."""
    if preloaded_model is not None or not recipe.strategy.cpu_ram_efficient_loading:
        return prepare_model(preloaded_model or task.model(), task, recipe)
    return load_on_main(ranks, task.model, lambda model: prepare_model(model, task, recipe))


def prepare_model(model: torch.nn.Module, task: Task, recipe: Recipe) -> torch.nn.Module:
    """Return the model with adapters, and with recomputed activations, if the recipe says so."""
    if recipe.train.gradient_checkpointing:
        enable = getattr(model, "gradient_checkpointing_enable", None)
        if enable is None or not getattr(model, "supports_gradient_checkpointing", False):
            what = f"{type(model).__name__} cannot recompute activations"
            raise ConfigError(Problem("train.gradient_checkpointing", what, "valid: false"))
        enable({"use_reentrant": False})
    return adapters.with_adapters(model, task, recipe)


def open_checkpoint(
    spec: RunSpec, folder: RunFolder, attempt: Attempt, ranks: Ranks, data: Datasets, plan: BatchPlan
) -> Checkpoint | None:
    """Return the checkpoint that this attempt continues from; None if it begins.

    Raises `CheckpointError` if it was made from other data or other batches.
    """
    named = spec.recipe.checkpoint.resume_from
    checkpoint = find_checkpoint(folder.checkpoints, attempt.resume, named, ranks)
    if checkpoint is None:
        return None
    saved = (checkpoint.state.data_fingerprint, checkpoint.state.seed, checkpoint.state.global_size)
    if saved != (data.train.fingerprint, plan.seed, plan.global_size):
        raise CheckpointError(
            f"{checkpoint.folder}: was trained on other data, another seed or another global batch"
        )
    if checkpoint.folder.parent != folder.checkpoints:
        check_continues(spec.recipe, checkpoint.state.step, plan)
    return checkpoint


def check_continues(recipe: Recipe, step: int, plan: BatchPlan) -> None:
    """Raise `ConfigError` if a run that begins at another run's `step` would train nothing."""
    last = end_step(recipe.train, plan.total_steps(recipe.train.epochs, recipe.train.max_steps))
    if step >= last and not recipe.eval.only:
        what = f"is at step {step}, and this run ends at step {last}: nothing would be trained"
        where = f"checkpoint.resume_from={recipe.checkpoint.resume_from}"
        raise ConfigError(Problem(where, what, f"more than {step} steps: train.max_steps, train.epochs"))


def _resumed_from(folder: RunFolder, checkpoint: Checkpoint | None) -> str | None:
    """Return the name of the run's own checkpoint, or the path of another run's."""
    if checkpoint is None:
        return None
    is_own = checkpoint.folder.parent == folder.checkpoints
    return checkpoint.folder.name if is_own else str(checkpoint.folder)


def best_checkpoint(loop: Loop) -> Path | None:
    """Return the checkpoint whose weights model/ gets; None for the current weights."""
    kept = loop.best.kept
    if kept is None or kept.step == loop.step:
        return None
    log.info("model/ is of step %d, the best by %s: %g", kept.step, kept.metric, kept.value)
    return kept_folder(loop.parts.folder.checkpoints, kept)


def save_model(folder: RunFolder, task: Task, engine: Engine, ranks: Ranks, best: Path | None = None) -> None:
    """Write model/ in Hugging Face format on the main rank; the others take part in gathering, and wait.

    `best`: the checkpoint whose weights are saved in place of the engine's.
    """
    adapted = task.recipe.model.lora.active
    state = engine.full_state(without=adapters.frozen_names(engine.model) if adapted else ())
    if ranks.is_main:
        state = state if best is None else with_weights(state, engine, Checkpoint(best))
        folder.model.mkdir(exist_ok=True)
        if adapted:
            adapters.save(task, engine.model, state, str(folder.model))
        else:
            task.save_pretrained(engine.model, state, str(folder.model))
    ranks.barrier()


def publish(folder: RunFolder, spec: RunSpec, result: RunResult) -> RunResult:
    """Write the model card, and upload model/ if the recipe says so. The result reports a failed upload."""
    if not folder.model.is_dir() or result.state != "succeeded":
        return result
    write_model_card(folder.model, spec, result)
    if spec.recipe.hub.push is None:
        return result
    problem = push_model(folder.model, spec.recipe.hub)
    if problem:
        log.warning("%s", problem)
    return replace(result, message="; ".join(filter(None, [result.message, problem])))


def make_result(loop: Loop, attempt: Attempt, ranks: Ranks, resumed_from: str | None) -> RunResult:
    """Return the attempt's result. A collective, since memory is the largest over the ranks."""
    peak = ranks.max_floats([peak_memory_gib(ranks.device)])[0]
    speed, rates = loop.eval_speed, loop.meter.steady()
    if speed is not None and loop.parts.recipe.eval.only:
        rates = speed.rates

    layout = loop.parts.engine.setup.layout
    state, exit_code = loop.ended_by.ends_as if loop.ended_by and loop.ended_by.ends_as else _SUCCEEDED
    kept = loop.best.kept if loop.ended_by is None else None
    result = RunResult(
        state=state,
        exit_code=exit_code,
        message=stop_message(loop),
        metrics={**loop.parts.journal.metrics(), **(kept.metrics if kept else {})},
        best_step=kept.step if kept else None,
        steps=loop.step,
        epochs=round(loop.epoch, 4),
        wall_s=round(time.monotonic() - attempt.started_at, 3),
        train_s=round(loop.meter.train_s, 3),
        latency_s=None if speed is None else round(speed.latency_s, 6),
        peak_memory_gib=round(peak, 3),
        world_size=ranks.world_size,
        attempts=attempt.number,
        resumed_from=resumed_from,
        engaged=loop.probe.result,
        batch=Batch(layout.global_size, layout.micro_size, layout.accumulation),
    )

    if rates is None:
        return result
    return replace(
        result, samples_per_s=round(rates.samples_per_s, 3), tokens_per_s=round(rates.tokens_per_s, 1)
    )


def stop_message(loop: Loop) -> str:
    """Return why the run ended before its last step; empty if it did not."""
    if loop.ended_by is not None:
        return f"{loop.ended_by.name} was requested; saved at step {loop.step} of {loop.total_steps}"
    if loop.step < loop.end_step:
        return f"stopped early at step {loop.step} of {loop.total_steps}"
    if loop.step < loop.total_steps:
        return f"stopped at step {loop.step} of {loop.total_steps}, as train.stop_at_step says"
    return ""


def peak_memory_gib(device: torch.device) -> float:
    """Return this rank's peak: device memory on CUDA, resident memory of the process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # getrusage counts bytes on macOS and KiB on Linux.
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
