"""`cluster.preload` by the command line: every rank has the libraries in its memory, in their order."""

from __future__ import annotations

import json
import os
from pathlib import Path

from galley.rundir import RunFolder
from galley.system.preload import LIBRARIES, find_libraries, library_folders
from tests.support import not_available, run_galley

PLUGIN = """
import json
import os
from pathlib import Path

import numpy as np
import torch

from trainer.tasks.base import Datasets, Task


class Rows:
    fingerprint, lengths = "rows", np.ones(4, dtype=np.int32)

    def __len__(self):
        return len(self.lengths)

    def rows(self, indices):
        return [{"x": float(index)} for index in indices]


class Telling(Task):
    def datasets(self, main_first):
        maps = Path("/proc/self/maps").read_text().splitlines()
        found = {line.split()[-1] for line in maps if "/" in line}
        told = {"maps": sorted(found), "preload": os.environ["LD_PRELOAD"]}
        Path(os.environ["TOLD"] + os.environ["RANK"]).write_text(json.dumps(told))
        return Datasets(Rows(), None)

    def model(self):
        return torch.nn.Linear(1, 1)

    def collate(self, samples):
        return {"x": torch.tensor([[sample["x"]] for sample in samples])}

    def loss(self, model, batch, weights):
        return (model(batch["x"]).squeeze(1) * weights).sum()

    def weight(self, batch, weights):
        return weights.sum()

    def predict(self, model, batch):
        return model(batch["x"])

    def metrics(self, predictions, dataset):
        return {}

    def save_pretrained(self, model, state, folder):
        pass
"""
WORDS = (
    "plugins=[mine]", "task.kind='my_task:Telling'", "cluster.preload=[libiomp5,tcmalloc]",
    "cluster.procs_per_node=2", "batch.global_size=4", "train.max_steps=1", "eval.enabled=false",
    "checkpoint.every_steps=null", "run_dir=run",
)  # fmt: skip


def test_every_rank_has_loaded_what_is_asked_for_the_allocator_first(tmp_path: Path) -> None:
    found = find_libraries(library_folders(os.environ))
    expected = [path for path in found if Path(path).name not in LIBRARIES["jemalloc"]]
    if len(expected) < len(LIBRARIES) - 1:
        not_available("libtcmalloc.so.4 or libiomp5.so", "cluster.preload from the command line to the ranks")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_task.py").write_text(PLUGIN)
    told = f"+launcher.env.TOLD={tmp_path}/told-"
    done = run_galley([*WORDS, told], cwd=tmp_path, timeout=250)
    assert done.rc == 0, done.err
    result = RunFolder(tmp_path / "run").read_result()
    assert result is not None
    assert (result.state, result.world_size) == ("succeeded", 2)
    for rank in range(2):
        found = json.loads((tmp_path / f"told-{rank}").read_text())
        assert found["preload"] == ":".join(expected)
        assert {os.path.realpath(path) for path in expected} <= set(found["maps"])
