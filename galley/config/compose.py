"""Files and overrides -> a `Recipe`, or one error that lists every mistake of the command."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from galley.config.choices import (
    RECIPE_GROUP,
    command_line_only,
    name_strategy,
    option_in_file,
    strategy_name_problems,
)
from galley.config.hydra_bridge import (
    COMPOSITION_ERRORS,
    RECIPE_CHOICE,
    Composed,
    Loader,
    composition_problem,
    open_loader,
)
from galley.config.keys import free_mapping, leaf_types
from galley.config.literal_text import keep_written
from galley.config.model_identity import outdated, settle, size_of_a_sweep
from galley.config.overrides import DEFAULT_RECIPE, PUBLISHED_PROFILE, Request, add_sweeps, read_request
from galley.config.project import is_project
from galley.config.provenance import Source, display_path, last_source
from galley.config.recipe_file import ENDINGS, asked_file
from galley.config.rules.recipe import recipe_problems
from galley.config.validate import Mistake, validate
from galley.config.yaml_numbers import number_problems
from galley.errors import ConfigError, Problem
from galley.interop import Absorbed, absorb, names_outside_file
from galley.schema import Recipe
from galley.urls import cleaned


@dataclass(frozen=True)
class Composition:
    """A recipe and what it was made of.

    Attributes:
        overrides: as given to Hydra; the same list composes the same recipe.
        typed: key -> the override as the user wrote it.
        imported: what outside configuration files set.
    """

    recipe: Recipe
    overrides: tuple[str, ...]
    typed: dict[str, str]
    imported: tuple[Source, ...] = ()


Check = Callable[[Recipe], list[Problem]]


def compose_recipe(
    texts: Sequence[str],
    user_dirs: Sequence[Path] = (),
    check: Check = lambda recipe: [],
    composed: Composed | None = None,
) -> Recipe:
    """The checked recipe for the overrides of one command.

    Raises `ConfigError` with all problems: of the overrides, of the YAML files, of the values,
    between values, and what `check` finds (whether the machine can carry it). Writes nothing. With
    `composed` the files are read once for all calls that share it and choose the same options.
    """
    with open_loader(_checked(user_dirs), composed, asked_file(texts)) as loader:
        return _compose(texts, loader, check).recipe


def explain_sources(
    texts: Sequence[str], key: str, user_dirs: Sequence[Path] = ()
) -> tuple[Any, list[Source]]:
    """The value of `key` and everything that set it, in the order in which it was applied."""
    with open_loader(_checked(user_dirs), None, asked_file(texts)) as loader:
        composition = _compose(texts, loader, lambda recipe: [])
        sources = _all_sources(composition.overrides, composition.typed, loader, composition.imported)
        value = _value(composition.recipe, key)
        return value, [s for s in sources if s.key == key or s.key.startswith(f"{key}.")]


def _value(recipe: Recipe, key: str) -> Any:
    """Raises `ConfigError` for an entry that a free mapping does not have."""
    mapping = free_mapping(key)
    value: Any = recipe
    for name in (mapping or key).split("."):
        value = getattr(value, name)
    rest = key.removeprefix(mapping or key).lstrip(".")
    while rest:
        names = {rest, rest.split(".")[0]} & set(value) if isinstance(value, dict) else set()
        if not names:
            raise ConfigError(Problem(key, "is not set", f"explain {mapping} shows what is"))
        name = max(names, key=len)
        value, rest = value[name], rest[len(name) + 1 :]
    return value


def _checked(user_dirs: Sequence[Path]) -> tuple[Path, ...]:
    missing = [folder for folder in user_dirs if not folder.is_dir()]
    if missing:
        raise ConfigError([Problem("--config-dir", f"'{folder}' is not a folder") for folder in missing])
    problems = [problem for folder in user_dirs for problem in _shadowed(folder)]
    if problems:
        raise ConfigError(problems)
    return tuple(folder.resolve() for folder in user_dirs)


def _shadowed(folder: Path) -> list[Problem]:
    """Options of the user that a shipped option of the same name would hide."""
    from galley.paths import CONF, RECIPES, ROOT

    places = [(CONF, folder), (ROOT, folder)]
    if is_project(folder):  # what else lies in it, such as its runs, holds no options
        places = [(CONF, folder / "conf"), (RECIPES, folder / "recipes")]
    found = []
    for root, own in places:
        for file in sorted(file for ending in ENDINGS for file in own.rglob(f"*{ending}")):
            shipped = (root / file.relative_to(own)).with_suffix(".yaml")
            if shipped.exists() and shipped.resolve() != file.resolve():
                hint = "give your file another name"
                found.append(Problem(str(file), f"has the name of the shipped {display_path(shipped)}", hint))
    return found


def _compose(texts: Sequence[str], loader: Loader, check: Check) -> Composition:
    request = read_request(texts, loader)
    problems = list(request.problems)
    try:
        overrides = _hydra_overrides(request, loader)
        container = loader.merged(overrides)
    except COMPOSITION_ERRORS as error:
        raise ConfigError([*problems, _composition_problem(error, request, loader)]) from error
    name_strategy(container, overrides, loader)
    problems += [*add_sweeps(container, request), *command_line_only(container)]
    problems += [*number_problems(loader.files(overrides)), *size_of_a_sweep(container, request.typed)]
    container["recipe"] = loader.title_of(request.recipe or DEFAULT_RECIPE)
    container["profile"] = request.profile or PUBLISHED_PROFILE
    keep_written(container, lambda: [*loader.sources(overrides), *_written_sources(request.typed)])
    settled = _settle_model(container, overrides, request, loader)
    absorbed = _absorb_files(container, overrides, request, loader)
    absorbed = replace(absorbed, sources=(*settled, *absorbed.sources))
    problems += absorbed.problems
    recipe, mistakes = validate(absorbed.container)
    if mistakes or problems:
        sources = _all_sources(overrides, request.typed, loader, absorbed.sources) if mistakes else []
        problems += [_locate(mistake, sources) for mistake in mistakes]
    failed = [mistake.key for mistake in mistakes] + _failed_keys(request)
    wrong = {key.split(".")[0] for key in failed}
    broken = [*recipe_problems(recipe), *strategy_name_problems(recipe, overrides, loader)]
    # One batch equation is enough: the machine's says the same again.
    related = broken + [p for p in check(recipe) if p.where not in {known.where for known in broken}]
    related = [p for p in related if p.where.split(".")[0] not in wrong]
    if related:
        sources = _all_sources(overrides, request.typed, loader, absorbed.sources)
        problems += [_place(problem, sources) for problem in related]
    if problems:
        raise ConfigError(problems)
    return Composition(_with_absolute_paths(recipe), tuple(overrides), request.typed, absorbed.sources)


def _composition_problem(error: BaseException, request: Request, loader: Loader) -> Problem:
    """With file and line where a recipe chooses an option that there is not."""
    recipe = request.recipe or DEFAULT_RECIPE
    variant = f"{recipe}/{request.profile}" if request.profile else recipe
    files = loader.recipe_files(variant)
    return option_in_file(str(error), files, loader) or composition_problem(error)


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """A sealed run means the same files from whichever folder it is resumed."""

    def absolute(path: str | None) -> str | None:
        return None if path is None else str(Path(path).expanduser().absolute())

    data = replace(recipe.data, path=absolute(recipe.data.path), cache_dir=absolute(recipe.data.cache_dir))
    folder = Path(recipe.model.name).expanduser()
    model = replace(recipe.model, name=str(folder.absolute())) if folder.is_dir() else recipe.model
    plugins = [str(Path(plugin).expanduser().absolute()) for plugin in recipe.plugins]
    checkpoint = replace(recipe.checkpoint, resume_from=absolute(recipe.checkpoint.resume_from))
    mpi = replace(recipe.launcher.mpi, hostfile=absolute(recipe.launcher.mpi.hostfile))
    launcher = replace(recipe.launcher, mpi=mpi)
    return replace(recipe, data=data, model=model, plugins=plugins, checkpoint=checkpoint, launcher=launcher)


def _settle_model(
    container: dict[str, Any], overrides: Sequence[str], request: Request, loader: Loader
) -> list[Source]:
    typed = {key: text for key, text in request.typed.items() if key.startswith("model.")}
    found = outdated(overrides, _typed_sources(typed), loader)
    settle(container, found)
    return found


def _absorb_files(
    container: dict[str, Any], overrides: Sequence[str], request: Request, loader: Loader
) -> Absorbed:
    if not names_outside_file(container):
        return Absorbed(container, (), ())
    from galley.interop.explicit import explicit_sources

    typed = _typed_sources(request.typed)
    explicit = explicit_sources(loader.files(overrides), request.groups, typed)
    return absorb(container, explicit, {*request.groups, *(source.key for source in typed)})


def _failed_keys(request: Request) -> list[str]:
    """Where the override that failed probably belonged: no second error is made of the first."""
    keys = [problem.where.split("=")[0].lstrip("+~") for problem in request.problems]
    return keys + [leaf for leaf in leaf_types() for key in keys if leaf.split(".")[-1] == key.split(".")[-1]]


def _hydra_overrides(request: Request, loader: Loader) -> list[str]:
    groups = [f"{group}={option}" for group, option in request.groups.items()]
    values = [text for _, text in request.values]
    recipe = _recipe_file(request, groups, loader)
    return [f"{RECIPE_CHOICE}={recipe}", *groups, *values]


def _recipe_file(request: Request, groups: list[str], loader: Loader) -> str:
    """`NAME`, or `NAME/VARIANT` for the profile asked for, else for the strategy that is in force.

    A recipe may publish other settings for one strategy (MRPC: batch 8 under DDP, 40 under ZeRO-2).
    """
    recipe = request.recipe or DEFAULT_RECIPE
    if request.profile is not None and request.profile != PUBLISHED_PROFILE:
        return f"{recipe}/{request.profile}"
    variants = loader.options(f"{RECIPE_GROUP}/{recipe}")
    strategy = request.groups.get("strategy")
    if strategy is None and variants:
        strategy = loader.chosen("strategy", [f"{RECIPE_CHOICE}={recipe}", *groups])
    return f"{recipe}/{strategy}" if strategy in variants else recipe


def _all_sources(
    overrides: Sequence[str], typed: dict[str, str], loader: Loader, imported: Sequence[Source]
) -> list[Source]:
    return [*loader.sources(overrides), *_typed_sources(typed), *imported]


def _typed_sources(typed: dict[str, str]) -> list[Source]:
    from galley.config.hydra_bridge import parse_override

    return [Source(key, text, parse_override(text).value()) for key, text in typed.items()]


def _written_sources(typed: dict[str, str]) -> list[Source]:
    from galley.config.hydra_bridge import written_value

    return [Source(key, text, written_value(text)) for key, text in typed.items()]


def _locate(mistake: Mistake, sources: Sequence[Source]) -> Problem:
    prefixes = [".".join(mistake.path[:end]) for end in range(len(mistake.path) - 1, 0, -1)]
    around = (source for key in prefixes for source in reversed(sources) if source.key == key)
    source = last_source(sources, mistake.key) or next(around, None)
    where = _shown(source) if source else mistake.key
    return _with_key(Problem(where, mistake.what, mistake.hint), mistake.key)


def _place(problem: Problem, sources: Sequence[Source]) -> Problem:
    """A problem of a key, with the file and line or the override that set the key."""
    found = [(last_source(sources, key), key) for key in (problem.where, *problem.among)]
    placed = [(source, key) for source, key in found if source is not None]
    if not placed:
        return problem
    source, key = max(placed, key=lambda pair: sources.index(pair[0]))
    return _with_key(replace(problem, where=_shown(source)), key)


def _shown(source: Source) -> str:
    """Where a value was set: an override without the credentials of a URL."""
    return cleaned(source.where, source.where)


def _with_key(problem: Problem, key: str) -> Problem:
    shown = problem.where.startswith((f"{key}=", f"+{key}=", f"++{key}=")) or problem.where == key
    return problem if shown else replace(problem, where=f"{problem.where}: {key}")
