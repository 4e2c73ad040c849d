"""Where the ranks find the folders that a recipe names: on this machine, or in pods that see none of it.

Pods see their volumes and their image. A folder of this machine reaches them only by
`launcher.k8s.upload`, inside the snapshot of the code. Pure, but for whether a folder is here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from galley.errors import Problem
from galley.quoting import shell_word
from galley.schema import Data, Recipe
from galley.schema.launcher_traits import traits

UPLOADS = "uploads"
"""Folder of the snapshot that holds what was uploaded, each under the key that names it."""
_UPLOAD = "launcher.k8s.upload"


def named_folders(recipe: Recipe) -> dict[str, str]:
    """Key -> folder that the ranks read, for every key that names one rather than a name on the hub."""
    data = recipe.data
    sources = {f"data.mix.{number}.path": source.path for number, source in enumerate(data.mix)}
    named = sources if data.mix else {"data.path": data.path}
    models = {
        "model.name": recipe.model.name if recipe.model.architecture is None else None,
        "model.tokenizer": recipe.model.tokenizer,
        "task.distillation.teacher": recipe.task.distillation.teacher,
    }
    named |= {key: name for key, name in models.items() if name is not None and _is_folder(name)}
    return {key: path for key, path in named.items() if path is not None}


def _is_folder(name: str) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).is_dir()


def with_folders(recipe: Recipe, folders: Mapping[str, str]) -> Recipe:
    """The recipe with other folders at some of the keys of `named_folders`."""
    for key, path in folders.items():
        recipe = _with_value(recipe, key.split("."), path)
    return recipe


def _with_value(section: Any, names: list[str], value: str) -> Any:
    if not names:
        return value
    if isinstance(section, list):
        number = int(names[0])
        changed = _with_value(section[number], names[1:], value)
        return [*section[:number], changed, *section[number + 1 :]]
    return replace(section, **{names[0]: _with_value(getattr(section, names[0]), names[1:], value)})


def pod_folders(recipe: Recipe) -> dict[str, str]:
    """Folder that the pods of `launcher=k8s` see -> what it is."""
    options = recipe.launcher.k8s
    volume = f"the claim '{options.claim}'" if options.claim is not None else "an empty folder of each pod"
    further = [str(entry["mountPath"]) for entry in options.volumes if "mountPath" in entry]
    found = {options.mount_path: volume, **dict.fromkeys(further, "a volume")}
    return {**found, **dict.fromkeys(options.image_folders, "a folder of the image")}


def _in_pods(recipe: Recipe, path: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(folder) for folder in pod_folders(recipe))


def uploads(recipe: Recipe) -> dict[str, Path]:
    """Key -> folder of this machine that travels with the code, because the pods do not see it."""
    if not traits(recipe).in_pods or not recipe.launcher.k8s.upload:
        return {}
    here = {key: Path(path).expanduser() for key, path in named_folders(recipe).items()}
    return {key: path for key, path in here.items() if path.is_dir() and not _in_pods(recipe, str(path))}


def with_uploads(recipe: Recipe, code: Path) -> Recipe:
    """The recipe with the uploaded folders where the snapshot `code` has them."""
    found = {folder.name: str(folder) for folder in sorted((code / UPLOADS).glob("*"))}
    return with_folders(recipe, found) if found else recipe


def seen_here(recipe: Recipe, path: str) -> Path | None:
    """The folder that ranks read at `path`, as this machine sees it; None if it does not."""
    here = Path(path).expanduser()
    if not traits(recipe).in_pods:
        return here
    if not _in_pods(recipe, path):
        return here if recipe.launcher.k8s.upload else None
    options = recipe.launcher.k8s
    on_claim = PurePosixPath(path).is_relative_to(options.mount_path)
    if options.claim_here is None or not on_claim:
        return None
    return Path(options.claim_here).expanduser() / PurePosixPath(path).relative_to(options.mount_path)


def data_here(recipe: Recipe) -> Data:
    """The data whose paths are those of this machine; null where it does not see them."""

    def here(path: str | None) -> str | None:
        seen = None if path is None else seen_here(recipe, path)
        return None if seen is None else str(seen)

    data = recipe.data
    return replace(
        data, path=here(data.path), mix=[replace(source, path=here(source.path)) for source in data.mix]
    )


def place_problems(recipe: Recipe) -> Iterator[Problem]:
    """Folders of this machine that pods do not see, and folders that nobody has."""
    if not traits(recipe).in_pods:
        return
    for key, path in named_folders(recipe).items():
        if not _in_pods(recipe, path):
            yield from _outside(recipe, key, path)
    for key in filter(lambda key: _varies(recipe, key), uploads(recipe)):
        yield Problem(
            f"hpo.space.{key}", "differs between trials, which share one upload", f"{_UPLOAD}=false"
        )
    cache = recipe.data.cache_dir
    if cache is not None and not _in_pods(recipe, cache) and not PurePosixPath(cache).is_relative_to("/tmp"):  # noqa: S108
        yield Problem("data.cache_dir", f"the pods have no folder '{cache}'", f"valid: {_valid(recipe)}")


def _varies(recipe: Recipe, key: str) -> bool:
    """Whether a sweep has values of its own for the key, for its section or for its group."""
    return any(f"{key}.".startswith(f"{name}.") for name in recipe.hpo.space)


def _outside(recipe: Recipe, key: str, path: str) -> Iterator[Problem]:
    here = Path(path).expanduser().absolute()
    if not here.is_dir():
        what = f"the pods have no folder '{path}', and neither has this machine"
        yield Problem(
            key, what, f"valid: {_valid(recipe)}; name what the image has in launcher.k8s.image_folders"
        )
        return
    on_claim = _as_pods_see(recipe, here)
    if on_claim is not None:
        hint = f"set {shell_word(key.split('.'), str(on_claim))}"
        yield Problem(key, f"the pods see '{path}' as {on_claim}", hint)
    elif not recipe.launcher.k8s.upload:
        what = f"'{path}' is a folder of this machine, which the pods do not see"
        hint = (
            f"copy it into {_valid(recipe)}, and name it there; or send a small one along with {_UPLOAD}=true"
        )
        yield Problem(key, what, hint)


def _as_pods_see(recipe: Recipe, here: Path) -> PurePosixPath | None:
    """A folder that this machine sees on the claim, by the path that the pods see it at."""
    options = recipe.launcher.k8s
    if options.claim_here is None:
        return None
    claim = Path(options.claim_here).expanduser().resolve()
    resolved = here.resolve()
    if not resolved.is_relative_to(claim):
        return None
    return PurePosixPath(options.mount_path) / resolved.relative_to(claim).as_posix()


def _valid(recipe: Recipe) -> str:
    return " or ".join(f"a folder below {folder} ({what})" for folder, what in pod_folders(recipe).items())


def place_warnings(recipe: Recipe) -> list[str]:
    """What is first looked at by the ranks."""
    return [
        f"{key}={path} is not seen from here: the ranks are the first to read it"
        for key, path in named_folders(recipe).items()
        if seen_here(recipe, path) is None
    ]
