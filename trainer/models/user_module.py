"""A model from outside Galley: an `nn.Module` by import path, behind the interface that the tasks use.

Its constructor is called with the values of `model.config`, and with those of `vocab_size`,
`pad_token_id`, `num_labels`, `max_length` and `dropout` that it names and the task knows. Its forward
takes the tokenizer's outputs by name and returns logits, or a NamedTuple or `ModelOutput` with what the
task reads: `logits`, `start_logits` and `end_logits`, or `last_hidden_state`.
"""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from galley.errors import ConfigError, Problem, valid_values
from galley.plugins import own_class
from galley.quoting import shell_word
from galley.schema import Recipe

log = logging.getLogger("galley")

WEIGHTS = "model.safetensors"


class Logits(NamedTuple):
    """The output of a model that returns a tensor, as tasks read it."""

    logits: torch.Tensor


def own_model(recipe: Recipe, known: Mapping[str, Any]) -> torch.nn.Module:
    """Return the module, in fp32 on the CPU.

    Its weights are drawn from the recipe's seed, or read from `model.name` if that is a folder of an earlier
    run. `known` holds the task's values that a constructor may ask for. Raises `ConfigError` for
    values that the constructor does not take or lacks, and for weights that do not fit.
    """
    word = str(recipe.model.architecture)
    where = f"model.architecture={word}"
    made: Any = own_class(where, word, torch.nn.Module)
    if recipe.model.dropout is not None:
        known = {**known, "dropout": recipe.model.dropout}
    values = _arguments(where, made, recipe.model.config, known)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model: Any = made(**values).float()
    model.register_forward_hook(_named)
    if not hasattr(model, "config"):
        model.config = SimpleNamespace(model_type=word)
    if not hasattr(model, "save_pretrained"):
        model.save_pretrained = partial(_save, {"architecture": word, "config": values})

    folder = Path(recipe.model.name).expanduser()
    if folder.is_dir():
        _load(model, folder)
    else:
        log.info("a new %s, drawn from seed %d", made.__name__, recipe.seed)
    loaded: torch.nn.Module = model
    return loaded


def _named(module: torch.nn.Module, args: Any, output: Any) -> Logits | None:
    """Give a plain tensor a name: FSDP must find the tensors of an output, and tasks their names."""
    if isinstance(output, torch.Tensor):
        return Logits(output)
    if not isinstance(output, tuple | dict):
        what = f"{type(module).__name__}.forward returns a {type(output).__name__}"
        raise TypeError(f"{what}: return the logits, a NamedTuple or a ModelOutput of Transformers")
    return None


def _arguments(where: str, made: Any, config: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the constructor. Raises `ConfigError` for unknown and for missing ones."""
    parameters = inspect.signature(made).parameters
    names = [name for name, value in parameters.items() if value.kind != value.VAR_KEYWORD]
    takes_any = len(names) < len(parameters)
    unknown = [name for name in config if name not in names and not takes_any]
    problems = [
        Problem(f"model.config.{name}", f"{made.__name__} takes no '{name}'", valid_values(name, names))
        for name in unknown
    ]
    if known.get("dropout") and "dropout" not in names:
        what = f"{made.__name__} takes no 'dropout'"
        problems.append(Problem(f"model.dropout={known['dropout']}", what, "model.dropout=null"))

    values = {name: value for name, value in known.items() if name in names} | dict(config)
    lacking = [name for name in names if parameters[name].default is inspect.Parameter.empty]
    lacking = [name for name in lacking if name not in values]
    if lacking:
        hint = f"set {shell_word(['model', 'config'], dict.fromkeys(lacking, 'VALUE'))}"
        problems.append(Problem(where, f"{made.__name__} also needs {', '.join(lacking)}", hint))
    if problems:
        raise ConfigError(problems)
    return values


def _load(model: torch.nn.Module, folder: Path) -> None:
    """Load the weights of an earlier run. Raises `ConfigError` if names or shapes differ."""
    where = f"model.name={folder}"
    if not (folder / WEIGHTS).is_file():
        raise ConfigError(Problem(where, f"is a folder without {WEIGHTS}"))
    stored, expected = load_file(folder / WEIGHTS), model.state_dict()
    wrong = {name for name in stored.keys() & expected.keys() if stored[name].shape != expected[name].shape}
    wrong |= stored.keys() ^ expected.keys()
    if wrong:
        what = f"its weights do not fit {type(model).__name__}: {', '.join(sorted(wrong)[:5])}"
        raise ConfigError(Problem(where, what, "set model.config as the run had it that wrote them"))
    model.load_state_dict(stored)


def _save(config: dict[str, Any], folder: str, state_dict: Mapping[str, torch.Tensor]) -> None:
    """Write weights and configuration. Weights that are shared are written under each of their names."""
    save_file({name: value.clone().contiguous() for name, value in state_dict.items()}, f"{folder}/{WEIGHTS}")
    text = json.dumps(config, indent=2, sort_keys=True)
    Path(folder, "config.json").write_text(f"{text}\n", encoding="utf-8")
