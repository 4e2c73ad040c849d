"""Build the model and its tokenizer: embedded, from a folder, or from the hub."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from galley.counting import counted
from galley.errors import ConfigError, Problem, nearest
from galley.model.adapters import holds_adapters
from galley.model.shape import is_own_module
from galley.schema import Recipe
from trainer.assets import is_embedded, model_folder, tokenizer_folder
from trainer.compatibility import mismatched_names
from trainer.data.cache import cache_root
from trainer.models.bpe import bpe_tokenizer
from trainer.models.characters import character_tokenizer
from trainer.models.hub import hub_errors, quiet_transformers, use_cache_if_unreachable
from trainer.models.merged_adapters import of_base, with_stored_adapters
from trainer.models.padding import agree_on_padding, counted_from_padding
from trainer.models.user_module import own_model

log = logging.getLogger("galley")

CHARACTERS = "characters"
BPE = "bpe"
CLASSIFIER = "AutoModelForSequenceClassification"


@dataclass(frozen=True)
class ModelSource:
    """What Transformers loads: a folder (`local`), or a name on the hub."""

    path: str
    local: bool


def find_source(recipe: Recipe) -> ModelSource:
    """Return where the recipe's model is stored, or the tokenizer beside its adapters.

    Raises `ConfigError` for a folder that holds none.
    """
    name = recipe.model.name
    if holds_adapters(name):
        return ModelSource(str(Path(name).expanduser()), local=True)
    if is_embedded(name):
        return ModelSource(str(model_folder(name, cache_root(recipe.data))), local=True)
    return _folder_or_hub(name, "model.name", "config.json")


def _folder_or_hub(name: str, key: str, file: str) -> ModelSource:
    """Return the folder `name` if it exists, else the name on the hub. `file` must be in the folder."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / file).exists():
            raise ConfigError(Problem(f"{key}={name}", f"is a folder without {file}"))
        return ModelSource(str(folder), local=True)
    if name.startswith((".", "/", "~")):
        raise ConfigError(Problem(f"{key}={name}", "does not exist"))
    use_cache_if_unreachable()
    return ModelSource(name, local=False)


def load_tokenizer(recipe: Recipe, texts: Iterable[str] | None = None, pad_with_end: bool = False) -> Any:
    """Return the fast tokenizer of the model, or the one of `model.tokenizer`.

    `texts`: the texts from which `model.tokenizer=characters` and `bpe` are made. A tokenizer that cannot pad
    (GPT-2, Llama) pads with its end-of-text token if no text ends with that token; or with `pad_with_end`,
    if the task ignores padding by itself.
    Raises `ConfigError` if it is not fast, cannot pad, or if `data.max_length` is more than it allows.
    """
    where = f"model.name={recipe.model.name}"
    if recipe.model.tokenizer is not None:
        where = f"model.tokenizer={recipe.model.tokenizer}"
    if recipe.model.tokenizer in (CHARACTERS, BPE):
        tokenizer = _of_texts(recipe, where, texts)
    else:
        tokenizer = _stored(recipe)

    if not tokenizer.is_fast:
        raise ConfigError(Problem(where, "has no fast tokenizer (tokenizer.json)"))
    if tokenizer.pad_token_id is None and (pad_with_end or not _ends_texts(tokenizer)):
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise ConfigError(Problem(where, "its tokenizer has no padding token", "add pad_token to it"))
    if recipe.data.max_length > tokenizer.model_max_length:
        what = f"{where} reads at most {counted(tokenizer.model_max_length, 'token')}"
        raise ConfigError(Problem(f"data.max_length={recipe.data.max_length}", what))
    return tokenizer


def _ends_texts(tokenizer: Any) -> bool:
    """Return whether texts end with the end-of-text token: decoders find the end of a text by its padding."""
    return tokenizer.eos_token_id in tokenizer("")["input_ids"]


def _of_texts(recipe: Recipe, where: str, texts: Iterable[str] | None) -> Any:
    """Make the tokenizer from the run's own texts."""
    if texts is None:
        raise ConfigError(Problem(where, "is for language modeling alone", "a tokenizer of a model"))
    if recipe.model.tokenizer == CHARACTERS:
        return character_tokenizer(texts)
    first = list(islice(texts, recipe.model.bpe.texts))
    return bpe_tokenizer(first, recipe.model.bpe.vocabulary, cache_root(recipe.data))


def _stored(recipe: Recipe) -> Any:
    """Load the tokenizer from where it is stored."""
    from transformers import AutoTokenizer

    key = "name" if recipe.model.tokenizer is None else "tokenizer"
    name = recipe.model.tokenizer or recipe.model.name
    if recipe.model.tokenizer is None:
        source = find_source(recipe)
    elif is_embedded(name):
        source = ModelSource(str(tokenizer_folder(name, cache_root(recipe.data))), local=True)
    else:
        source = _folder_or_hub(name, "model.tokenizer", "tokenizer_config.json")
    with quiet_transformers(), hub_errors(f"model.{key}", name, source.local):
        return AutoTokenizer.from_pretrained(source.path, trust_remote_code=recipe.model.trust_remote_code)


def load_classifier(recipe: Recipe, num_labels: int, tokenizer: Any = None) -> torch.nn.Module:
    """Return a sequence classifier of `num_labels` classes; see `load_model`."""
    return load_model(
        recipe,
        CLASSIFIER,
        counted(num_labels, "label"),
        tokenizer,
        num_labels=num_labels,
    )


def load_model(
    recipe: Recipe, auto_class: str, head: str = "", tokenizer: Any = None, **config: Any
) -> torch.nn.Module:
    """Return the recipe's model as one of Transformers' auto classes, in fp32, on the CPU.

    `config` goes into the model's configuration, under `model.config`; `head` describes the task's
    head in a message. With `tokenizer` the model reads all its tokens: a new model has exactly its
    vocabulary and special tokens, a stored one with fewer embeddings gets new ones, which is logged.

    Weights that the stored model lacks, or all weights of a model from configuration, are drawn from the
    recipe's seed alone, so that every rank, and every run of this seed, starts from the same weights.

    Raises `ConfigError` if the stored head has another shape and `model.ignore_mismatched_head` is
    off, if any other weight has another shape, and for keys that the configuration lacks.
    """
    if is_own_module(recipe.model):
        return own_model(recipe, _known(recipe, tokenizer, config))
    if holds_adapters(recipe.model.name) and recipe.model.architecture is None:
        base = load_model(of_base(recipe), auto_class, head, tokenizer, **config)
        whole = with_stored_adapters(base, recipe.model.name, new_modules(base))
        whole._galley_new_tokens = ()  # type: ignore[assignment]
        mark_new(whole, [])
        return whole

    import transformers

    family, options = getattr(transformers, auto_class), {}
    if recipe.model.attn_implementation is not None:
        options["attn_implementation"] = recipe.model.attn_implementation
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        new: list[str] = []
        # Also on a rank whose default device is meta: a configuration may compute with tensors.
        with torch.device("cpu"):
            settings = _configuration(recipe, config)
        if torch.get_default_device().type == "meta" and recipe.model.architecture is None:
            model = _skeleton(recipe, family, settings, options, tokenizer)
        elif recipe.model.architecture is None and not recipe.model.from_config:
            model, new = _with_weights(recipe, family, settings, options, head)
            if tokenizer is not None and len(tokenizer) > model.get_input_embeddings().num_embeddings:
                _add_embeddings(recipe, model, len(tokenizer))
        else:
            if tokenizer is not None:
                _take_vocabulary(settings, tokenizer)
            with _attention_errors(recipe):
                model = _new(recipe, family, settings, options)
            log.info("a new %s, drawn from seed %d", type(model).__name__, recipe.seed)

    model.config.use_cache = False
    if tokenizer is not None and auto_class == CLASSIFIER:
        agree_on_padding(model, tokenizer)
    require_positions(model, "data.max_length", recipe.data.max_length)
    loaded: torch.nn.Module = model
    mark_new(loaded, new)
    return loaded


def _new(recipe: Recipe, family: Any, settings: Any, options: dict[str, Any]) -> Any:
    """Return a new model.

    Raises `ConfigError` for sizes that do not fit, such as heads that do not divide.
    """
    try:
        return family.from_config(settings, dtype=torch.float32, **options)
    except (ValueError, AssertionError, ZeroDivisionError) as error:
        if "attention implementation" in str(error).lower() and recipe.model.attn_implementation:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigError(
            Problem("model.config", f"no {settings.model_type} can be made: {reason}")
        ) from error


def _skeleton(recipe: Recipe, family: Any, settings: Any, options: dict[str, Any], tokenizer: Any) -> Any:
    """Return the model that the main rank reads, without weights (`trainer.models.meta_init`)."""
    if recipe.model.from_config and tokenizer is not None:
        _take_vocabulary(settings, tokenizer)
    remote = {"trust_remote_code": recipe.model.trust_remote_code}
    model = family.from_config(settings, dtype=torch.float32, **remote, **options)
    if tokenizer is not None and len(tokenizer) > model.get_input_embeddings().num_embeddings:
        _add_embeddings(recipe, model, len(tokenizer))
    return model


def _known(recipe: Recipe, tokenizer: Any, config: dict[str, Any]) -> dict[str, Any]:
    """Return the values that the constructor of a module from outside Galley may ask for."""
    known = {"max_length": recipe.data.max_length}
    if tokenizer is not None:
        known |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    return known | {name: config[name] for name in ("num_labels",) if name in config}


@contextmanager
def _attention_errors(recipe: Recipe) -> Iterator[None]:
    """Turn an error about attention into a `ConfigError`.

    A model may lack this attention, or the package that the attention needs.
    """
    chosen = recipe.model.attn_implementation
    try:
        yield
    except (ValueError, ImportError) as error:
        if chosen is None or "attention" not in str(error).lower():
            raise
        what = f"cannot be used: {str(error).splitlines()[0]}"
        where = f"model.attn_implementation={chosen}"
        raise ConfigError(Problem(where, what, "null leaves the choice to Transformers")) from error


def _with_weights(
    recipe: Recipe, family: Any, settings: Any, options: dict[str, Any], head: str
) -> tuple[Any, list[str]]:
    """Return the stored model, and the names of weights that are new."""
    options = {"trust_remote_code": recipe.model.trust_remote_code, "config": settings, **options}
    with _loading(recipe) as path, _attention_errors(recipe):
        model, info = family.from_pretrained(
            path, dtype=torch.float32, ignore_mismatched_sizes=True, output_loading_info=True, **options
        )
    return model, _check_weights(info, recipe, model.base_model_prefix, head)


def _configuration(recipe: Recipe, config: dict[str, Any]) -> Any:
    """Return the model's configuration with the values of the task, `model.config` and `model.dropout`."""
    from transformers import CONFIG_MAPPING, AutoConfig

    kind = recipe.model.architecture
    if kind is None:
        with _loading(recipe) as path:
            settings = AutoConfig.from_pretrained(
                path, trust_remote_code=recipe.model.trust_remote_code, **config
            )
    elif kind in CONFIG_MAPPING:
        settings = AutoConfig.for_model(kind, **config)
    else:
        near = nearest(kind, CONFIG_MAPPING)
        raise ConfigError(Problem(f"model.architecture={kind}", "Transformers has no such model type", near))

    wanted = {**recipe.model.config, **_dropout_options(recipe, settings)}
    for name in recipe.model.config:
        if not hasattr(settings, name):
            hint = nearest(name, settings.to_dict())
            raise ConfigError(Problem(f"model.config.{name}", f"{settings.model_type} has no such key", hint))
    if kind is None:
        for name, value in wanted.items():
            setattr(settings, name, value)
        return settings
    return AutoConfig.for_model(kind, **{**config, **wanted})  # again, for values that follow from others


def _take_vocabulary(settings: Any, tokenizer: Any) -> None:
    """Give a new model the tokenizer's vocabulary and special tokens.

    Its decoder starts from padding, as T5's and BART's may.
    """
    settings.vocab_size = len(tokenizer)
    settings.pad_token_id = tokenizer.pad_token_id
    settings.bos_token_id = _first_known(tokenizer.bos_token_id, tokenizer.cls_token_id)
    settings.eos_token_id = _first_known(tokenizer.eos_token_id, tokenizer.sep_token_id)
    if settings.is_encoder_decoder:
        settings.decoder_start_token_id = tokenizer.pad_token_id
        settings.forced_eos_token_id = None


def _first_known(*tokens: int | None) -> int | None:
    return next((token for token in tokens if token is not None), None)


def _add_embeddings(recipe: Recipe, model: Any, size: int) -> None:
    """Add embeddings for tokens that the stored model lacks."""
    had = model.get_input_embeddings().num_embeddings
    model.resize_token_embeddings(size, mean_resizing=False)
    model._galley_new_tokens = tuple(range(had, size))
    log.info(
        "%s for the tokenizer's %s, drawn from seed %d",
        counted(size - had, "new embedding"),
        counted(size, "token"),
        recipe.seed,
    )


def require_positions(model: Any, key: str, length: int, part: str = "encoder") -> None:
    """Raise `ConfigError` if the model has positions for fewer tokens than `key` asks for.

    `part`: of a model of two, whose.
    """
    limit = positions(model, part)
    if limit is not None and length > limit:
        what = f"{model.config.model_type} has positions for {counted(limit, 'token')}"
        raise ConfigError(Problem(f"{key}={length}", what, f"at most {limit}"))


def positions(model: Any, part: str = "encoder") -> int | None:
    """Return how many tokens the model can tell apart by position; None if there is no limit.

    T5, and DeBERTa, which uses only distances, have no limit. `part`: the encoder or the decoder of a model
    that has both. RoBERTa and similar models count positions from behind the padding token.
    """
    config = getattr(model.config, part, model.config)
    if getattr(config, "position_biased_input", True) is False:
        return None
    limit: int | None = getattr(config, f"max_{part}_position_embeddings", None)
    limit = getattr(config, "max_position_embeddings", None) if limit is None else limit
    if limit is None or limit <= 0:  # XLNet has -1
        return None
    behind = counted_from_padding(model)
    return limit if behind is None else min(limit, behind)


def _dropout_options(recipe: Recipe, config: Any) -> dict[str, float]:
    """Return every dropout probability of the model's configuration, set to `model.dropout`."""
    if recipe.model.dropout is None:
        return {}
    names = [name for name, value in config.to_dict().items() if "drop" in name and _is_probability(value)]
    if not names and recipe.model.dropout > 0:
        where = f"model.dropout={recipe.model.dropout}"
        raise ConfigError(Problem(where, f"{config.model_type} has no dropout", "valid: 0, null"))
    return dict.fromkeys(names, recipe.model.dropout)


def _is_probability(value: object) -> bool:
    return isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))


@contextmanager
def _loading(recipe: Recipe) -> Iterator[str]:
    """Yield what to load. While it loads, only Galley reports about it."""
    source = find_source(recipe)
    with quiet_transformers(), hub_errors("model.name", recipe.model.name, source.local):
        yield source.path


def mark_new(model: torch.nn.Module, names: list[str]) -> None:
    """Remember which weights the stored model lacks."""
    model._galley_new = tuple(names)  # type: ignore[assignment]  # modules take any attribute


def new_names(model: torch.nn.Module) -> list[str]:
    """Return the names of weights that the stored model lacks."""
    return list(getattr(model, "_galley_new", ()))


def new_tokens(model: torch.nn.Module) -> list[int]:
    """Return the tokens for which the stored model has no embedding."""
    return list(getattr(model, "_galley_new_tokens", ()))


def new_modules(model: torch.nn.Module) -> list[str]:
    """Return the modules with weights that the stored model lacks: loaded again, they would be drawn anew."""
    names = new_names(model)
    return sorted({name.rpartition(".")[0] for name in names if "." in name})


def _check_weights(info: dict[str, Any], recipe: Recipe, body: str, head: str) -> list[str]:
    """Return the names of the weights that are new.

    Only weights of the head may have another shape, and only if the recipe allows it.
    """
    mismatched = mismatched_names(info)
    wrong = [name for name in mismatched if name.startswith(f"{body}.")]
    where = f"model.name={recipe.model.name}"
    if wrong:
        raise ConfigError(Problem(where, f"its weights do not fit its config.json: {', '.join(wrong)}"))
    if mismatched and not recipe.model.ignore_mismatched_head:
        what = f"its head has not {head} ({', '.join(mismatched)})"
        raise ConfigError(Problem(where, what, "model.ignore_mismatched_head=true starts with a new head"))
    new = sorted({*mismatched, *map(str, info["missing_keys"])})
    if new:
        log.info("new weights, drawn from seed %d: %s", recipe.seed, ", ".join(new))
    return new
