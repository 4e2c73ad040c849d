"""The image that a Slurm job's ranks run in, if any: by Pyxis (an option of srun) or Apptainer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from galley.errors import ConfigError, Problem
from galley.spec import RunSpec


@dataclass(frozen=True)
class Container:
    """Without an image all is empty.

    Attributes:
        srun_options: for Pyxis.
        command: before the command of a node, for Apptainer.
        python: the interpreter inside the image.
    """

    srun_options: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    python: str | None = None

    @classmethod
    def of(cls, spec: RunSpec, run_dir: Path) -> Container:
        """Raises `ConfigError` on a path that a list of mounts cannot hold."""
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
