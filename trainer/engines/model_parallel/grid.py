"""The position of a rank among pipeline stages, copies of the model, and shares of a matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from galley.schema import Strategy
from galley.spec import Layout
from trainer.hosts.ranks import Ranks

PIPELINE, DATA, TENSOR = "pipeline", "data", "tensor"


@dataclass(frozen=True)
class Grid:
    """The ranks on three axes (pipeline, data, tensor), the last one varying fastest.

    Attributes:
        replicas: the ranks that hold the same part of the model, each for other samples.
    """

    mesh: DeviceMesh
    replicas: Ranks

    @property
    def stage(self) -> int:
        """Return this rank's position in the pipeline."""
        return self.mesh.get_local_rank(PIPELINE)

    @property
    def share(self) -> int:
        """Return which part of a matrix this rank holds."""
        return self.mesh.get_local_rank(TENSOR)

    def size(self, axis: str) -> int:
        return self.mesh[axis].size()


def open_grid(strategy: Strategy, layout: Layout, ranks: Ranks) -> Grid | None:
    """Return the grid; None if every rank holds, or gathers, a whole model. A collective."""
    if strategy.model_parallel == 1:
        return None
    shape = (strategy.pipeline_parallel, layout.data_parallel, strategy.tensor_parallel)
    mesh = init_device_mesh(layout.device, shape, mesh_dim_names=(PIPELINE, DATA, TENSOR))
    place = replace(ranks.facts, rank=mesh.get_local_rank(DATA), world_size=layout.data_parallel)
    return Grid(mesh, ranks.among(mesh.get_group(DATA), place))
