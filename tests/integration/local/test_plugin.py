"""A task of the user's own: from a folder of plugins, through the sealed snapshot, into the ranks."""

from __future__ import annotations

from pathlib import Path

from galley.rundir import RunFolder
from tests.integration.reference import SMALL_BERT
from tests.support import run_galley

PLUGIN = """
from trainer.tasks.sequence_classification import SequenceClassification


class Halved(SequenceClassification):
    def metrics(self, predictions, dataset):
        return {"halved": super().metrics(predictions, dataset)["accuracy"] / 2}
"""
SHORT = (
    "data.max_samples=16", "data.max_length=16", "batch.global_size=8", "train.max_steps=1",
    "eval.every_steps=null", "eval.metric=eval/halved", "checkpoint.every_steps=null", *SMALL_BERT,
)  # fmt: skip


def test_a_users_task_trains_from_the_snapshot(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_task.py").write_text(PLUGIN)
    words = ["strategy=single", "plugins=[mine]", "task.kind='my_task:Halved'", "run_dir=run", *SHORT]
    done = run_galley(words, cwd=tmp_path, timeout=250)
    assert done.rc == 0, done.err
    result = RunFolder(tmp_path / "run").read_result()
    assert result is not None
    assert 0 <= result.metrics["eval/halved"] <= 0.5
    assert (tmp_path / "run" / "code" / "plugins" / "0" / "my_task.py").is_file()


def test_a_task_that_is_nowhere_is_refused_before_anything_starts(tmp_path: Path) -> None:
    done = run_galley(["task.kind='my_task:Mine'", "run_dir=run"], cwd=tmp_path)
    assert done.rc == 2
    assert "no folder of plugins has a module 'my_task'" in done.err
    done = run_galley(["task.kind=sequence_clasification", "plugins=[nowhere]"], cwd=tmp_path)
    assert done.rc == 2
    assert "did you mean 'sequence_classification'?" in done.err
    assert "nowhere' is not a folder" in done.err
    assert list(tmp_path.iterdir()) == []
