"""`eval`: measure a finished run, or the folder of a model, on data. Nothing is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from cli.options import Options
from galley.errors import ConfigError, Problem
from galley.model.adapters import holds_adapters
from galley.model.shape import is_own_module
from galley.paths import CONF
from galley.registry import EMBEDDED_PREFIX
from galley.rundir import RunFolder
from galley.schema import Recipe

RECIPE = "evaluation"
# What of a run's recipe decides its evaluation, next to the model as its folder holds it: weights,
# configuration, tokenizer and adapters are there, and nothing of it is made anew.
SECTIONS = ("data", "task", "precision")
OF_MODEL = ("trust_remote_code", "attn_implementation")
# Code is not in the folder: a module of the user's own is made again, and given the stored weights.
OF_OWN_MODULE = ("architecture", "config")
NOTHING_TRAINED = {
    "eval": {"only": True, "enabled": True, "every_steps": None, "every_epochs": None, "patience": None},
    "batch": {"global_size": None, "micro_size": 1, "accumulation": 1},
    "checkpoint": {"every_steps": None, "keep_best": None},
}


def evaluate(words: Sequence[str], options: Options) -> int:
    """`eval RUN_OR_MODEL data=… KEY=VALUE`: seal an evaluation, run it on the ranks, print its metrics.

    Of a run its model, task, data and number format are taken, which overrides change; the ranks and
    the launcher are those of the command.
    """
    from cli.run import run

    if not words or "=" in words[0]:
        hint = "eval RUN data.path=DIR, or eval MODEL_FOLDER task=… data=…"
        raise ConfigError(Problem("eval", "names no run and no folder of a model", hint))
    groups = {word.partition("=")[0] for word in words[1:]}
    with tempfile.TemporaryDirectory(prefix="galley-eval-") as folder:
        file = Path(folder) / "recipes" / f"{RECIPE}.yaml"
        file.parent.mkdir()
        body = {key: value for key, value in what_to_measure(words[0], options).items() if key not in groups}
        file.write_text(yaml.safe_dump(body, sort_keys=False), encoding="utf-8")
        extended = replace(options, config_dirs=(*options.config_dirs, Path(folder)))
        return run([f"recipe={RECIPE}", *words[1:]], extended)


def what_to_measure(word: str, options: Options) -> dict[str, Any]:
    """The recipe of the evaluation, as YAML has it. Raises `ConfigError` where there is no model."""
    folder = Path(word).expanduser()
    embedded = word.startswith(EMBEDDED_PREFIX)
    if embedded or (folder / "config.json").is_file() or holds_adapters(word):
        model = {"name": word if embedded else str(folder.absolute()), "ignore_mismatched_head": False}
        return {"model": model, **NOTHING_TRAINED}
    from launchers.lifecycle.queries import find_run

    run = find_run(word, options.root)
    return {**_of_recipe(run.read_spec().recipe, run), **NOTHING_TRAINED}


def _of_recipe(recipe: Recipe, run: RunFolder) -> dict[str, Any]:
    if not (run.model / "config.json").is_file() and not holds_adapters(str(run.model)):
        what, hint = "is not there: the run has not finished", f"continue it with `resume {run.root}`"
        raise ConfigError(Problem(str(run.model), what, hint))
    found: dict[str, Any] = {name: asdict(getattr(recipe, name)) for name in SECTIONS}
    names = (*OF_MODEL, *OF_OWN_MODULE) if is_own_module(recipe.model) else OF_MODEL
    model = {name: getattr(recipe.model, name) for name in names}
    found["model"] = {"name": str(run.model), "ignore_mismatched_head": False, **model}
    known = (CONF / "strategy" / f"{recipe.strategy.name}.yaml").is_file()
    override = {"override /strategy": recipe.strategy.name if known else "ddp"}
    return {"defaults": [override], **found, "plugins": list(recipe.plugins), "seed": recipe.seed}
