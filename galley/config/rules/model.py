"""Rules of the keys under `model`, and of classes of the user's own; without torch or Transformers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from galley.errors import Problem, valid_values
from galley.model.adapters import holds_adapters
from galley.model.shape import is_own_module as is_own_module  # part of these rules
from galley.model.shape import missing_targets
from galley.schema import Lora, Model, Recipe
from galley.tasks import names_of, task_of

# What Transformers itself has; a kernel on the hub is named by its repository.
ATTENTION = ("eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3")


def model_problems(recipe: Recipe) -> Iterator[Problem]:
    yield from _lora(recipe)
    yield from _architecture(recipe)
    yield from _attention(recipe.model)


def own_code_problems(where: str, word: str, plugins: list[str]) -> Iterator[Problem]:
    """`MODULE:CLASS` must be a file in a folder that the user has named. It is not imported here."""
    module = word.partition(":")[0]
    ends = (f"{module.replace('.', '/')}{end}" for end in (".py", "/__init__.py"))
    if not any((Path(folder).expanduser() / end).is_file() for end in ends for folder in plugins):
        hint = f"set 'plugins=[DIR]' to the folder that holds {module}.py"
        yield Problem(where, f"no folder of plugins has a module '{module}'", hint)


def _lora(recipe: Recipe) -> Iterator[Problem]:
    lora, unused = recipe.model.lora, Lora()
    yield from _method(lora)
    if lora.active:
        yield from _lost_base(recipe.model)
        for name, valid in missing_targets(recipe.model):
            what = f"the model has no layer '{name}'"
            yield Problem("model.lora.target_modules", what, valid_values(name, valid))
        return
    for key in fields(lora):
        if key.name != "method" and getattr(lora, key.name) != getattr(unused, key.name):
            what = "is set, but model.lora.r is null: the whole model is trained"
            yield Problem(f"model.lora.{key.name}", what, "set model.lora.r=N, such as 8, or leave it out")


def _method(lora: Lora) -> Iterator[Problem]:
    """Keys that the method does not read, or needs."""
    if lora.method == "dora" and lora.r is None:
        yield Problem("model.lora.method", "dora needs a rank", "model.lora.r=8")
    if lora.method == "ia3":
        for name in ("r", "alpha", "dropout", "rank_stabilized"):
            if getattr(lora, name) != getattr(Lora(), name):
                yield Problem(f"model.lora.{name}", f"ia3 has no {name}", "leave it out, or method=lora")
        if lora.target_modules == ["all-linear"]:
            what = "ia3 scales named layers"
            yield Problem("model.lora.target_modules", what, "the last names of layers, or null")
    elif lora.feedforward_modules is not None:
        what = f"{lora.method} does not tell layers of the feed-forward network apart"
        yield Problem("model.lora.feedforward_modules", what, "leave it out, or method=ia3")


def _lost_base(model: Model) -> Iterator[Problem]:
    """Adapters are of use beside the very weights that they were trained with."""
    if model.lora.merge:
        return
    if model.architecture is not None or model.from_config:
        key = "from_config=true" if model.from_config else f"architecture={model.architecture}"
        what = f"model.{key} draws the weights beside the adapters, and nothing keeps them"
    elif holds_adapters(model.name):
        what = f"{model.name} holds adapters itself: no folder has the weights that they make"
    else:
        return
    yield Problem("model.lora.r", what, "keep the whole model: model.lora.merge=true; or name a stored model")


def _architecture(recipe: Recipe) -> Iterator[Problem]:
    model = recipe.model
    if model.architecture is None:
        return
    own = is_own_module(model)
    if own:
        yield from own_code_problems("model.architecture", model.architecture, recipe.plugins)
    has_tokenizer = own and Path(model.name).expanduser().is_dir()
    if model.tokenizer is None and not has_tokenizer:
        hint = "embedded:gpt2_bpe, characters, bpe, a folder, or a repository on the hub"
        yield Problem("model.tokenizer", f"architecture '{model.architecture}' brings no tokenizer", hint)
    if model.tokenizer == "bpe" and task_of(recipe).special_tokens:
        what = f"has no mask, padding or separator tokens, which task '{recipe.task.kind}' may need"
        valid = " or ".join(names_of(lambda task: not task.special_tokens))
        yield Problem("model.tokenizer=bpe", what, f"task={valid}")
    if model.from_config:
        yield Problem("model.from_config", "is for a named model, but model.architecture is set", "keep one")


def _attention(model: Model) -> Iterator[Problem]:
    name = model.attn_implementation
    if name is None or "/" in name:
        return
    if is_own_module(model):
        what = "is for models of Transformers, but model.architecture is a class of yours"
        yield Problem("model.attn_implementation", what, "leave it out, or make it a key of model.config")
    elif name not in ATTENTION:
        hint = f"{valid_values(name, ATTENTION)}; or the repository of a kernel on the hub"
        yield Problem("model.attn_implementation", f"Transformers knows no '{name}'", hint)
