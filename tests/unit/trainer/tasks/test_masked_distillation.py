"""Masked LM distillation: three losses as plain torch computes them, a student made of its teacher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import CosineEmbeddingLoss, CrossEntropyLoss, KLDivLoss
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from galley.errors import ConfigError
from galley.schema import Data, Model, Recipe, Task
from galley.schema.task import Distillation
from galley.schema.task import MaskedDistillation as Settings
from trainer.tasks.masked_distillation import MaskedDistillation
from trainer.tasks.student import start_from_teacher

SIZES = {"vocab_size": 60, "max_position_embeddings": 16}
T, SOFT, LABELS, HIDDEN = 3.0, 5.0, 2.0, 1.0


def teacher(layers: int = 4) -> BertForMaskedLM:
    torch.manual_seed(1)
    config = BertConfig(hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32,
                        initializer_range=0.5, **SIZES)  # fmt: skip
    return BertForMaskedLM(config).eval()


def student(**sizes: int) -> DistilBertForMaskedLM:
    torch.manual_seed(2)
    wanted = {"dim": 16, "hidden_dim": 32, "n_heads": 2, "n_layers": 2, **SIZES, **sizes}
    return DistilBertForMaskedLM(DistilBertConfig(initializer_range=0.5, **wanted)).eval()


def task(**settings: Any) -> MaskedDistillation:
    how = Distillation("T", T, masked=Settings(SOFT, LABELS, HIDDEN, **settings))
    made = MaskedDistillation(Recipe(task=Task("masked_lm_distillation", distillation=how)))
    made.teacher, made.step = teacher(), 0
    return made


def batch(lengths: tuple[int, ...] = (8, 8, 8)) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    labels = torch.full_like(mask, -100)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
        labels[row, 1:3] = torch.randint(60, (2,))
    return {"input_ids": torch.randint(60, mask.shape), "attention_mask": mask, "labels": labels}


def in_torch(own: Any, theirs: Any, given: dict[str, torch.Tensor], positions: str) -> float:
    """DistilBERT's losses by torch's own loss modules, which are means over the tokens of the batch."""
    inputs = {name: given[name] for name in ("input_ids", "attention_mask")}
    a, b = (model(**inputs, output_hidden_states=True) for model in (own, theirs))
    real, masked = given["attention_mask"].bool(), given["labels"] != -100
    where = masked if positions == "masked" else real
    soft = KLDivLoss(reduction="batchmean")(
        (a.logits[where] / T).log_softmax(-1), (b.logits[where] / T).softmax(-1)
    )
    labels = CrossEntropyLoss()(a.logits.view(-1, 60), given["labels"].view(-1))
    same = torch.ones(int(real.sum()))
    hidden = CosineEmbeddingLoss()(a.hidden_states[-1][real], b.hidden_states[-1][real], same)
    return (SOFT * soft * T**2 + LABELS * labels + HIDDEN * hidden).item()


@pytest.mark.parametrize("positions", ["masked", "all"])
def test_the_loss_is_the_sum_of_the_three_that_torch_computes(positions: str) -> None:
    made, own, given, ones = task(soft_positions=positions), student(), batch(), torch.ones(3)
    found = made.loss(own, given, ones) / made.weight(given, ones)
    assert found.item() == pytest.approx(in_torch(own, teacher(), given, positions), rel=1e-5)


@pytest.mark.parametrize("positions", ["masked", "all"])
def test_it_is_the_same_however_a_batch_is_split_and_padded(positions: str) -> None:
    made, own, given = task(soft_positions=positions), student(), batch((8, 5, 4))
    whole = made.loss(own, given, torch.ones(3)).item()
    alone = [{name: rows[row : row + 1] for name, rows in given.items()} for row in range(3)]
    cut = [{n: rows[:, : int(one["attention_mask"].sum())] for n, rows in one.items()} for one in alone]
    assert whole == pytest.approx(sum(made.loss(own, one, torch.ones(1)).item() for one in cut), rel=1e-5)
    assert made.loss(own, given, torch.tensor([1.0, 0, 0])).item() == pytest.approx(
        made.loss(own, cut[0], torch.ones(1)).item(), rel=1e-5
    )


def test_evaluation_measures_the_hidden_tokens_alone() -> None:
    made, own, given = task(), student(), batch()
    made.step = None
    logits = own(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
    expected = CrossEntropyLoss(reduction="sum")(logits.view(-1, 60), given["labels"].view(-1))
    assert made.loss(own, given, torch.ones(3)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_of_all_layers_answers_as_its_teacher_and_of_some_as_those_layers() -> None:
    """Without BERT's token types, which the student has not."""
    big, ids = teacher(4), batch()["input_ids"]
    with torch.no_grad():
        big.bert.embeddings.token_type_embeddings.weight.zero_()
    for layers in ([0, 1, 2, 3], [0, 2], [3, 1]):
        own = student(n_layers=len(layers))
        start_from_teacher(own, big, layers)
        fewer = teacher(4)
        fewer.load_state_dict(big.state_dict())
        fewer.bert.encoder.layer = torch.nn.ModuleList(big.bert.encoder.layer[n] for n in layers)
        assert torch.allclose(own(ids).logits, fewer(ids).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "layers", "says"),
    [
        ({}, [0], "for a student of 2 layers"),
        ({}, [0, 4], "numbers from 0 to 3"),
        ({"hidden_dim": 64}, [0, 2], "at the student"),
    ],
)
def test_layers_that_do_not_fit_are_refused(sizes: dict[str, int], layers: list[int], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        start_from_teacher(student(**sizes), teacher(), layers)


def test_a_teacher_without_a_trained_head_is_refused_unless_it_is_accepted() -> None:
    sizes = {"dim": 384, "hidden_dim": 1536, "n_heads": 12, "n_layers": 1}
    how = Distillation("embedded:minilm", masked=Settings(layers=[5]))
    recipe = Recipe(
        model=Model(architecture="distilbert", tokenizer="embedded:minilm", config=sizes),
        data=Data(max_length=16),
        task=Task("masked_lm_distillation", distillation=how),
    )
    made = MaskedDistillation(recipe)
    made._prepare(None)
    with pytest.raises(ConfigError, match="has no trained head"):
        made.model()
    made.how = replace(made.how, untrained_teacher_head=True)
    own, big = made.model(), made.teacher
    assert big is not None
    assert not any(p.requires_grad for p in big.parameters())
    weights = [
        dict(model.named_parameters())[f"{name}.weight"].detach().numpy()
        for model, name in (
            (own, "distilbert.transformer.layer.0.ffn.lin1"),
            (big, "bert.encoder.layer.5.intermediate.dense"),
        )
    ]
    np.testing.assert_array_equal(*weights)
