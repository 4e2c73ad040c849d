"""What the user typed: each override read, and each mistake in it named, before anything is composed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from galley.config.choices import ALIASES, no_such_option
from galley.config.keys import is_known, suggest
from galley.config.recipe_file import ENDINGS, RecipeFile, by_path
from galley.config.verbs import VERBS
from galley.errors import Problem, valid_values
from galley.paths import command
from galley.quoting import override, shell_word
from galley.registry import WITH_GROUPS

if TYPE_CHECKING:
    from galley.config.hydra_bridge import Loader

DEFAULT_RECIPE = "quickstart"
PUBLISHED_PROFILE = "full"
WITH_CLASSES_OF_ONES_OWN = ("task", "tracker")  # groups, of what only the ranks import


@dataclass
class Request:
    """The overrides of one command, sorted by what they do.

    Attributes:
        groups: config group -> option.
        values: (key, override in Hydra's grammar), in the order of the command line.
        typed: key -> the override as the user wrote it.
        sweeps: key or config group -> an override with several values, for `hpo.space`.
    """

    recipe: str | None = None
    profile: str | None = None
    groups: dict[str, str] = field(default_factory=dict)
    values: list[tuple[str, str]] = field(default_factory=list)
    typed: dict[str, str] = field(default_factory=dict)
    sweeps: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def read_request(texts: Sequence[str], loader: Loader) -> Request:
    """Sort the overrides; what is wrong with one of them goes to `problems` and is left out."""
    request = Request()
    groups = loader.groups()
    for text in texts:
        problem = _read(text, request, groups)
        if problem is not None:
            request.problems.append(problem)
    _check_options(request, loader)
    return request


def _read(text: str, request: Request, groups: Sequence[str]) -> Problem | None:
    from hydra.errors import HydraException

    from galley.config.hydra_bridge import parse_override

    if "=" not in text:
        return _not_an_override(text)
    try:
        read = parse_override(text)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        return Problem(text, f"cannot be read: {reason}", _how_to_write(text))
    key = str(read.key_or_group)
    if read.is_delete():
        return Problem(text, "a key cannot be removed", f"set it to null: {key}=null")
    if read.package is not None:
        return Problem(text, "packages (KEY@PACKAGE) are not used", f"write {key}=…")
    if read.is_sweep_override():
        if key not in groups and not is_known(key):
            return Problem(text, f"'{key}' is not a key", suggest(key))
        request.sweeps[key] = text
        return None
    request.typed[key] = text
    if key in ("recipe", "profile") or key in groups:
        return _read_choice(text, key, read.value(), request)
    if not is_known(key):
        return Problem(text, f"'{key}' is not a key", suggest(key))
    request.values.append((key, "++" + text.lstrip("+")))
    return None


def _how_to_write(text: str) -> str:
    """The form that Hydra's grammar has for what was probably meant."""
    key, _, value = text.partition("=")
    parts = key.lstrip("+~").split(".")
    typed = override(parts, value)
    if not typed.startswith(f"{'.'.join(parts)}=") and is_known(".".join(parts)):
        return f"write {shlex.quote(typed)}"
    if value.startswith(("{", "[")):
        return f"a list is {key}='[a,\"b c\"]', a mapping {key}='{{name: \"b c\"}}', its names without quotes"
    return (
        f"quote the value: {shell_word(parts, value)}" if '"' not in value else "quote the value: KEY='\"…\"'"
    )


def add_sweeps(container: dict[str, Any], request: Request) -> list[Problem]:
    """Overrides with several values become dimensions of the sweep; without one they are mistakes."""
    hpo = container.get("hpo")
    if isinstance(hpo, dict) and hpo.get("kind") not in (None, "none"):
        ranges = {key: text.partition("=")[2] for key, text in request.sweeps.items()}
        if ranges:
            hpo["space"] = {**(hpo.get("space") or {}), **ranges}
        return []
    return [
        Problem(
            text,
            "several values where one is expected",
            f"for text with a comma write {key}='\"a,b\"', for a list '{key}=[a,b]'; "
            "hpo=optuna searches them",
        )
        for key, text in request.sweeps.items()
    ]


def _read_choice(text: str, key: str, value: Any, request: Request) -> Problem | None:
    if not isinstance(value, str):
        hint = f"{key}=OPTION; single values are {key}.KEY=VALUE" if key not in ("recipe", "profile") else ""
        return Problem(text, f"'{key}' is chosen by name", hint)
    if key == "recipe":
        request.recipe = value
    elif key == "profile":
        request.profile = value
    else:
        request.groups[key] = ALIASES.get((key, value), value)
    return None


def _not_an_override(text: str) -> Problem:
    if text.startswith("-"):
        return Problem(text, "is not an option", f"{command()} --help lists them")
    return Problem(text, "is neither a verb nor KEY=VALUE", valid_values(text, VERBS))


def _check_options(request: Request, loader: Loader) -> None:
    for group, option in list(request.groups.items()):
        options = loader.options(group)
        if option not in options and _is_from_outside(group, option):
            del request.groups[group]
            request.values.append((f"{group}.kind", f"++{group}.kind={option}"))
        elif option not in options:
            known = [*options, *_from_packages(group)]
            request.problems.append(no_such_option(request.typed[group], option, group, known))
            del request.groups[group]
    recipes = loader.options("recipes")
    if loader.recipe_file is not None and by_path(request.recipe) == loader.recipe_file:
        _take_file(request, loader.recipe_file)
    elif request.recipe is not None and request.recipe not in recipes:
        request.problems.append(no_such_option(request.typed["recipe"], request.recipe, "recipe", recipes))
        request.recipe = None
    _check_profile(request, loader)


def _is_from_outside(group: str, option: str) -> bool:
    """Whether the option is no file of the group, but what a package or a folder of plugins brings."""
    return option in _from_packages(group) or (group in WITH_CLASSES_OF_ONES_OWN and ":" in option)


def _from_packages(group: str) -> list[str]:
    return [name for one in WITH_GROUPS if one.key == f"{group}.kind" for name in one.installed]


def _take_file(request: Request, file: RecipeFile) -> None:
    request.recipe = file.name
    if not file.path.is_file():
        there = [str(one) for one in sorted(file.path.parent.glob("*")) if one.suffix in ENDINGS]
        hint = valid_values(str(file.path), there) if there else f"{file.path.parent} has no recipe"
        request.problems.append(Problem(request.typed["recipe"], f"there is no file {file.path}", hint))
        request.recipe = None


def _check_profile(request: Request, loader: Loader) -> None:
    recipe = request.recipe or DEFAULT_RECIPE
    if request.profile is None or request.profile == PUBLISHED_PROFILE:
        return
    variants = set(loader.options(f"recipes/{recipe}")) - set(loader.options("strategy"))
    if request.profile not in variants:
        valid = [PUBLISHED_PROFILE, *sorted(variants)]
        request.problems.append(
            Problem(
                request.typed["profile"],
                f"recipe '{loader.title_of(recipe)}' has no profile '{request.profile}'",
                valid_values(request.profile, valid),
            )
        )
        request.profile = None
