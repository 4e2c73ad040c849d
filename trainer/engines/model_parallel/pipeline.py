"""Pipeline parallel: stages on ranks, micro-batches through them, by torch.distributed.pipelining.

With tensor parallel inside of each stage and copies beside it, this is 3D parallelism in one strategy.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.pipelining import (
    PipelineStage,
    Schedule1F1B,
    ScheduleGPipe,
    ScheduleInterleaved1F1B,
)

from trainer.compatibility import with_one_opening_dtype, without_outputs
from trainer.engines.base import Batch, Setup, StepLoss, persistent_buffers
from trainer.engines.model_parallel.grid import PIPELINE, TENSOR
from trainer.engines.model_parallel.mesh import MeshEngine, sum_in_buckets
from trainer.engines.model_parallel.stages import Stage, check_layers, empty
from trainer.engines.model_parallel.tensor import cut
from trainer.engines.precision import autocast_forward

_SCHEDULES: dict[str, Any] = {
    "1f1b": Schedule1F1B,
    "gpipe": ScheduleGPipe,
    "interleaved": ScheduleInterleaved1F1B,
}


class PipelineEngine(MeshEngine):
    """Puts stage s on rank s modulo the ranks of a pipeline.

    `model` keeps only names, shapes and configuration; the stages hold its tensors.
    """

    even = True

    def __init__(self, model: torch.nn.Module, setup: Setup) -> None:
        check_layers(model, setup.recipe.strategy)
        self._buffers = {name: t.detach().cpu().clone() for name, t in persistent_buffers(model).items()}
        self._schedule: Any = None
        self._shape: tuple[int, ...] = ()
        self._inputs: Sequence[tuple[Batch, torch.Tensor]] = ()
        self._task_loss: StepLoss
        super().__init__(model, setup)
        self._tied = self._open_tied()

    def _place(self, model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
        strategy, device = self.setup.recipe.strategy, self.setup.ranks.device
        self.num_stages = strategy.num_stages
        stages = [Stage(model, index, self.num_stages) for index in range(self.num_stages)]
        ranks = self.grid.size(PIPELINE)

        self.names = [list(stage.held()) for stage in stages]
        self.holders: dict[str, list[int]] = {}
        for index, names in enumerate(self.names):
            for name in names:
                self.holders.setdefault(name, []).append(index % ranks)
        self.stages = torch.nn.ModuleDict(
            {str(i): stages[i] for i in range(self.grid.stage, self.num_stages, ranks)}
        )

        empty(model)
        self.parameters = dict(model.named_parameters())
        held: dict[str, torch.nn.Parameter] = {}
        for stage in self.own:
            stage.to(device)
            cut(stage.model, self.plan, self.grid.mesh[TENSOR])
            held |= stage.held()
            autocast_forward(stage, self.setup.recipe.precision.dtype, device.type)

        self.stages.train()
        self._evaluated = Chain(self)
        return held

    @property
    def own(self) -> list[Stage]:
        """Return the stages of this rank."""
        return [stage for stage in self.stages.values() if isinstance(stage, Stage)]

    def _counts(self, name: str) -> bool:
        return self.holders[name][0] == self.grid.stage

    def _open_tied(self) -> Any:
        """Return the group of the ranks that have embeddings and the head tied to them. A collective."""
        pairs = {tuple(places) for places in self.holders.values() if len(places) > 1}
        if not pairs:
            return None
        ((first, last),) = pairs  # in every layout only the first and the last stage share a weight
        lines = self.grid.mesh.mesh[[first, last]].flatten(1).t().tolist()
        group, _ = dist.new_subgroups_by_enumeration(lines)  # type: ignore[no-untyped-call]
        return group

    @property
    def name(self) -> str:
        schedule = [] if self._schedule is None else [type(self._schedule).__name__]
        return " + ".join([*schedule, *filter(None, [super().name])])

    @property
    def evaluated(self) -> torch.nn.Module:
        return self._evaluated

    @property
    def forwarded(self) -> torch.nn.Module:
        return self.stages

    def gradients(self, inputs: Sequence[tuple[Batch, torch.Tensor]], loss: StepLoss) -> torch.Tensor:
        tokens = torch.cat([batch["input_ids"] for batch, _ in inputs])
        mask = torch.cat([batch["attention_mask"] for batch, _ in inputs])
        self._inputs, self._task_loss = inputs, loss

        schedule = self._schedule_for(len(inputs), tuple(inputs[0][0]["input_ids"].shape))
        losses: list[torch.Tensor] = []
        options: dict[str, Any] = {"attention_mask": mask, **without_outputs(schedule)}
        if self._has_last:
            options |= {"target": torch.arange(len(inputs)), "losses": losses}
        schedule.step(*([tokens] if self.grid.stage == 0 else []), **options)

        total = torch.zeros((), device=self.setup.ranks.device)
        for value in losses:
            total += value.detach()
        return self.loss_part(total / self.loss_scale.scale)

    @property
    def _has_last(self) -> bool:
        return any(stage.last for stage in self.own)

    def _loss_of(self, output: torch.Tensor, number: torch.Tensor) -> torch.Tensor:
        """Return the task's own loss of one chunk, of a model whose output exists already."""
        batch, weights = self._inputs[int(number)]
        return self._task_loss(Answered(output), batch, weights) * self.loss_scale.scale

    def _schedule_for(self, chunks: int, shape: tuple[int, ...]) -> Any:
        """Return the schedule.

        The buffers of torch's stages have one shape; another shape needs another schedule.
        """
        if self._shape != (chunks, *shape):
            kind = self.setup.recipe.strategy.schedule
            stages = [self._torch_stage(int(index), shape) for index in self.stages]
            given = stages if kind == "interleaved" else stages[0]
            self._schedule = _SCHEDULES[kind](given, chunks, loss_fn=self._loss_of, scale_grads=False)
            self._shape = (chunks, *shape)
        return self._schedule

    def _torch_stage(self, index: int, shape: tuple[int, ...]) -> PipelineStage:
        config: Any = self.model.config
        # Torch sends gradients only for tensors that are declared to need them.
        hidden = torch.empty(*shape, config.hidden_size, device="meta", requires_grad=True)
        tokens = torch.empty(*shape, dtype=torch.int64, device="meta")
        logits = torch.empty(*shape, self._vocabulary, device="meta", requires_grad=True)
        stage: PipelineStage = with_one_opening_dtype(
            PipelineStage(
                self.stages[str(index)],
                index,
                self.num_stages,
                self.setup.ranks.device,
                input_args=tokens if index == 0 else hidden,
                output_args=logits if index == self.num_stages - 1 else hidden,
                group=self.grid.mesh.get_group(PIPELINE),
            )
        )
        return stage

    @property
    def _vocabulary(self) -> int:
        model: Any = self.model
        return int(model.get_output_embeddings().weight.shape[0])

    def _sum_partial(self) -> None:
        super()._sum_partial()
        shared = [name for name, places in self.holders.items() if len(places) > 1 and name in self.leaves]
        grads = [grad for name in shared if (grad := self.leaves[name].local.grad) is not None]
        if self._tied is not None and grads:
            sum_in_buckets(grads, self._tied, torch.float32)

    def checksums(self) -> dict[str, float]:
        """Return the sums, with those of tied weights, which agree between their two stages."""
        shared = [n for n, places in self.holders.items() if len(places) > 1 and n in self.leaves]
        share = f"tied weights, part {self.grid.share}"
        tied_sums = [float(self.leaves[name].local.detach().double().sum()) for name in shared]
        return super().checksums() | ({share: sum(tied_sums)} if tied_sums else {})

    def _names_by_stage(self) -> list[list[str]]:
        ranks = self.grid.size(PIPELINE)
        return [[n for i in range(r, self.num_stages, ranks) for n in self.names[i]] for r in range(ranks)]

    def _whole(self, name: str, local: torch.Tensor | None) -> torch.Tensor:
        """Return the tensor from the first stage that has it. A collective."""
        if local is None:
            whole = torch.empty(self.shapes[name], device=self.setup.ranks.device)
        else:
            whole = self._gathered(name, local).contiguous()
        group = self.grid.mesh.get_group(PIPELINE)
        dist.broadcast(whole, group=group, group_src=self.holders[name][0])
        return whole.cpu()

    def buffers(self) -> dict[str, torch.Tensor]:
        return self._buffers


class Answered(torch.nn.Module):
    """Stands for a model whose logits exist already."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self._logits = logits

    def forward(self, **_: Any) -> Any:
        return SimpleNamespace(logits=self._logits)


class Chain(torch.nn.Module):
    """The whole model's forward without gradients: stage after stage, the logits on every rank."""

    def __init__(self, engine: PipelineEngine) -> None:
        super().__init__()
        self.stages = engine.stages
        self.config = engine.model.config
        self._engine = [engine]  # in a list, so that torch does not register it as part of this module

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        engine = self._engine[0]
        grid, group = engine.grid, engine.grid.mesh.get_group(PIPELINE)
        ranks, config = grid.size(PIPELINE), engine.model.config
        value: torch.Tensor = input_ids
        for index in range(engine.num_stages):
            last = index == engine.num_stages - 1
            width = engine._vocabulary if last else int(config.hidden_size)  # type: ignore[union-attr, arg-type]
            if index % ranks == grid.stage:
                value = self.stages[str(index)](value, attention_mask).contiguous()
            else:
                value = torch.empty(*input_ids.shape, width, device=input_ids.device)
            dist.broadcast(value, group=group, group_src=index % ranks)
        return SimpleNamespace(logits=value)
