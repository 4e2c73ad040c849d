"""What there is behind each seam, by name: of Galley, of installed packages, and of the user's own.

A name leads to `MODULE:ATTRIBUTE`, which is imported when it is used, and not before: a plan names everything
and loads nothing. A package brings an implementation as an entry point of the seam's group. Entry points are
read only if a name is none of Galley's: reading them takes longer than a plan may.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from operator import attrgetter
from typing import Any

from galley.errors import ConfigError, Problem, valid_values
from galley.plugins import own_class


class Registry:
    """The implementations of one seam.

    Attributes:
        key: the recipe's key that names one, `launcher.kind`.
        group: of the entry points, `galley.launchers`.
        built_in: name -> `MODULE:ATTRIBUTE`.
        hidden: likewise, of what Galley chooses by itself: no recipe names it.
        extras: name -> the optional dependencies of Galley that it needs, if any.
        libraries: name -> the module that it imports, if it is not Galley's; for a check before the start.
    """

    def __init__(
        self,
        key: str,
        group: str,
        built_in: Mapping[str, str],
        hidden: Mapping[str, str] | None = None,
        extras: Mapping[str, str] | None = None,
        libraries: Mapping[str, str] | None = None,
    ) -> None:
        self.key = key
        self.group = group
        self.built_in = built_in
        self.hidden = hidden or {}
        self.extras = extras or {}
        self.libraries = libraries or {}

    def __contains__(self, name: object) -> bool:
        return name in self.built_in or name in self.installed

    def __iter__(self) -> Iterator[str]:
        return iter([*self.built_in, *self.installed])

    @cached_property
    def installed(self) -> dict[str, EntryPoint]:
        """The entry points by name, without those that would replace something of Galley's."""
        points = entry_points(group=self.group)
        return {point.name: point for point in points if point.name not in {**self.built_in, **self.hidden}}

    def chosen(self, recipe: object) -> str:
        """The name that a recipe has chosen."""
        return str(attrgetter(self.key)(recipe))

    def provider(self, name: str) -> dict[str, str]:
        """{distribution: version} of the installed package that brings `name`; empty for Galley's own."""
        point = None if name in self.built_in or ":" in name else self.installed.get(name)
        return {point.dist.name: point.dist.version} if point is not None and point.dist is not None else {}

    def load(self, name: str, base: Callable[..., Any] | None = None) -> Any:
        """The implementation called `name`, or the user's own subclass of `base`, `MODULE:CLASS`.

        Raises `ConfigError` if there is none, or if a package that it needs is not installed.
        """
        where = f"{self.key}={name}"
        if base is not None and ":" in name:
            return own_class(where, name, base)
        path = self.built_in.get(name) or self.hidden.get(name)
        if path is None and name in self.installed:
            path = self.installed[name].value
        if path is None:
            raise ConfigError(Problem(where, f"'{name}' is not known", valid_values(name, self)))
        return load_attribute(where, path, self.extras.get(name))


def load_attribute(where: str, path: str, extra: str | None = None) -> Any:
    """What `MODULE:ATTRIBUTE` leads to. `extra`: the optional dependencies of Galley that it needs.

    Raises `ConfigError` if a package is not installed, or if the module has no such attribute.
    """
    name, _, attribute = path.partition(":")
    try:
        module = import_module(name)
    except ModuleNotFoundError as error:
        hint = f"pip install 'galley[{extra}]'" if extra else f"pip install {error.name}"
        raise ConfigError(Problem(where, f"needs the package {error.name}", hint)) from error
    if not hasattr(module, attribute):
        raise ConfigError(Problem(where, f"leads to '{path}', but {name} has no '{attribute}'"))
    return getattr(module, attribute)


LAUNCHERS = Registry(
    "launcher.kind",
    "galley.launchers",
    {
        "local": "launchers.local.launcher:LocalLauncher",
        "mpi": "launchers.mpi.launcher:MpiLauncher",
        "slurm": "launchers.slurm.launcher:SlurmLauncher",
        "k8s": "launchers.k8s.launcher:K8sLauncher",
        # The kind of job may be named at once: `launcher=k8s launcher.kind=trainjob`.
        "pytorchjob": "launchers.k8s.launcher:K8sLauncher",
        "trainjob": "launchers.k8s.launcher:K8sLauncher",
        "ray": "launchers.ray.launcher:RayLauncher",
    },
    # Chosen by a sweep, for its trials on this machine; a recipe names `local`.
    hidden={"warm": "launchers.warm.launcher:WarmLauncher"},
)
TASKS = Registry(
    "task.kind",
    "galley.tasks",
    {
        "sequence_classification": "galley.tasks.sequence_classification:TASK",
        "sequence_regression": "galley.tasks.sequence_regression:TASK",
        "multi_label_classification": "galley.tasks.multi_label_classification:TASK",
        "distillation": "galley.tasks.distillation:TASK",
        "question_answering": "galley.tasks.question_answering:TASK",
        "token_classification": "galley.tasks.token_classification:TASK",
        "contrastive": "galley.tasks.contrastive:TASK",
        "causal_lm": "galley.tasks.causal_lm:TASK",
        "masked_lm": "galley.tasks.masked_lm:TASK",
        "masked_lm_distillation": "galley.tasks.masked_lm_distillation:TASK",
        "seq2seq": "galley.tasks.seq2seq:TASK",
    },
)
"""A `galley.tasks.base.TaskDescription`, which names the torch half."""
ENGINES = Registry(
    "strategy.engine",
    "galley.engines",
    {
        "torch": "trainer.engines.native:engine",
        "deepspeed": "trainer.engines.deepspeed:engine",
        "fsdp": "trainer.engines.fsdp:FsdpEngine",
    },
)
"""A subclass of `trainer.engines.base.Engine`, or a function of the strategy that gives one."""
BACKENDS = Registry(
    "hpo.kind",
    "galley.hpo",
    {
        "optuna": "hpo.backends.optuna:OptunaBackend",
        "ray": "hpo.backends.ray:RayBackend",
        "grid": "hpo.backends.grid:GridBackend",
        "random": "hpo.backends.random:RandomBackend",
        "pbt": "hpo.backends.pbt:PbtBackend",
    },
    extras={"optuna": "optuna", "ray": "ray"},
)
TRACKERS = Registry(
    "tracker.kind",
    "galley.trackers",
    {
        "wandb": "galley.trackers.wandb:WandbTracker",
        "tensorboard": "galley.trackers.tensorboard:TensorboardTracker",
        "mlflow": "galley.trackers.mlflow:MlflowTracker",
        "trackio": "galley.trackers.trackio:TrackioTracker",
    },
    libraries={"wandb": "wandb", "tensorboard": "tensorboardX", "mlflow": "mlflow", "trackio": "trackio"},
)
MODELS = Registry(
    "model.name",
    "galley.models",
    {
        "minilm": "trainer.assets.minilm:model",
        "deberta_minilm": "trainer.assets.deberta_minilm:folder",
        "smollm2": "trainer.assets.smollm2:folder",
    },
)
"""`embedded:NAME`: functions of the cache that give a Hugging Face folder."""
TOKENIZERS = Registry(
    "model.tokenizer",
    "galley.tokenizers",
    {**MODELS.built_in, "gpt2_bpe": "trainer.assets.gpt2_bpe:folder"},
)
"""As `MODELS`, of folders that hold a tokenizer."""
DATA = Registry(
    "data.name",
    "galley.data",
    {
        "pydoc_pairs": "trainer.assets.pydoc_pairs:rows",
        "pydoc_triplets": "trainer.assets.pydoc_pairs:triplets",
        "pydoc_neighbors": "trainer.assets.pydoc_pairs:neighbors",
        "pydoc_qa": "trainer.assets.pydoc_qa:questions",
        "pydoc_text": "trainer.assets.pydoc_text:rows",
        "pydoc_dialogue": "trainer.assets.pydoc_dialogue:rows",
    },
)
"""`embedded:NAME`: functions of the split that give its rows as {column: value}, in a fixed order."""
WITH_GROUPS = (LAUNCHERS, TASKS, BACKENDS, TRACKERS)
"""Those whose names are options of a config group, too: `launcher=slurm` is conf/launcher/slurm.yaml."""
CHOSEN_BY_RECIPES = (LAUNCHERS, TASKS, ENGINES, BACKENDS, TRACKERS)
EMBEDDED = (MODELS, TOKENIZERS, DATA)
EMBEDDED_PREFIX = "embedded:"
