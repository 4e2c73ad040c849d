"""A study in Optuna's storage: created once, and known again by its identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import optuna
from optuna.storages import BaseStorage

from galley.errors import ConfigError, Problem
from hpo.backends.base import Search
from hpo.backends.optuna_storage import look_into
from hpo.study.identity import PREFIX, differences, directions, identity

_MOVE = "it belongs to another study; move it away, and it is written again from the journal"
_NAME = "or choose another hpo.study_dir: the name of its folder is the name of the study"


def open_study(search: Search, storage: BaseStorage, where: str) -> optuna.Study:
    """The study of `search`, created if there is none of its name.

    Raises `ConfigError` with both sides if the study of that name is another one.
    """
    study = optuna.create_study(
        study_name=search.name,
        storage=storage,
        directions=directions(search.objectives),
        load_if_exists=True,
    )
    there, here = study.user_attrs, identity(search)
    if f"{PREFIX}id" not in there and _is_untouched(study, search):
        for name in reversed(here):  # the id last: what a killed controller wrote halfway is written again
            study.set_user_attr(name, here[name])
        there = study.user_attrs
    _refuse(search, there, [way.name.lower() for way in study.directions], where)
    return study


def refuse_foreign(search: Search, url: str) -> None:
    """Raise `ConfigError` if the database cannot be opened, or has another study of this name. Writes
    no table."""
    found = look_into(url, search.name)
    if found is not None:
        _refuse(search, *found, "hpo.storage")


def foreign(search: Search, where: str, what: str) -> ConfigError:
    """The storage has a study of this name that is not this one."""
    hint = _MOVE if search.settings.storage is None else f"{_MOVE}; {_NAME}"
    return ConfigError(Problem(f"{where}: {search.name}", what, hint))


def _is_untouched(study: optuna.Study, search: Search) -> bool:
    """Whether it is what a controller leaves that was killed right after it created the study."""
    ways = [way.name.lower() for way in study.directions]
    return ways == directions(search.objectives) and not study.get_trials(deepcopy=False)


def _refuse(search: Search, there: Mapping[str, Any], ways: list[str], where: str) -> None:
    told = differences(there, identity(search))
    if ways != directions(search.objectives):
        said = f"directions there: {', '.join(ways)}, here: {', '.join(directions(search.objectives))}"
        told = f"{told}; {said}" if told else said
    if told:
        raise foreign(search, where, f"is another study: {told}")
