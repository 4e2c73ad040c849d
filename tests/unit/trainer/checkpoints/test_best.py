"""Which evaluation is the best, against Transformers' own Trainer; what is kept and what is saved."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, GPT2Config, GPT2LMHeadModel, Trainer

from galley.config.rules.recipe import recipe_problems
from galley.schema import Checkpoint, Data, Eval, Train
from galley.tasks import task_metrics
from tests.support import make_recipe
from tests.unit.trainer.checkpoints.test_manifest import make_checkpoint
from trainer.checkpoints.best import Best, resumed_best, with_weights
from trainer.checkpoints.manifest import Kept, TrainState, list_checkpoints, retain
from trainer.hosts.rank_facts import RankFacts
from trainer.hosts.ranks import Ranks
from trainer.run.early_stopping import EarlyStopping
from trainer.run.loop import periods

EPOCHS = Eval(every_epochs=1.0, patience=2)
PLAIN = make_recipe(task={"kind": "sequence_classification"})
KEEPING = make_recipe(PLAIN, eval=EPOCHS, checkpoint={"keep_best": "eval/f1"})


def by_transformers(values: list[float], greater: bool, patience: int) -> tuple[int | None, int]:
    """(best step, step of the last evaluation) of `load_best_model_at_end` with its early stopping."""
    trainer: Any = Trainer.__new__(Trainer)
    trainer.args = SimpleNamespace(
        metric_for_best_model="eval_x", greater_is_better=greater, save_strategy="steps", run_name="",
        load_best_model_at_end=True, output_dir="",
    )  # fmt: skip
    trainer.state = SimpleNamespace(
        best_metric=None, best_global_step=None, global_step=0, best_model_checkpoint=None
    )
    callback, control = EarlyStoppingCallback(patience), SimpleNamespace(should_training_stop=False)
    for step, value in enumerate(values, 1):
        trainer.state.global_step = step
        callback.on_evaluate(trainer.args, trainer.state, control, {"eval_x": value})
        if trainer._determine_best_metric({"eval_x": value}, None):
            trainer.state.best_global_step = step
        if control.should_training_stop:
            break
    return trainer.state.best_global_step, step


@pytest.mark.parametrize("metric", ["eval/f1", "eval/loss"])
def test_best_and_early_stop_are_those_of_transformers(metric: str) -> None:
    generator, made = random.Random(3), make_recipe(KEEPING, checkpoint={"keep_best": metric})
    for _ in range(300):
        values = [generator.choice([0.1, 0.2, 0.3, 0.4, 0.5, math.nan]) for _ in range(8)]
        values[0] = 0.3
        best, stopping = Best.of(made, task_metrics(made)), EarlyStopping.of(made, task_metrics(made))
        for last, value in enumerate(values, 1):
            stops = stopping.update({metric: value})
            best.update(last, {metric: value})
            if stops:
                break
        assert best.kept is not None
        assert (best.kept.step, last) == by_transformers(values, metric == "eval/f1", 2), values
        assert (best.kept.value, best.kept.metrics) == (values[best.kept.step - 1], {metric: best.kept.value})


def test_without_it_nothing_is_compared_and_another_metric_does_not_go_on() -> None:
    assert not Best.of(PLAIN, task_metrics(PLAIN)).update(1, {})
    only = make_recipe(KEEPING, eval={"only": True})
    assert not Best.of(only, task_metrics(only)).update(1, {})
    best, kept = Best.of(KEEPING, task_metrics(KEEPING)), Kept(3, "eval/f1", 0.5, {"eval/f1": 0.5})
    best.resume(replace(kept, metric="eval/loss"))
    assert best.kept is None
    best.resume(kept)
    assert best.kept == kept


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({}, ""),
        ({"checkpoint": Checkpoint(keep_best="eval/loss:min")}, ""),
        ({"checkpoint": Checkpoint(keep_best="eval/f2")}, "keep_best: 'eval/f2' is not a metric"),
        ({"checkpoint": Checkpoint(keep_best="samples_per_s")}, "'samples_per_s' is not a metric of"),
        ({"checkpoint": Checkpoint(keep_best="eval/f1:up")}, "'up' is not a direction"),
        ({"eval": Eval()}, "checkpoint.keep_best: needs evaluations during the run"),
        ({"eval": replace(EPOCHS, enabled=False)}, "checkpoint.keep_best: needs evaluations during the run"),
        ({"eval": replace(EPOCHS, every_steps=5)}, "every_epochs 1 and every_steps 5 are both"),
        ({"data": Data(streaming=True), "train": Train(max_steps=4)}, "every_epochs: a stream has no epochs"),
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused(changes: Any, complaint: str) -> None:
    asked = ("checkpoint.", "eval.")
    found = [str(p) for p in recipe_problems(make_recipe(KEEPING, **changes)) if p.where.startswith(asked)]
    assert any(complaint in text for text in found) if complaint else not found, found


@pytest.mark.parametrize(
    ("per_epoch", "every", "expected"),
    [(9, 1.0, [9, 18, 27]), (9, 0.5, [5, 9, 14, 18, 23, 27]), (10, 0.1, [*range(1, 28)]), (7, 3.0, [21])],
)
def test_an_evaluation_is_due_at_the_first_step_behind_so_many_epochs(
    per_epoch: int, every: float, expected: list[int]
) -> None:
    steps = every * per_epoch
    due = [step for step in range(1, 28) if periods(step, steps) > periods(step - 1, steps)]
    assert due == expected


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        make_checkpoint(tmp_path, step)
    retain(tmp_path, 2, Kept(4, "eval/f1", 0.5, {}))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000004", "step-000008", "step-000010"]
    retain(tmp_path, 1, Kept(8, "eval/f1", 0.6, {}))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000008", "step-000010"]
    retain(tmp_path, 1, Kept(8, "eval/f1", 0.6, {}, folder="/another/run/step-000008"))
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-000010"]


STATE = TrainState(10, 1, 1, 7, 8, 18, 10, 1.0, 0, 0, "f", kept=Kept(4, "eval/f1", 0.5, {"eval/f1": 0.5}))
ALONE = Ranks(RankFacts(0, 1, 0, "none"), torch.device("cpu"), grouped=False)


def test_a_best_checkpoint_that_is_damaged_is_sought_anew(tmp_path: Path, caplog: Any) -> None:
    root = tmp_path / "checkpoints"
    for step in (4, 10):
        make_checkpoint(root, step)
    newest: Any = SimpleNamespace(state=STATE, folder=root / "step-000010")
    assert resumed_best(root, newest, ALONE) == STATE.kept
    elsewhere = resumed_best(tmp_path / "another", newest, ALONE)
    assert elsewhere is not None
    assert elsewhere.folder == str(root / "step-000004")
    (root / "step-000004" / "tensors-00000-of-00001.safetensors").write_bytes(b"")
    assert resumed_best(root, newest, ALONE) is None
    assert "the best checkpoint is not usable, the best is sought anew: step-000004" in caplog.text
    assert resumed_best(root, None, ALONE) is None


def test_tied_and_frozen_weights_and_buffers_are_those_of_the_checkpoint() -> None:
    """The head of GPT-2 is its embedding; its first layer is not trained, and stays."""
    made = [
        GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=32, n_positions=8)) for _ in "ab"
    ]
    for model in made:
        model.register_buffer("count", torch.rand(()))
        model.transformer.wpe.weight.requires_grad_(False)
    now, then = made
    assert not now.lm_head.weight.equal(then.lm_head.weight)
    named = {"param": dict(then.named_parameters()), "buffer": {"count": then.count}}
    engine: Any = SimpleNamespace(model=now)
    checkpoint: Any = SimpleNamespace(tensor=lambda kind, name: named[kind][name].detach())
    found = with_weights(now.state_dict(), engine, checkpoint)
    assert found.keys() == now.state_dict().keys()
    assert found["lm_head.weight"] is found["transformer.wte.weight"]
    for name, tensor in then.state_dict().items():
        kept = now.state_dict()[name] if "wpe" in name else tensor
        assert found[name].equal(kept), name
