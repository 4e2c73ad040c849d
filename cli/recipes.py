"""`recipes ls | show NAME | cp NAME FILE | validate [NAME]`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cli.options import Options
from galley.config.compose import compose_recipe
from galley.config.project import config_dir_option
from galley.config.recipe_file import yaml_file, yaml_names
from galley.counting import counted
from galley.errors import ConfigError, Problem, valid_values
from galley.paths import RECIPES, command
from galley.registry import EMBEDDED_PREFIX
from galley.rundir import write_atomic
from galley.schema import Recipe
from galley.system.os_errors import writing

ACTIONS = ("ls", "show", "cp", "validate")


@dataclass(frozen=True)
class Row:
    """One line of `recipes ls`.

    Attributes:
        hardware: what it is laid out for (`4 × 1 CPU rank`, `8 GPUs`); a device is a GPU where there is one.
        offline: every model and dataset comes with an installed package.
    """

    recipe: str
    profiles: list[str]
    task: str
    model: str
    data: str
    strategy: str
    hardware: str
    offline: bool


def recipes(words: Sequence[str], options: Options) -> int:
    """List, show, copy or check recipes."""
    action, *rest = words or ["ls"]
    if action not in ACTIONS:
        raise ConfigError(Problem(f"recipes {action}", "is not an action", valid_values(action, ACTIONS)))
    if action == "ls":
        return _list(options)
    if action == "validate":
        return _validate(rest, options)
    path = _find(rest[0] if rest else "", options)
    if action == "show":
        print(path.read_text(encoding="utf-8"), end="")
        return 0
    return _copy(path, rest)


def recipe_files(options: Options) -> dict[str, Path]:
    """Name -> file of all recipes, the user's included."""
    folders = [RECIPES, *(folder / "recipes" for folder in options.config_dirs)]
    found = {name: yaml_file(folder / name) for folder in folders for name in yaml_names(folder)}
    return {name: file for name, file in sorted(found.items()) if file is not None}


def profiles(path: Path) -> list[str]:
    """`full` and the variants beside a recipe; a variant named after a strategy is no profile."""
    from galley.paths import CONF

    strategies = {file.stem for file in (CONF / "strategy").glob("*.yaml")}
    variants = yaml_names(path.with_suffix(""))
    return ["full", *sorted(variants - strategies)]


def _list(options: Options) -> int:
    rows = [_row(name, path, options) for name, path in recipe_files(options).items()]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
        return 0
    header = ("recipe", "profiles", "task", "model", "data", "strategy", "hardware", "offline")
    table = [header, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    return 0


def _cells(row: Row) -> tuple[str, ...]:
    offline = "yes" if row.offline else "small" if "small" in row.profiles else "no"
    return (
        row.recipe,
        ",".join(row.profiles),
        row.task,
        row.model,
        row.data,
        row.strategy,
        row.hardware,
        offline,
    )


def _row(name: str, path: Path, options: Options) -> Row:
    recipe = compose_recipe([f"recipe={name}"], options.config_dirs)
    data = recipe.data.path or "/".join(filter(None, (recipe.data.name, recipe.data.subset)))
    return Row(
        recipe=name,
        profiles=profiles(path),
        task=recipe.task.kind,
        model=recipe.model.name,
        data=data,
        strategy=recipe.strategy.name,
        hardware=hardware(recipe),
        offline=is_offline(recipe),
    )


def hardware(recipe: Recipe) -> str:
    """Devices of a node, and nodes where there are several; `all` where the recipe names no number."""
    cluster = recipe.cluster
    count = cluster.procs_per_node or cluster.max_procs_per_node
    if not recipe.strategy.data_parallel:
        count = 1
    name = {"cpu": "CPU rank" if count else "CPU", "cuda": "GPU", "auto": "device"}[cluster.device]
    devices = counted(count, name) if count else f"all {name}s"
    return devices if cluster.nodes == 1 else f"{cluster.nodes} × {devices}"


def is_offline(recipe: Recipe) -> bool:
    """Whether a run of it needs no network."""
    model, data = recipe.model, recipe.data
    names = [model.tokenizer] if model.architecture else [model.name, model.tokenizer]
    at_hand = all(_is_at_hand(name) for name in names if name is not None)
    sources = [(source.path, source.name) for source in data.mix] or [(data.path, data.name)]
    return at_hand and all(path or (name or "").startswith(EMBEDDED_PREFIX) for path, name in sources)


def _is_at_hand(name: str) -> bool:
    return (
        name in ("characters", "bpe") or name.startswith(EMBEDDED_PREFIX) or Path(name).expanduser().is_dir()
    )


def _find(name: str, options: Options) -> Path:
    found = recipe_files(options)
    if name not in found:
        raise ConfigError(Problem(f"recipe '{name}'", "does not exist", valid_values(name, found)))
    return found[name]


def _copy(path: Path, rest: Sequence[str]) -> int:
    if len(rest) != 2:
        hint = "recipes cp NAME DIR/recipes/NEW.yaml"
        raise ConfigError(Problem("recipes cp", "takes a recipe and a file", hint))
    target = Path(rest[1])
    if target.exists():
        raise ConfigError(Problem(str(target), "exists", "choose another file"))
    with writing(str(target)):
        write_atomic(target, path.read_text(encoding="utf-8"))
    if target.parent.name == "recipes":
        print(f"run it: {command()} {config_dir_option(target.parent.parent)}recipe={target.stem}")
    else:
        print(f"{target}: move it to DIR/recipes/ and run it with --config-dir DIR")
    return 0


def _validate(names: Sequence[str], options: Options) -> int:
    """Compose every recipe (or the named ones) in every profile; all problems at once."""
    chosen = {name: _find(name, options) for name in names} if names else recipe_files(options)
    problems, count = list[Problem](), 0
    for name, path in chosen.items():
        for profile in profiles(path):
            count += 1
            try:
                compose_recipe([f"recipe={name}", f"profile={profile}"], options.config_dirs)
            except ConfigError as error:
                where = f"{name} ({profile})"
                problems += [replace(p, where=f"{where}: {p.where}") for p in error.problems]
    if problems:
        raise ConfigError(problems)
    print(
        json.dumps({"valid": count})
        if options.json
        else f"{counted(count, 'recipe')} {'is' if count == 1 else 'are'} valid"
    )
    return 0
