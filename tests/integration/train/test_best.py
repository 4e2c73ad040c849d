"""The best checkpoint: `model/` is bit for bit what the run was at its best evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.schema import Checkpoint, Eval, Optim, Schedule, Train
from tests.integration.train import tiny
from tests.integration.train.test_model_parallel import OWN, PP, TP
from tests.integration.train.test_model_parallel import recipe as model_parallel
from tests.support import make_recipe
from trainer.checkpoints.manifest import list_checkpoints
from trainer.checkpoints.store import Checkpoint as Opened

BEST = Checkpoint(keep=1, keep_best="eval/loss")
OFTEN = Eval(metric="eval/accuracy", every_epochs=0.34)
FAST, CONSTANT = Optim(lr=0.03), Schedule("constant", warmup_steps=2)  # the loss grows again


def recipe(strategy: str = "single", checkpoint: Checkpoint = BEST, **changes: Any) -> Any:
    made = tiny.tiny_recipe(strategy, checkpoint=checkpoint, eval=OFTEN, optim=FAST, schedule=CONSTANT)
    return make_recipe(made, **changes)


def evaluations(folder: Any) -> dict[int, float]:
    return {row["step"]: row["eval/loss"] for row in folder.read_metrics() if "eval/loss" in row}


def best_of(folder: Any) -> int:
    """The first of the smallest."""
    found = evaluations(folder)
    return min(found, key=lambda step: (found[step], step))


@pytest.fixture(scope="module")
def whole(finished: Any) -> Any:
    return finished(tiny.tiny_spec(recipe(), 1))


def test_the_model_is_that_of_a_run_which_ended_at_the_best_step(tmp_path: Path, whole: Any) -> None:
    best, result = best_of(whole), whole.read_result()
    assert best not in (max(evaluations(whole)), min(evaluations(whole)))
    assert (result.best_step, result.steps) == (best, 18)
    assert result.metrics["eval/loss"] == evaluations(whole)[best]
    # 0.34 epochs of 9 steps: 3.06, 6.12, 9.18, 12.24, 15.3, and the end.
    assert [*evaluations(whole)] == [4, 7, 10, 13, 16, 18]
    plain = recipe(checkpoint=Checkpoint(), train=Train(epochs=2.0, log_every_steps=1, stop_at_step=best))
    short = tiny.train(tmp_path, tiny.tiny_spec(plain, 1))
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(short)) == 0.0
    assert short.read_result().best_step is None


def test_the_best_checkpoint_stands_beside_the_newest(tmp_path: Path, whole: Any) -> None:
    assert best_of(whole) in [int(folder.name[5:]) for folder in list_checkpoints(whole.checkpoints)]
    saving = recipe(checkpoint=replace(BEST, every_steps=2))
    folder = tiny.train(tmp_path, tiny.tiny_spec(saving, 1))
    kept = [int(path.name[5:]) for path in list_checkpoints(folder.checkpoints)]
    assert kept == [best_of(whole), 18]
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(folder)) == 0.0


@pytest.mark.parametrize(("strategy", "ranks"), [("ddp", 2), ("zero3", 2), ("fsdp", 2)])
def test_every_strategy_saves_its_best_weights(tmp_path: Path, strategy: str, ranks: int) -> None:
    folder = tiny.train(tmp_path, tiny.tiny_spec(recipe(strategy), ranks))
    best = best_of(folder)
    assert folder.read_result().best_step == best < 18
    checkpoint = Opened(folder.checkpoints / f"step-{best:06d}")
    for name, tensor in tiny.weights(folder).items():
        kind = "buffer" if name == "temperature" else "param"
        assert tensor.equal(checkpoint.tensor(kind, name).to(tensor.dtype)), name


@pytest.mark.parametrize(("strategy", "model", "chunks"), [(TP, "llama", 1), (PP, "gpt2", 2)])
def test_a_model_that_no_rank_holds_is_saved_as_it_was_at_its_best(
    tmp_path: Path, strategy: Any, model: str, chunks: int
) -> None:
    """Here the best loss is the greatest, as the recipe says: the first."""
    made = model_parallel(
        tmp_path / "cache", strategy, model, eval=Eval(every_steps=3),
        train=Train(max_steps=5, log_every_steps=1), checkpoint=Checkpoint(keep_best="eval/loss:max"),
    )  # fmt: skip
    folder = tiny.train(tmp_path / "run", tiny.tiny_spec(made, 2, chunks), **OWN)
    assert folder.read_result().best_step == 3
    checkpoint = Opened(folder.checkpoints / "step-000003")
    for name, tensor in tiny.weights(folder).items():
        assert tensor.equal(checkpoint.tensor("param", name).to(tensor.dtype)), name


def test_killed_behind_its_best_step_and_resumed(tmp_path: Path, whole: Any) -> None:
    spec = tiny.tiny_spec(recipe(checkpoint=replace(BEST, every_steps=2)), 1)
    assert tiny.run_ranks(tmp_path, spec, TINY_KILL=str(best_of(whole) + 4)) == [-9]
    resumed = tiny.train(tmp_path, spec, attempt=2)
    result = resumed.read_result()
    assert int(result.resumed_from[5:]) > result.best_step == best_of(whole)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(resumed)) == 0.0
    assert result.metrics["eval/loss"] == evaluations(whole)[best_of(whole)]


def test_stopped_early_it_is_the_best_and_goes_on_in_another_run(tmp_path: Path, whole: Any) -> None:
    """Early stopping watches the same metric if it is given no other. Another run goes on from behind the
    best step, and still finds it."""
    early = Eval(every_epochs=0.34, patience=2)
    stopped = tiny.train(tmp_path / "a", tiny.tiny_spec(recipe(eval=early, checkpoint=BEST), 1))
    result, values = stopped.read_result(), [*evaluations(whole).values()]
    misses = [n for n in range(2, len(values)) if min(values[n - 1 : n + 1]) >= min(values[: n - 1])]
    assert result.steps == [*evaluations(whole)][misses[0]]
    assert result.best_step == best_of(stopped)
    part = recipe(
        checkpoint=replace(BEST, every_steps=2),
        train=Train(epochs=2.0, log_every_steps=1, stop_at_step=best_of(whole) + 2),
    )
    first = tiny.train(tmp_path / "b", tiny.tiny_spec(part, 1))
    rest = recipe(checkpoint=replace(BEST, resume_from=str(first.root)))
    second = tiny.train(tmp_path / "c", tiny.tiny_spec(rest, 1))
    assert second.read_result().best_step == best_of(whole)
    assert tiny.largest_difference(tiny.weights(whole), tiny.weights(second)) == 0.0
