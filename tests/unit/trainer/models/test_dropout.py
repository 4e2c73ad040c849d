"""`model.dropout` reaches every dropout of a model."""

from __future__ import annotations

import pytest
import torch

from galley.schema import Model, Recipe
from trainer.models.build import load_classifier


@pytest.mark.parametrize("name", ["embedded:minilm", "embedded:deberta_minilm"])
@pytest.mark.parametrize("dropout", [0.0, 0.5, None])
def test_dropout_is_what_the_recipe_says(name: str, dropout: float | None) -> None:
    model = load_classifier(Recipe(recipe="x", model=Model(name=name, dropout=dropout)), 2).train()
    found = {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)}
    assert found == {dropout} if dropout is not None else 0.1 in found
    tokens = torch.arange(1, 20)[None]
    assert torch.equal(model(tokens).logits, model(tokens).logits) is (dropout == 0.0)
