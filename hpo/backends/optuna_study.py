"""A study in Optuna's storage: created once, and recognized by its identity."""

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
    """Return the study of `search`, created if there is none of its name.

    Raises `ConfigError` with both identities if the study of that name is another one.
    """
    study = optuna.create_study(
        study_name=search.name,
        storage=storage,
        directions=directions(search.objectives),
        load_if_exists=True,
    )
    there, here = study.user_attrs, identity(search)
    if f"{PREFIX}id" not in there and _is_untouched(study, search):
        for name in reversed(here):  # the id last: without an id, an interrupted writing is repeated
            study.set_user_attr(name, here[name])
        there = study.user_attrs
    _refuse(search, there, [way.name.lower() for way in study.directions], where)
    return study


def refuse_foreign(search: Search, url: str) -> None:
    """Raise `ConfigError` if the database cannot be opened, or has another study of this name.

    Writes no table.
    """
    stored = look_into(url, search.name)
    if stored is not None:
        _refuse(search, *stored, "hpo.storage")


def foreign(search: Search, where: str, what: str) -> ConfigError:
    """Return the error for a storage that has another study of this name."""
    hint = _MOVE if search.settings.storage is None else f"{_MOVE}; {_NAME}"
    return ConfigError(Problem(f"{where}: {search.name}", what, hint))


def _is_untouched(study: optuna.Study, search: Search) -> bool:
    """Return whether the study is what a controller leaves that is killed right after creating it."""
    ways = [way.name.lower() for way in study.directions]
    return ways == directions(search.objectives) and not study.get_trials(deepcopy=False)


def _refuse(search: Search, there: Mapping[str, Any], ways: list[str], where: str) -> None:
    """Raise `ConfigError` if identity or directions differ."""
    difference = differences(there, identity(search))
    if ways != directions(search.objectives):
        other_ways = f"directions there: {', '.join(ways)}, here: {', '.join(directions(search.objectives))}"
        difference = f"{difference}; {other_ways}" if difference else other_ways
    if difference:
        raise foreign(search, where, f"is another study: {difference}")
