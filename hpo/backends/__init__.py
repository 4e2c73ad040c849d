"""The backends by name. Imported only when they are used."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from galley.errors import ConfigError, Problem, valid_values
from hpo.backends.base import HpoBackend, Search
from hpo.study.values import Trial

# kind -> (module:class, the extra that has its packages)
BACKENDS = {
    "random": ("hpo.backends.random:RandomBackend", ""),
    "grid": ("hpo.backends.grid:GridBackend", ""),
    "pbt": ("hpo.backends.pbt:PbtBackend", ""),
    "optuna": ("hpo.backends.optuna:OptunaBackend", "optuna"),
    "ray": ("hpo.backends.ray:RayBackend", "ray"),
}


def make_backend(search: Search, trials: Sequence[Trial]) -> HpoBackend:
    """The backend that `hpo.kind` names, with all trials so far.

    Raises `ConfigError` where there is none, its packages are missing, or it cannot express the search.
    """
    kind = search.settings.kind
    if kind not in BACKENDS:
        raise ConfigError(Problem(f"hpo={kind}", "is not a backend", valid_values(kind, BACKENDS)))
    path, extra = BACKENDS[kind]
    module, attribute = path.split(":")
    try:
        backend: type[HpoBackend] = getattr(import_module(module), attribute)
    except ModuleNotFoundError as error:
        hint = f"pip install 'galley[{extra}]'"
        raise ConfigError(Problem(f"hpo={kind}", f"needs the package {error.name}", hint)) from error
    return backend(search, trials)
