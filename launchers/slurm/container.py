"""The image in which a Slurm job's ranks run, if any: by Pyxis (an option of srun) or Apptainer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from galley.config.rank_paths import named_folders
from galley.errors import ConfigError, Problem
from galley.schema import Recipe, Slurm
from galley.spec import RunSpec

_BINDS = ("--bind", "-B", "--mount")  # options of Apptainer; Galley does not check what they mount
_NO_HOME = ("--no-home", "--contain", "--containall", "-c", "-C", "--no-mount", "--home", "-H")


@dataclass(frozen=True)
class Container:
    """The options of a container. Without an image all are empty.

    Attributes:
        srun_options: for Pyxis.
        command: stands before the command of a node, for Apptainer.
        python: the interpreter inside the image.
    """

    srun_options: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    python: str | None = None

    @classmethod
    def of(cls, spec: RunSpec, run_dir: Path) -> Container:
        """Return the container of a run.

        Raises `ConfigError` for a path that a list of mounts cannot hold, and for one that no mount covers.
        """
        slurm = spec.recipe.launcher.slurm
        if slurm.container_image is None:
            return cls()
        if {",", ":"} & set(str(run_dir)):
            what = "has a ',' or ':' in its path, which a container's mounts cannot carry"
            raise ConfigError(Problem(f"run_dir={run_dir}", what, "choose another run_dir"))
        problems = [
            Problem(f"launcher.slurm.container_mounts: {mount!r}", "is no mount", "SOURCE:TARGET, each alone")
            for mount in slurm.container_mounts
            if "," in mount or not all(mount.partition(":"))
        ]
        problems = problems or list(_unmounted(spec.recipe, run_dir))
        if problems:
            raise ConfigError(problems)

        mounts = ",".join((f"{run_dir}:{run_dir}", *slurm.container_mounts))
        if slurm.container_runtime == "pyxis":
            options = (f"--container-image={slurm.container_image}", f"--container-mounts={mounts}")
            return cls(srun_options=(*options, *slurm.container_options), python=slurm.container_python)
        gpu = ("--nv",) if spec.layout.device == "cuda" else ()
        exec_ = (slurm.container_runtime, "exec", *gpu, "--bind", mounts)
        command = (*exec_, *slurm.container_options, slurm.container_image)
        return cls(command=command, python=slurm.container_python)


def _unmounted(recipe: Recipe, run_dir: Path) -> Iterator[Problem]:
    """Yield paths of this machine that the ranks need and the container lacks."""
    slurm = recipe.launcher.slurm
    if any(option.startswith(_BINDS) for option in slurm.container_options):
        return
    seen = [str(run_dir), *_mounted(slurm)]
    for key, path in _needed(recipe).items():
        if not any(PurePosixPath(path).is_relative_to(folder) for folder in seen):
            hint = f"add '{path}:{path}', or a folder above it, to launcher.slurm.container_mounts"
            yield Problem(f"{key}={path}", "is not mounted in the container", hint)


def _mounted(slurm: Slurm) -> Iterator[str]:
    """Yield folders of the cluster that the container has. By default Apptainer mounts the home folder."""
    yield from (mount.split(":")[1] for mount in slurm.container_mounts)
    if slurm.container_runtime == "pyxis":
        has_home = "--container-mount-home" in slurm.container_options
    else:
        has_home = not any(option.partition("=")[0] in _NO_HOME for option in slurm.container_options)
    if has_home:
        yield str(Path.home())


def _needed(recipe: Recipe) -> dict[str, str]:
    """Return key -> path, if the path exists here; others may be the image's own."""
    named = {**named_folders(recipe), "checkpoint.resume_from": recipe.checkpoint.resume_from}
    paths = {key: str(Path(path).expanduser().absolute()) for key, path in named.items() if path is not None}
    return {key: path for key, path in paths.items() if Path(path).exists()}
