"""Steps with nothing to measure, lengths that are never reached, and weights that are stored once."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from galley.errors import ConfigError
from galley.schema import Checkpoint, Recipe, Schedule, Train
from galley.system.preload import preload_problems, spelling_problems
from trainer.data.batches import BatchPlan
from trainer.engines.base import whole_state
from trainer.hosts.rank_facts import RankFacts
from trainer.hosts.ranks import Ranks
from trainer.optim.schedule import length_warnings
from trainer.run.losses import Losses, divisor
from trainer.run.session import check_continues

ALONE = Ranks(RankFacts(0, 1, 0, "none"), torch.device("cpu"), grouped=False)


def test_the_mean_is_that_of_the_steps_that_measured_something(caplog: pytest.LogCaptureFixture) -> None:
    losses, nothing = Losses(torch.device("cpu")), torch.zeros(())
    for total, weight in ((3.0, 2.0), (0.0, 0.0), (1.0, 0.25)):
        losses.add(torch.tensor(total) / divisor(torch.tensor(weight)), torch.tensor(weight))
    with caplog.at_level(logging.WARNING, "galley"):
        assert losses.mean(ALONE, 3) == pytest.approx((3.0 / 2.0 + 1.0 / 0.25) / 2)
        losses.add(nothing, nothing)
        assert losses.mean(ALONE, 4) is None
    assert [message.split(" had")[0] for message in caplog.messages] == [
        "1 of the last 3 steps before step 3",
        "1 of the last 1 steps before step 4",
    ]
    losses.add(torch.tensor(float("nan")), torch.tensor(1.0))
    assert losses.mean(ALONE, 5) != losses.mean(ALONE, 5)  # a loss that is not finite is still seen


def test_a_step_with_nothing_to_measure_has_gradients_of_zero() -> None:
    weights = torch.ones(3, requires_grad=True)
    (0 * weights.sum() / divisor(torch.zeros(()))).backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("train", "schedule", "total", "words"),
    [
        (Train(epochs=3, max_steps=1000), Schedule(), 12, ["train.max_steps=1000 is never reached"]),
        (Train(max_steps=10), Schedule(warmup_steps=10), 10, ["warm-up takes 10 steps and the training 10"]),
        (Train(max_steps=10), Schedule(warmup_steps=9), 10, []),
        (Train(), Schedule(warmup_ratio=1.0), 7, ["warm-up takes 7 steps and the training 7"]),
        (Train(max_steps=10), Schedule(warmup_steps=100), 0, []),  # an evaluation
    ],
)
def test_what_is_never_reached_is_said(
    train: Train, schedule: Schedule, total: int, words: list[str]
) -> None:
    found = [*length_warnings(Recipe(train=train, schedule=schedule), total)]
    assert len(found) == len(words)
    assert all(word in warning for word, warning in zip(words, found, strict=True))


@pytest.mark.parametrize(("step", "fits"), [(3, True), (4, False), (6, False)])
def test_a_run_that_begins_behind_its_end_is_refused(step: int, fits: bool) -> None:
    recipe = Recipe(train=Train(max_steps=4), checkpoint=Checkpoint(resume_from="other"))
    plan = BatchPlan(torch.ones(64).int().numpy(), 0, 8, False)
    if fits:
        check_continues(recipe, step, plan)
        return
    with pytest.raises(ConfigError) as caught:
        check_continues(recipe, step, plan)
    assert str(caught.value) == (
        f"checkpoint.resume_from=other: is at step {step}, and this run ends at step 4: nothing would be "
        f"trained\n    more than {step} steps: train.max_steps, train.epochs"
    )


def test_tied_weights_are_gathered_once_and_share_their_memory() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=1, n_positions=8))
    gathered: list[tuple[int, ...]] = []

    def whole(part: torch.Tensor) -> torch.Tensor:
        gathered.append(tuple(part.shape))
        return part.clone()

    state = whole_state(model, (), whole)
    assert gathered.count((50, 8)) == 1
    assert state["lm_head.weight"] is state["transformer.wte.weight"]
    assert state.keys() == model.state_dict().keys()
    torch.testing.assert_close(state, dict(model.state_dict()))


def test_a_library_that_nobody_knows_is_one_problem() -> None:
    (problem,) = spelling_problems(["tcmaloc"])
    assert "did you mean 'tcmalloc'" in problem.hint
    for declared in (False, True):
        facts: Any = SimpleNamespace(declared=declared, libraries=(), hostname="here")
        assert not [*preload_problems(["tcmaloc"], facts)]
