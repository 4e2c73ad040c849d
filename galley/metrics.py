"""The metrics that a run reports: which way each is better, its range and its unit.

The one table that objectives, bounds, early stopping, best checkpoints, pruning and reports read. The metrics
of a task of the user's own are those of its class attribute `reports`; a direction that is not in a table is
never guessed.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from galley.errors import Problem, valid_values
from galley.schema import Recipe

Direction = Literal["maximize", "minimize"]
# What a user may write -> what it means.
DIRECTIONS: dict[str, Direction] = {
    "max": "maximize", "maximize": "maximize", "min": "minimize", "minimize": "minimize"
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """`low` and `high` are the least and the greatest possible value; `unit` is empty for a plain number."""

    direction: Direction
    low: float = -math.inf
    high: float = math.inf
    unit: str = ""

    @property
    def best(self) -> float:
        """The value that no other is better than; infinite if there is none."""
        return self.high if self.direction == "maximize" else self.low


SHARE = Metric("maximize", 0.0, 1.0)
PERCENT = Metric("maximize", 0.0, 100.0, "%")
CORRELATION = Metric("maximize", -1.0, 1.0)
LOSS = Metric("minimize", 0.0, unit="nats")
ERROR = Metric("minimize", 0.0)

_LABELS = {"eval/f1": SHARE, "eval/f1_macro": SHARE, "eval/accuracy": SHARE, "eval/loss": LOSS}
_NEXT_TOKENS = {"eval/perplexity": Metric("minimize", 1.0), "eval/accuracy": SHARE, "eval/loss": LOSS}

# task.kind -> what its evaluation reports; early stopping watches the first by default.
TASK_METRICS: dict[str, dict[str, Metric]] = {
    "sequence_classification": _LABELS,
    "sequence_regression": {
        "eval/spearman": CORRELATION, "eval/pearson": CORRELATION, "eval/mse": ERROR, "eval/loss": ERROR
    },
    "multi_label_classification": _LABELS,
    "distillation": _LABELS,
    "question_answering": {
        "eval/f1": PERCENT, "eval/exact_match": PERCENT, "eval/has_answer_f1": PERCENT,
        "eval/no_answer_f1": PERCENT, "eval/loss": LOSS,
    },
    "token_classification": {
        "eval/f1": SHARE, "eval/precision": SHARE, "eval/recall": SHARE, "eval/accuracy": SHARE,
        "eval/loss": LOSS,
    },
    "causal_lm": _NEXT_TOKENS,
    "masked_lm": _NEXT_TOKENS,
    "masked_lm_distillation": _NEXT_TOKENS,
    "seq2seq": {"eval/bleu": PERCENT, "eval/chrf": PERCENT, "eval/loss": LOSS},
    "contrastive": {"eval/mrr": SHARE, "eval/accuracy": SHARE, "eval/loss": LOSS},
}  # fmt: skip

# What every run reports, whatever its task.
RUN_METRICS: dict[str, Metric] = {
    "samples_per_s": Metric("maximize", 0.0, unit="samples/s"),
    "tokens_per_s": Metric("maximize", 0.0, unit="tokens/s"),
    "latency_s": Metric("minimize", 0.0, unit="s"),
    "wall_s": Metric("minimize", 0.0, unit="s"),
    "train_s": Metric("minimize", 0.0, unit="s"),
    "peak_memory_gib": Metric("minimize", 0.0, unit="GiB"),
    "cost": Metric("minimize", 0.0),
    "energy_kwh": Metric("minimize", 0.0, unit="kWh"),
    "co2_eq_kg": Metric("minimize", 0.0, unit="kg"),
    "train/loss": Metric("minimize"),
}


def is_own_task(recipe: Recipe) -> bool:
    """Whether `task.kind` is a class of the user's, which may report any `eval/…`."""
    return recipe.task.kind not in TASK_METRICS


def task_metrics(recipe: Recipe) -> dict[str, Metric]:
    """The metrics of the recipe's evaluation of which the direction is known, the main one first.

    Without generation, `seq2seq` measures the loss alone. Of a task of the user's own they are `eval/loss`,
    which every evaluation measures, and what its class declares.
    """
    kind = recipe.task.kind
    if is_own_task(recipe):
        return own_metrics(declared_reports(kind, [Path(folder) for folder in recipe.plugins]))
    if kind == "seq2seq" and not recipe.task.seq2seq.generate:
        return {"eval/loss": LOSS}
    return TASK_METRICS[kind]


def own_metrics(reports: Mapping[str, Any]) -> dict[str, Metric]:
    """`{"cer": "min"}` of a task of the user's own as metrics; a word that is no direction declares none.

    Its loss may have any sign: it has a direction, and no range.
    """
    found = {
        f"eval/{str(name).removeprefix('eval/')}": Metric(DIRECTIONS[way])
        for name, way in reports.items()
        if isinstance(way, str) and way in DIRECTIONS
    }
    return {"eval/loss": Metric("minimize"), **found}


def known_metrics(recipe: Recipe) -> dict[str, Metric]:
    """All metrics of the recipe's run of which the direction is known."""
    return {**task_metrics(recipe), **RUN_METRICS}


def watched(recipe: Recipe, metrics: Mapping[str, Metric]) -> tuple[str, Direction | None]:
    """The metric that early stopping watches, and its direction; None if nobody has stated it.

    `metrics`: of the recipe's task (`task_metrics`).
    """
    kept = kept_best(recipe, metrics)
    name = recipe.eval.metric or (kept[0] if kept else next(iter(metrics)))
    if recipe.eval.mode is not None:
        return name, DIRECTIONS[recipe.eval.mode]
    if kept is not None and kept[0] == name:
        return kept
    return name, metrics[name].direction if name in metrics else None


def kept_best(recipe: Recipe, metrics: Mapping[str, Metric]) -> tuple[str, Direction | None] | None:
    """What `checkpoint.keep_best` names: the metric, and its direction or None; None if it is null."""
    if recipe.checkpoint.keep_best is None:
        return None
    name, direction = split_direction(recipe.checkpoint.keep_best)
    if direction is not None:
        return name, DIRECTIONS.get(direction)
    return name, metrics[name].direction if name in metrics else None


def split_direction(words: str) -> tuple[str, str | None]:
    """`METRIC:max` as the metric and the word behind the colon, which may be no direction."""
    name, colon, direction = words.rpartition(":")
    return (name, direction) if colon else (words, None)


def direction_warnings(recipe: Recipe) -> list[str]:
    """What `eval.mode` and `checkpoint.keep_best` say against the table of metrics, which they override."""
    known, found = task_metrics(recipe), list[str | None]()
    if recipe.eval.mode is not None:
        name, direction = watched(recipe, known)
        found.append(contradiction(f"eval.mode={recipe.eval.mode}", name, direction, known))
    if recipe.checkpoint.keep_best is not None:
        name, word = split_direction(recipe.checkpoint.keep_best)
        where = f"checkpoint.keep_best={recipe.checkpoint.keep_best}"
        found.append(contradiction(where, name, DIRECTIONS.get(word or ""), known))
    return [warning for warning in found if warning is not None]


def contradiction(
    where: str, metric: str, direction: Direction | None, known: Mapping[str, Metric]
) -> str | None:
    """A warning if the stated direction of a metric is not that of its table; None if nothing is stated."""
    if direction is None or metric not in known or known[metric].direction == direction:
        return None
    usual = known[metric].direction
    better = "greater" if usual == "maximize" else "smaller"
    return f"{where} is to {direction} '{metric}', of which the {better} is better ({usual})"


def is_better(value: float, best: float | None, direction: Direction) -> bool:
    """Whether `value` improves on the best one so far; a value that is not a number never does."""
    if math.isnan(value) or best is None:
        return not math.isnan(value)
    return value > best if direction == "maximize" else value < best


def describe_range(metric: Metric) -> str:
    """`0 to 100 %`, `at least 0 s`."""
    if math.isinf(metric.high):
        text = "any number" if math.isinf(metric.low) else f"at least {metric.low:g}"
    else:
        text = f"{metric.low:g} to {metric.high:g}"
    return f"{text} {metric.unit}".rstrip()


def unknown_direction(where: str, metric: str, hint: str) -> Problem:
    """Of a metric of the user's own that needs a direction; `hint`: how to state one at this place."""
    own = f"reports = {{'{metric.removeprefix('eval/')}': 'min'}} in the class of the task"
    return Problem(where, f"does not say which way '{metric}' is better", f"{hint}; or {own}")


def reports_problems(recipe: Recipe) -> Iterator[Problem]:
    """Words in `reports` of a task of the user's own that are no directions."""
    kind = recipe.task.kind
    for name, way in declared_reports(kind, [Path(folder) for folder in recipe.plugins]).items():
        if not (isinstance(way, str) and way in DIRECTIONS):
            what = f"reports of '{kind}' has {way!r} for '{name}', which is not a direction"
            yield Problem("task.kind", what, valid_values(str(way), ("max", "min")))


def declared_reports(kind: str, folders: list[Path]) -> dict[str, Any]:
    """The class attribute `reports` of `MODULE:CLASS`, read from its file, which is not executed.

    Empty if the class has none, or one that is not a literal. A base class in the same file counts.
    """
    module, _, name = kind.partition(":")
    for folder in folders:
        for end in (".py", "/__init__.py"):
            file = folder.expanduser() / f"{module.replace('.', '/')}{end}"
            if file.is_file():
                return _reports_of(name, file)
    return {}


def _reports_of(name: str, file: Path) -> dict[str, Any]:
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):  # the worker says so, with its line
        return {}
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    for node in _with_bases(name, classes):
        for statement in node.body:
            if _assigns(statement, "reports"):
                return _literal(getattr(statement, "value", None))
    return {}


def _with_bases(name: str, classes: dict[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    node = classes.pop(name, None)  # once: a file may hold a class that names itself as its base
    if node is not None:
        yield node
        for base in node.bases:
            yield from _with_bases(base.id if isinstance(base, ast.Name) else "", classes)


def _assigns(statement: ast.stmt, name: str) -> bool:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _literal(value: ast.expr | None) -> dict[str, Any]:
    try:
        found = ast.literal_eval(value) if value is not None else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
