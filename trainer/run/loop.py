"""The training loop, one for every strategy and any number of ranks.

The loop waits for the device only when it logs. What a step does is a function of (seed, step, rank)
and of the state that a checkpoint holds, so that a resumed run continues bit for bit.
"""

from __future__ import annotations

import logging
import math
import random
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from galley.errors import ConfigError, Problem
from galley.run.relayout import halved
from galley.rundir import RunFolder
from galley.schema import Recipe, Train
from galley.spec import MemoryLimit
from trainer.checkpoints.best import Best
from trainer.checkpoints.manifest import TrainState
from trainer.checkpoints.writer import Writer
from trainer.data.batches import BatchPlan, GlobalBatch
from trainer.data.loader import Ahead, Share, StepInputs
from trainer.data.stream import SampleStream
from trainer.engines.base import Engine, RepeatableEngine
from trainer.engines.verification import EngagementProbe
from trainer.hosts.ranks import Ranks
from trainer.models.padding import padding_matters
from trainer.optim.schedule import learning_rate, length_warnings
from trainer.run.control_files import ControlFile, ControlFiles
from trainer.run.early_stopping import EarlyStopping
from trainer.run.evaluation import evaluate
from trainer.run.failures import NonFiniteLossError, is_out_of_memory
from trainer.run.losses import Losses, divisor
from trainer.run.out_of_memory import describe_split, memory_watched
from trainer.run.telemetry import Telemetry
from trainer.run.throughput import EvalMeter, EvalSpeed, Meter
from trainer.tasks.base import Batch, Datasets, Task, TokenizedDataset

log = logging.getLogger("galley")
UNCHECKED_PADDING = (
    "train.compile=true: it is not checked whether padding changes the model's answers; if it does (FNet, "
    "XLNet, a module that ignores the attention mask), the metrics depend on eval.batch_size"
)


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed every generator that a model may draw from, as a function of the arguments alone."""
    state = np.random.SeedSequence([seed, step, rank]).generate_state(2, np.uint64)
    torch.manual_seed(int(state[0] >> np.uint64(1)))
    random.seed(int(state[1]))
    np.random.seed(int(state[1] & np.uint64(0xFFFFFFFF)))


@dataclass(frozen=True)
class Parts:
    """The objects that one run consists of."""

    recipe: Recipe
    folder: RunFolder
    ranks: Ranks
    task: Task
    data: Datasets
    engine: Engine
    plan: BatchPlan
    journal: Telemetry


class Loop:
    """Trains from `step` to the end. `step` counts the optimizer steps that are done.

    Attributes:
        total_steps: the length of the learning rate schedule, in steps.
        end_step: the step at which this run ends, if nothing ends it before.
        best: the best evaluation so far, with `checkpoint.keep_best`.
        ended_by: the request that ended the training before its end; None if there was none.
        eval_speed: the speed of the last evaluation.
        writer: writes the checkpoints; it has nothing left to write when `run` returns.
    """

    def __init__(self, parts: Parts, resumed: TrainState | None) -> None:
        """Prepare the loop. `resumed.kept` is the best evaluation, if its checkpoint still exists."""
        self.parts = parts
        recipe = parts.recipe
        steps = parts.plan.total_steps(recipe.train.epochs, recipe.train.max_steps)
        self.total_steps = 0 if recipe.eval.only else steps
        self.end_step = end_step(recipe.train, self.total_steps)
        self.step = resumed.step if resumed else 0
        self.meter = Meter()
        self.eval_speed: EvalSpeed | None = None
        self.probe = EngagementProbe(parts.engine)
        self.stopping = EarlyStopping.of(recipe, parts.task.known_metrics())
        self.best = Best.of(recipe, parts.task.known_metrics())
        self.ended_by: ControlFile | None = None
        self.writer = Writer(parts.folder.checkpoints, recipe.checkpoint)
        self._requests = ControlFiles(parts.folder, parts.ranks)

        if resumed:
            self.stopping.resume(resumed.watched, resumed.best, resumed.misses)
            self.best.resume(resumed.kept)
        self._lr = learning_rate(recipe.schedule, recipe.optim.lr, self.total_steps)
        for warning in length_warnings(recipe, self.total_steps):
            log.warning("%s", warning)

        self._losses, self._weight = Losses(parts.ranks.device), torch.ones(())
        self._grad_norm = torch.zeros(())
        self._evaluated_at: int | None = None
        self._ahead = Ahead(parts.plan, self.step, self.end_step, recipe.data.loader_workers)
        self._is_best = False  # whether the last evaluation is the best and its checkpoint not yet saved

    @property
    def epoch(self) -> float:
        """Return the number of epochs that are done, as a fraction."""
        return self.step / self.parts.plan.steps_per_epoch

    def run(self) -> None:
        """Train, evaluate and save up to the end.

        Raises `NonFiniteLossError`, `EngagementError`, `DiskFullError`, `StepMemoryError`, or what the task
        raises.
        """
        self.parts.journal.enter("train", self.step, self.end_step)
        stopped = False
        batches = self.parts.plan.from_step(self.step)
        self.meter.resume()
        with closing(self._ahead):
            while self.step < self.end_step and not stopped:
                self._train_step(next(batches))
                stopped = self._after_step()
        self.meter.pause()

        if self._losses.steps:
            self._log_row()
        if self.ended_by is None and self.parts.data.eval and self._evaluated_at != self.step:
            self._evaluate(self.parts.data.eval)
        if self._is_best:
            self._save()
        self.writer.wait()

    def _train_step(self, global_batch: GlobalBatch) -> None:
        """Compute the gradients of one global batch and apply one optimizer step."""
        engine, samples = self.parts.engine, global_batch.samples
        with memory_watched(engine):
            self.probe.before_forward()
            while (loss := self._try_gradients(global_batch)) is None:
                pass
            self._losses.add(loss, self._weight)
            self.probe.before_step()
            lr = self._lr(self.step)
            self._grad_norm = engine.step(lr)
            self.probe.after_step(lr)
        self.step += 1
        self.meter.count(len(samples), int(self.parts.plan.lengths[samples].sum()))

    def _try_gradients(self, global_batch: GlobalBatch) -> torch.Tensor | None:
        """Return `_gradients(…)`; None if memory ran out, and the next try has smaller micro-batches.

        Raises the original error if the engine cannot undo a failed backward.
        """
        engine = self.parts.engine
        try:
            return self._gradients(global_batch)
        except (RuntimeError, MemoryError) as error:
            smaller = halved(engine.setup.layout)
            if not is_out_of_memory(error) or smaller is None or not isinstance(engine, RepeatableEngine):
                raise
        # Outside the handler: inside it, the error's traceback still holds the activations.
        engine.discard()
        engine.setup = replace(engine.setup, layout=smaller)
        self.parts.folder.write_memory_limit(MemoryLimit(smaller.micro_size))
        log.warning("out of memory at step %d: %s", self.step, describe_split(smaller))
        return None

    def _gradients(self, global_batch: GlobalBatch) -> torch.Tensor:
        """Leave the gradients of the global batch in the engine; return this rank's part of the loss."""
        engine, task = self.parts.engine, self.parts.task
        replicas = engine.setup.replicas
        seed_step(self.parts.recipe.seed, self.step, engine.setup.stream)
        task.step = self.step

        inputs = self._step_inputs(global_batch)
        self._weight = replicas.sum(sum_weights(task, inputs))
        weight = divisor(self._weight)
        return engine.gradients(inputs, lambda model, *inputs: task.loss(model, *inputs) / weight)

    def _step_inputs(self, global_batch: GlobalBatch) -> list[tuple[Batch, torch.Tensor]]:
        """Return this rank's micro-batches of one step, on its device."""
        parts, setup = self.parts, self.parts.engine.setup
        layout, replicas = setup.layout, setup.replicas
        share = Share(
            replicas.rank, replicas.world_size, layout.micro_size, layout.accumulation, parts.engine.even
        )
        inputs = StepInputs(parts.task, parts.data.train, parts.plan.lengths, share)
        return [
            ({name: self._to_device(tensor) for name, tensor in batch.items()}, self._to_device(weights))
            for batch, weights in self._ahead.take(global_batch, inputs)
        ]

    def _to_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy to the device without waiting: only from page-locked memory is the copy asynchronous."""
        device = self.parts.ranks.device
        held = tensor.pin_memory() if device.type == "cuda" else tensor
        return held.to(device, non_blocking=True)

    def _after_step(self) -> bool:
        """Log, evaluate and save as often as the recipe says; return whether to end early."""
        recipe, stopped = self.parts.recipe, False
        saves = self.step == recipe.train.stop_at_step or _due(self.step, recipe.checkpoint.every_steps)
        # Log before each save: a resumed run then logs the same rows, and a state with NaN is never saved.
        logs = saves or _due(self.step, recipe.train.log_every_steps)
        if logs:
            self._log_row()
        self.parts.journal.at_step(self.step)
        self.writer.check()

        if self.parts.data.eval and self._evaluation_is_due():
            stopped = self._evaluate(self.parts.data.eval)
        if self._is_best and self._losses.steps:
            self._log_row()

        request = self._requests.read() if logs and self.step < self.end_step else None
        if saves or request or self._is_best:
            self._save()
        return self._obey(request) or stopped

    def _evaluation_is_due(self) -> bool:
        """Return whether this step ends a period: so many steps, or the first step after so many epochs."""
        settings = self.parts.recipe.eval
        if settings.every_epochs is None:
            return _due(self.step, settings.every_steps)
        steps = settings.every_epochs * self.parts.plan.steps_per_epoch
        return periods(self.step, steps) > periods(self.step - 1, steps)

    def _obey(self, request: ControlFile | None) -> bool:
        """Confirm the request, for which a checkpoint was saved; return whether it ends the training."""
        if request is None:
            return False
        log.info("%s was requested at step %d", request.name, self.step)
        self.writer.wait()  # order matters: once the file is gone, the user must find a complete checkpoint
        self._requests.done(request)
        self.ended_by = request if request.ends_as else None
        return self.ended_by is not None

    def _log_row(self) -> None:
        """Write a row of metrics. A collective.

        The loss is the mean since the last row, null if nothing was measured.
        """
        loss = self._losses.mean(self.parts.ranks, self.step)
        norm = float(self._grad_norm)
        rates = self.meter.cut()
        fp16 = self.parts.engine.loss_scale.dynamic
        if not (math.isfinite(loss or 0.0) and (fp16 or math.isfinite(norm))):
            raise NonFiniteLossError(
                f"step {self.step}: loss {loss}, gradient norm {norm}: the run diverged; "
                "lower optim.lr, lengthen the warm-up, or check the data"
            )

        values = {
            "loss": loss,
            "lr": self._lr(self.step - 1),
            "grad_norm": norm if math.isfinite(norm) else None,
            "samples_per_s": round(rates.samples_per_s, 3),
            "tokens_per_s": round(rates.tokens_per_s, 1),
        }
        self.parts.journal.row(self.step, self.epoch, values)

    def _evaluate(self, dataset: TokenizedDataset) -> bool:
        """Evaluate; return whether early stopping ends the run, as the main rank decides. A collective."""
        parts = self.parts
        self.meter.pause()
        parts.journal.enter("eval", self.step)
        batch_size = parts.recipe.eval.batch_size
        engine, meter = parts.engine, EvalMeter()
        replicas = engine.setup.replicas

        one_length = self._needs_one_length(dataset)
        metrics = evaluate(engine.evaluated, parts.task, dataset, batch_size, replicas, meter, one_length)
        self.eval_speed = meter.speed(replicas)
        self._evaluated_at = self.step
        parts.journal.row(self.step, self.epoch, dict(metrics))

        decisions = [self.stopping.update(metrics), self.best.update(self.step, metrics)]
        stop, self._is_best = (bool(flag) for flag in parts.ranks.from_main(decisions))

        if stop:
            log.info("early stop at step %d: best %s %s", self.step, self.stopping.metric, self.stopping.best)
        parts.journal.enter("train", self.step)
        self.meter.resume()
        return stop

    def _needs_one_length(self, dataset: TokenizedDataset) -> bool:
        """Return whether padding changes what the model predicts. A collective.

        The answer follows from the weights alone, so that it is the same after a resume. It is computed at
        every evaluation, because a head that begins at zero hides the difference. Compiled models are not
        tested: each shape costs a graph.
        """
        parts, engine = self.parts, self.parts.engine
        if parts.recipe.train.compile:
            self._tell_unchecked_padding(dataset)
            return False
        compute = parts.recipe.precision.dtype
        return padding_matters(engine.evaluated, parts.task, dataset, engine.setup.replicas, compute)

    def _tell_unchecked_padding(self, dataset: TokenizedDataset) -> None:
        """Once, and only if the evaluation pads."""
        if self._evaluated_at is None and np.ptp(dataset.lengths):
            log.warning("%s", UNCHECKED_PADDING)

    def _save(self) -> None:
        """Save a checkpoint, and log for how long training stood still."""
        self._is_best = False
        self.meter.pause()
        self.parts.journal.enter("save", self.step)
        stall_s = self.writer.save(self.parts.engine, self.state())
        self.parts.journal.row(self.step, self.epoch, {"checkpoint/stall_s": round(stall_s, 4)})
        self.parts.journal.enter("train", self.step)
        self.meter.resume()

    def state(self) -> TrainState:
        """Return what a resumed run needs besides weights and optimizer."""
        engine, plan = self.parts.engine, self.parts.plan
        epoch, batch = divmod(self.step, plan.steps_per_epoch)
        return TrainState(
            step=self.step,
            epoch=epoch,
            batch=batch,
            seed=plan.seed,
            global_size=plan.global_size,
            total_steps=self.total_steps,
            optimizer_steps=engine.optimizer_steps,
            loss_scale=engine.loss_scale.scale,
            loss_scale_good_steps=engine.loss_scale.good_steps,
            loss_scale_overflows=engine.loss_scale.overflows,
            data_fingerprint=self.parts.data.train.fingerprint,
            best=self.stopping.best,
            misses=self.stopping.misses,
            watched=self.stopping.metric,
            kept=self.best.kept,
            stream=self._stream_position(),
        )

    def _stream_position(self) -> Any:
        """Return where the stream of samples stands; None for data in memory."""
        train = self.parts.data.train
        if not isinstance(train, SampleStream):
            return None
        return train.position(self.step * self.parts.plan.global_size)


def end_step(train: Train, total_steps: int) -> int:
    """Return the step at which the run ends. Raises `ConfigError` if the data end before that step."""
    if train.stop_at_step is None:
        return total_steps
    for key, asked in (("stop_at_step", train.stop_at_step), ("max_steps", train.max_steps)):
        if asked is not None and asked > total_steps:
            what = f"is never reached: train.epochs={train.epochs:g} ends the run at step {total_steps}"
            raise ConfigError(Problem(f"train.{key}={asked}", what, "more train.epochs"))
    return train.stop_at_step


def sum_weights(task: Task, inputs: list[tuple[Batch, torch.Tensor]]) -> torch.Tensor:
    """Return the sum of weights that this rank's losses of one step are divided by, as fp32."""
    parts = [task.weight(batch, weights).float() for batch, weights in inputs]
    return torch.stack(parts).sum()


def periods(step: int, steps: float) -> int:
    """Return how many whole periods of `steps`, which may be a fraction, have passed after `step`."""
    return math.floor(step / steps + 1e-9)


def _due(step: int, every_steps: int | None) -> bool:
    return every_steps is not None and step % every_steps == 0
