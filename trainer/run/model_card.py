"""model/README.md: what the model is, what it was trained on, its metrics, and what the training cost.

The metadata are those of the Hugging Face hub (`huggingface_hub.ModelCardData`). Only names that the hub
knows are written; folders of this machine and secrets are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from galley.config.rules.hub import is_repo_id
from galley.config.rules.model import is_own_module
from galley.schema import Recipe
from galley.spec import RunResult, RunSpec
from galley.tasks import known_metrics, task_of
from trainer.assets import is_embedded
from trainer.run.energy import EMISSIONS_METRIC, METRIC

FILE = "README.md"


def write_model_card(model: Path, spec: RunSpec, result: RunResult) -> None:
    """Write the card beside the weights. It replaces the one that PEFT writes."""
    from huggingface_hub import ModelCard

    data = card_data(spec.recipe, result)
    text = "\n".join(["---", data.to_yaml(), "---", "", *_body(spec, result)])
    ModelCard(text).save(model / FILE)


def card_data(recipe: Recipe, result: RunResult) -> Any:
    """Return the card's `ModelCardData`."""
    from huggingface_hub import EvalResult, ModelCardData

    kind, name = task_of(recipe).hub_task, recipe.hub.push or recipe.recipe
    source, title = _dataset(recipe)
    evals = [
        EvalResult(
            task_type=kind or "other",
            dataset_type=source,
            dataset_name=title,
            dataset_config=recipe.data.subset,
            metric_type=metric.removeprefix("eval/"),
            metric_value=value,
        )
        for metric, value in result.metrics.items()
        if metric.startswith("eval/")
    ]

    more: dict[str, Any] = {}
    if EMISSIONS_METRIC in result.metrics:
        more["co2_eq_emissions"] = _emissions(recipe, result)
    return ModelCardData(
        base_model=_base(recipe),
        datasets=[source]
        if is_repo_id(source) and recipe.data.path is None and not recipe.data.mix
        else None,
        eval_results=evals or None,
        model_name=name.rpartition("/")[2],
        library_name="peft" if _has_adapters(recipe) else "transformers",
        license=recipe.hub.license,
        pipeline_tag=kind,
        tags=["galley", recipe.task.kind] if ":" not in recipe.task.kind else ["galley"],
        **more,
    )


def _has_adapters(recipe: Recipe) -> bool:
    return recipe.model.lora.active and not recipe.model.lora.merge


def _base(recipe: Recipe) -> str | None:
    """Return the base model's name on the hub; None for a new model, a folder, or an embedded model."""
    model = recipe.model
    if model.from_config or model.architecture is not None or is_own_module(model) or is_embedded(model.name):
        return None
    local = Path(model.name).expanduser().is_dir() or not is_repo_id(model.name)
    return None if local else model.name


def _dataset(recipe: Recipe) -> tuple[str, str]:
    """Return the data's name on the hub, or a word for what it is instead, and a title."""
    data = recipe.data
    if data.mix:
        return "mixture", " + ".join(_title(one.name, one.path) for one in data.mix)
    if data.path is not None:
        return "local", _title(data.name, data.path)
    return data.name.replace(":", "-"), " ".join(filter(None, [data.name, data.subset]))


def _title(name: str, path: str | None) -> str:
    return name if path is None else Path(path).name


def _emissions(recipe: Recipe, result: RunResult) -> dict[str, Any]:
    """Return the hub's block on emissions, in grams of CO2 equivalent."""
    fresh = recipe.model.from_config or recipe.model.architecture is not None
    place = ", ".join(filter(None, [recipe.train.region, recipe.train.country]))
    return {
        "emissions": round(1000 * result.metrics[EMISSIONS_METRIC], 6),
        "source": "CodeCarbon",
        "training_type": "pre-training" if fresh else "fine-tuning",
        "geographical_location": place,
    }


def _body(spec: RunSpec, result: RunResult) -> list[str]:
    """Return the lines of the card below its metadata."""
    recipe = spec.recipe

    rows = [("recipe", f"`{recipe.recipe}`"), *_training(spec, result)]
    lines = [f"# {(recipe.hub.push or recipe.recipe).rpartition('/')[2]}", ""]
    lines += [f"Trained on {_dataset(recipe)[1]} with the recipe `{recipe.recipe}` of Galley.", ""]
    lines += ["## Training", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows), ""]

    metrics = [*_metric_lines(recipe, result)]
    if metrics:
        lines += ["## Evaluation", "", "| metric | value | better |", "|---|---|---|", *metrics, ""]
    versions = [
        f"{name} {spec.packages[name]}" for name in ("torch", "transformers") if name in spec.packages
    ]
    lines += [f"Python {spec.python}, {', '.join(versions)}; run `{spec.sha256[:12]}`.", ""]
    return lines


def _training(spec: RunSpec, result: RunResult) -> list[tuple[str, str]]:
    """Return the rows of the table on the training: (name, value)."""
    recipe, engaged = spec.recipe, result.engaged
    rows = [
        ("task", recipe.task.kind),
        ("samples per step", str(spec.layout.global_size)),
        ("steps", f"{result.steps} ({result.epochs:g} epochs)"),
        ("optimizer", f"{recipe.optim.kind}, learning rate {recipe.optim.lr:g}, {recipe.schedule.kind}"),
        ("seed", str(recipe.seed)),
        ("seconds of training", f"{result.train_s:g}"),
    ]

    if result.best_step is not None:
        rows.append(
            ("these weights", f"of step {result.best_step}, the best by {recipe.checkpoint.keep_best}")
        )
    if engaged is not None:
        rows.append(
            (
                "carried by",
                f"{engaged.engine}, {result.world_size} × {spec.layout.device}, {engaged.precision}",
            )
        )
    if METRIC in result.metrics:
        rows.append(("energy", f"{result.metrics[METRIC]:.3g} kWh (CodeCarbon)"))
    return rows


def _metric_lines(recipe: Recipe, result: RunResult) -> Iterator[str]:
    """Yield one row per metric of the evaluation, with the direction in which it is better."""
    known, words = known_metrics(recipe), {"maximize": "higher", "minimize": "lower"}
    for name, value in result.metrics.items():
        if name.startswith("eval/"):
            better = words[known[name].direction] if name in known else ""
            yield f"| {name.removeprefix('eval/')} | {value:.4g} | {better} |"
