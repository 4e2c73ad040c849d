"""What only Slurm knows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from galley.schema.types import NonNegative, Positive


@dataclass(frozen=True)
class Slurm:
    """What only Slurm knows (`launcher=slurm`). Names are those of sbatch's own options.

    Attributes:
        exclusive: no other job on the nodes.
        exclude: nodes that must not be used.
        spare_nodes: further nodes, one of which takes the place of each that fails.
        spare_constraint: the feature of spare nodes that are of another kind than the run's; then
            `constraint` is the feature of the run's.
        container_image: run every node's processes in this image, by `container_runtime`.
        container_mounts: `SOURCE:TARGET` each; the run folder is always mounted.
        container_options: further options, of `apptainer exec` (`--writable-tmpfs`) or of Pyxis
            (`--no-container-mount-home`).
        container_python: the interpreter inside the image.
        save_lead_s: seconds before the time limit at which the run saves and is queued again; more
            than the time between two rows of metrics and the time to save.
        requeue: run again, from the last checkpoint, after preemption, time limit or node failure.
        gpu_request: how the GPUs of a node are asked for; `none` on sites that do not count them, where
            `directives` may ask in the site's own way.
        gpu_type: the type of the GPUs, such as `a100`.
        export: `none` keeps the environment of the submitting shell out of the job, but for
            `launcher.forward_env`; Slurm then loads the login environment.
        srun_options: further options of the srun that starts the ranks, such as `--mpi=pmix`.
        directives: further options of sbatch, such as `--mail-type=END`.
        setup: lines of bash before the ranks start, such as `module load cuda`; run as they are.
    """

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclusive: bool = False
    exclude: list[str] = field(default_factory=list)
    spare_nodes: NonNegative = 0
    spare_constraint: str | None = None
    container_image: str | None = None
    container_runtime: Literal["pyxis", "apptainer", "singularity"] = "pyxis"
    container_mounts: list[str] = field(default_factory=list)
    container_options: list[str] = field(default_factory=list)
    container_python: str = "python3"
    save_lead_s: Positive = 120
    requeue: bool = True
    gpu_request: Literal["gpus-per-node", "gres", "gpus-per-task", "none"] = "gpus-per-node"
    gpu_type: str | None = None
    export: Literal["all", "none"] = "all"
    srun_options: list[str] = field(default_factory=list)
    directives: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
