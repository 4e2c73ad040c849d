"""Adapters beside frozen weights (LoRA, DoRA, IA³), through PEFT, for any engine.

The adapters are ordinary parameters of the model before an engine wraps it, so that every engine
shards, trains and saves them like all others; the frozen weights take part only in the forward.
Checkpoints hold the trained weights, and the hash of the frozen ones.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import torch

from galley.errors import ConfigError, Problem, valid_values
from galley.schema import Lora, Recipe
from trainer.models.build import new_modules, new_tokens
from trainer.tasks.base import Batch, Task

ALL_LINEAR = "all-linear"
# Layers that PEFT has adapters for; `Conv1D` is the linear layer of GPT-2.
_ADAPTABLE = ("Linear", "Embedding", "Conv1d", "Conv2d", "Conv1D")

# End of the name of a Transformers class -> PEFT's name of its task.
_TASK_TYPES = {
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
}


def with_adapters(model: torch.nn.Module, task: Task, recipe: Recipe) -> torch.nn.Module:
    """Return `model` with new adapters, or the model itself if the recipe has none.

    Only the adapters and the model's new modules are trainable. The adapters are drawn from the recipe's seed
    alone. Raises `ConfigError` for a name in `target_modules` or `modules_to_save` that the model lacks, with
    the names that it has.
    """
    lora = recipe.model.lora
    if not lora.active:
        return model
    _check_names("model.lora.modules_to_save", lora.modules_to_save, _paths(model, None))
    from peft import get_peft_model

    config = _ia3_config(model, lora) if lora.method == "ia3" else _lora_config(model, lora)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        adapted: Any = get_peft_model(model, config)
    # By default PEFT asks the hub whether the base model had another vocabulary.
    adapted.save_pretrained = partial(adapted.save_pretrained, save_embedding_layers=False)
    made: torch.nn.Module = adapted
    return made


def _lora_config(model: torch.nn.Module, lora: Lora) -> Any:
    """Return PEFT's configuration of LoRA or DoRA."""
    from peft import LoraConfig

    return LoraConfig(
        task_type=_task_type(model),
        r=lora.r or 0,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT only divides it
        lora_dropout=lora.dropout,
        target_modules=_targets(model, lora),
        modules_to_save=[*lora.modules_to_save, *new_modules(model)] or None,
        use_rslora=lora.rank_stabilized,
        use_dora=lora.method == "dora",
        trainable_token_indices=_new_rows(model),
    )


def _ia3_config(model: torch.nn.Module, lora: Lora) -> Any:
    """Return PEFT's configuration of IA³.

    Raises `ConfigError` if PEFT has no choice of layers, or if rows of new tokens would be lost.
    """
    from peft import IA3Config

    if _new_rows(model):
        what = "the tokenizer has tokens that the model lacks, whose rows ia3 does not train"
        raise ConfigError(Problem("model.lora.method=ia3", what, "model.lora.method=lora"))

    targets = _targets(model, lora)
    chosen = lora.feedforward_modules
    if chosen is None:
        chosen = [] if lora.target_modules else _peft_choice(model, "IA3_FEEDFORWARD", "feedforward_modules")
    elif lost := [name for name in chosen if name not in targets]:
        what = f"{', '.join(lost)} are none of the target modules"
        raise ConfigError(Problem("model.lora.feedforward_modules", what, f"valid: {', '.join(targets)}"))
    return IA3Config(
        task_type=_task_type(model),
        target_modules=targets,
        feedforward_modules=chosen,
        modules_to_save=[*lora.modules_to_save, *new_modules(model)] or None,
    )


def save(task: Task, model: torch.nn.Module, trained: Batch, folder: str) -> None:
    """Save the adapters in PEFT's format, or the whole model with `lora.merge`.

    `trained` holds whole tensors on the CPU.
    """
    if not task.recipe.model.lora.merge:
        task.save_pretrained(model, trained, folder)
        return
    fresh: Any = with_adapters(task.model(), task, task.recipe)
    unknown = fresh.load_state_dict(trained, strict=False).unexpected_keys
    assert not unknown, unknown  # noqa: S101
    merged = fresh.merge_and_unload()
    task.save_pretrained(merged, merged.state_dict(), folder)


def frozen_names(model: torch.nn.Module) -> frozenset[str]:
    """Return the names of the parameters that are not trained; a tied parameter has several."""
    named = model.named_parameters(remove_duplicate=False)
    return frozenset(name for name, parameter in named if not parameter.requires_grad)


def frozen_sha256(model: torch.nn.Module) -> str:
    """Return a hash of names and bytes of the frozen parameters; empty if everything is trained."""
    digest, frozen = hashlib.sha256(), False
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen = True
            digest.update(name.encode())
            digest.update(parameter.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest() if frozen else ""


def _task_type(model: torch.nn.Module) -> str | None:
    """Return PEFT's name of the kind of head, by the name of the Transformers class; None for any other."""
    name = type(model).__name__
    return next((kind for end, kind in _TASK_TYPES.items() if name.endswith(end)), None)


def _targets(model: torch.nn.Module, lora: Lora) -> list[str] | str:
    """Return the layers that get adapters: the recipe's, else PEFT's own choice for the kind of model."""
    where, adaptable = "model.lora.target_modules", _paths(model, _ADAPTABLE)
    if lora.target_modules == [ALL_LINEAR]:
        return ALL_LINEAR
    if lora.target_modules:
        _check_names(where, lora.target_modules, adaptable)
        return lora.target_modules
    chosen = _peft_choice(model, "IA3_TARGET" if lora.method == "ia3" else "LORA_TARGET", "target_modules")
    return chosen if isinstance(chosen, str) else list(chosen)


def _peft_choice(model: torch.nn.Module, table: str, key: str) -> Any:
    """Return PEFT's own layers for the kind of model. Raises `ConfigError` if it has none."""
    from peft.utils import constants

    known = vars(constants)[f"TRANSFORMERS_MODELS_TO_{table}_MODULES_MAPPING"]
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in known:
        adaptable = _last_names(_paths(model, _ADAPTABLE))
        whole = [] if table.startswith("IA3") else [ALL_LINEAR]
        hint = f"valid: {', '.join([*whole, *adaptable])}"
        where = f"model.lora.{key}"
        raise ConfigError(Problem(where, f"is null, and PEFT has no choice for a model '{kind}'", hint))
    return known[kind]


def _new_rows(model: torch.nn.Module) -> dict[str, list[int]] | None:
    """Return the rows of tokens that the stored model lacks, by name of the module.

    Modules are the embeddings, and a head that is not tied to them. The rows are drawn anew, trained, and
    kept with the adapters.
    """
    tokens, whole = new_tokens(model), getattr(model, "get_input_embeddings", None)
    if not tokens or whole is None:
        return None
    embeddings, head = whole(), getattr(model, "get_output_embeddings", lambda: None)()
    tied = head is None or head.weight is embeddings.weight
    wanted = [embeddings] if tied else [embeddings, head]
    return {name: tokens for name, module in model.named_modules() if any(module is one for one in wanted)}


def _paths(model: torch.nn.Module, classes: tuple[str, ...] | None) -> list[str]:
    """Return the names of all modules, or of those of these classes, in the model's order."""
    return [name for name, m in model.named_modules() if name and (classes is None or _is_one(m, classes))]


def _is_one(module: torch.nn.Module, classes: tuple[str, ...]) -> bool:
    return any(kind.__name__ in classes for kind in type(module).__mro__)


def _last_names(paths: list[str]) -> list[str]:
    """Return the last parts of the paths, each once, without numbers."""
    last = (path.rpartition(".")[2] for path in paths)
    return list(dict.fromkeys(name for name in last if not name.isdigit()))


def _check_names(where: str, names: list[str], paths: list[str]) -> None:
    """Raise `ConfigError` for names that are not the end of any path."""
    dotted = [f".{path}" for path in paths]
    wrong = [name for name in names if not any(path.endswith(f".{name}") for path in dotted)]
    valid = _last_names(paths)
    if wrong:
        what = "the model has no layer '{}'"
        raise ConfigError([Problem(where, what.format(name), valid_values(name, valid)) for name in wrong])
