"""The verbs of the command line, a module each, and the options that they share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from galley.config.project import current_project
from galley.errors import ConfigError, Problem, valid_values

DEFAULT_VERB = "run"


@dataclass(frozen=True)
class Options:
    """What the flags of one command say.

    Attributes:
        config_dirs: the user's folders of recipes and config groups, the current folder if it is a project.
        root: where runs are kept and looked for, `runs/` of the current folder.
        rank: whose log `logs` prints; null is the main rank's.
        format: what `strategy export` writes.
        promote: the recipe as which `pareto` writes the winner.
        optimizer: `checkpoint convert` writes the moments too.
    """

    json: bool = False
    follow: bool = False
    help: bool = False
    version: bool = False
    optimizer: bool = False
    rank: int | None = None
    format: str | None = None
    promote: str | None = None
    config_dirs: tuple[Path, ...] = ()
    root: Path = Path("runs")


FLAGS = {
    "--json": "json",
    "-f": "follow",
    "--follow": "follow",
    "-h": "help",
    "--help": "help",
    "--version": "version",
    "--optimizer": "optimizer",
}
WITH_VALUE = ("--config-dir", "--rank", "--format", "--promote")


def parse_arguments(words: Sequence[str], verbs: Collection[str]) -> tuple[str, list[str], Options]:
    """(verb, its words, options). Raises `ConfigError` on an unknown flag or a flag without its value."""
    options, rest = Options(), list[str]()
    queue = list(words)
    while queue:
        word = queue.pop(0)
        name, separator, value = word.partition("=")
        if word in FLAGS:
            options = replace(options, **{FLAGS[word]: True})  # type: ignore[arg-type]  # all are bool
        elif name in WITH_VALUE:
            if not separator and not queue:
                raise ConfigError(Problem(word, "needs a value"))
            options = _with_value(options, name, value if separator else queue.pop(0))
        elif word.startswith("--"):
            raise ConfigError(Problem(word, "is not an option", valid_values(word, [*FLAGS, *WITH_VALUE])))
        else:
            rest.append(word)
    project = current_project()
    if project is not None and project not in map(Path.resolve, options.config_dirs):
        options = replace(options, config_dirs=(*options.config_dirs, project))
    verb = rest.pop(0) if rest and rest[0] in verbs else DEFAULT_VERB
    return verb, rest, options


def _with_value(options: Options, name: str, value: str) -> Options:
    if name == "--config-dir":
        return replace(options, config_dirs=(*options.config_dirs, Path(value)))
    if name in ("--format", "--promote"):
        return replace(options, **{name.removeprefix("--"): value})  # type: ignore[arg-type]
    if not value.isdigit():
        raise ConfigError(Problem(f"--rank {value}", "is not a rank", "ranks count from 0"))
    return replace(options, rank=int(value))
