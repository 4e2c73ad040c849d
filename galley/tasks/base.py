"""What Galley knows of a task without torch: one frozen description beside the task's torch half."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from galley.data.roles import Need, Role, check_tables
from galley.errors import Problem, valid_values
from galley.metrics import LOSS, SHARE, Metric
from galley.schema import Data, Recipe

FileCheck = Callable[[Data, Need], list[Problem]]


@dataclass(frozen=True, kw_only=True)
class TaskDescription:
    """What planning, checks, estimates and sweeps ask of a task. Nothing here imports torch.

    Attributes:
        name: the value of `task.kind`.
        implementation: `MODULE:CLASS` of the torch half, a `trainer.tasks.base.Task`; empty if there is none.
        metrics: what its evaluation reports, by their names with `eval/`; early stopping watches the first.
        reported: those of one recipe, where its keys switch some off.
        reports_any: whether it may report metrics that are not in `metrics`, without a known direction.
        roles: columns that are read, by role; checked by `check_tables` if there is no `check`.
        check: what is wrong with its local files, where there is more to them than columns.
        labeled: its columns are named by `data.text_columns` and `data.label_column`.
        learns_names: takes classes or tags from its training rows, also where it only measures.
        one_source_batches: reads `data.one_source_batches`.
        streamed: its texts may be streamed, packed.
        taught: learns from the model of `task.distillation.teacher`.
        special_tokens: may need a mask, padding or separator token.
        tensor_parallel: its loss is one forward of the model, which may be cut over ranks.
        pipeline_parallel: its model may be cut into stages.
        headed: the head belongs to the model, and counts among its parameters.
        answered_tokens: tokens of a sample for which the head gives logits of the whole vocabulary; null if
            it gives none.
        extra_logit_bytes: bytes for each such token and word that its loss holds beside one cross-entropy.
        searched: keys, or beginnings of keys, that may change within a training, so that a population may
            search them.
        hub_task: the Hugging Face hub's name of what such a model does; null if the hub has none.
        rules: rules between its keys and other keys of the recipe.
        options: dataclass of `task.options`, of a task from outside Galley; null leaves them unchecked.
    """

    name: str
    implementation: str
    metrics: Mapping[str, Metric]
    reported: Callable[[Recipe], Mapping[str, Metric]] | None = None
    reports_any: bool = False
    roles: tuple[Role, ...] = ()
    check: FileCheck | None = None
    labeled: bool = False
    learns_names: bool = False
    one_source_batches: bool = False
    streamed: bool = False
    taught: bool = False
    special_tokens: bool = True
    tensor_parallel: bool = False
    pipeline_parallel: bool = False
    headed: bool = False
    answered_tokens: Callable[[Recipe], int] | None = None
    extra_logit_bytes: Callable[[Recipe], float] | None = None
    searched: tuple[str, ...] = ()
    hub_task: str | None = None
    rules: Callable[[Recipe], Iterator[Problem]] | None = None
    options: type[Any] | None = None

    @property
    def own(self) -> bool:
        """Whether it is a class of the user's from a folder in `plugins`."""
        return ":" in self.name

    def metrics_of(self, recipe: Recipe) -> dict[str, Metric]:
        """What the evaluation of this recipe reports, the main one first."""
        return dict(self.metrics if self.reported is None else self.reported(recipe))

    def file_problems(self, data: Data, need: Need) -> list[Problem]:
        """What is wrong with the local files of the data, as far as they are read before a launch.

        A task of the user's own may read anything: its rows are checked by the worker alone.
        """
        if self.check is not None:
            return self.check(data, need)
        return check_tables(data, self.roles, need) if self.roles else []

    def column_problems(self, columns: Mapping[str, str]) -> list[Problem]:
        """Names in `data.columns` that the task does not read."""
        valid = [role.name for role in self.roles]
        if columns and self.labeled:
            hint = "set data.text_columns and data.label_column"
            return [Problem("data.columns", f"is not read by task '{self.name}'", hint)]
        return [
            Problem(
                f"data.columns.{name}", f"task '{self.name}' reads no '{name}'", valid_values(name, valid)
            )
            for name in columns
            if self.roles and name not in valid
        ]

    def rule_problems(self, recipe: Recipe) -> list[Problem]:
        return [] if self.rules is None else list(self.rules(recipe))


LABEL_METRICS: Mapping[str, Metric] = {
    "eval/f1": SHARE, "eval/f1_macro": SHARE, "eval/accuracy": SHARE, "eval/loss": LOSS
}  # fmt: skip
TOKEN_METRICS: Mapping[str, Metric] = {
    "eval/perplexity": Metric("minimize", 1.0), "eval/accuracy": SHARE, "eval/loss": LOSS
}  # fmt: skip


def whole_text(recipe: Recipe) -> int:
    """Every token of a sample of text is answered."""
    return recipe.data.max_length


def teacher_problems(recipe: Recipe) -> Iterator[Problem]:
    """A task that is taught needs a teacher."""
    if recipe.task.distillation.teacher is None:
        hint = "the folder of a trained model, such as RUN/model"
        yield Problem("task.distillation.teacher", "is not set", hint)
