"""Adapters on a Transformers model: what is trained, and what PEFT loads from the final folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from galley.compose import compose_recipe
from galley.errors import ConfigError
from galley.model_shape import num_adapter_parameters
from galley.schema import Data, Lora, Model, Recipe
from trainer import lora
from trainer.models import new_modules
from trainer.tasks.sequence_classification import SequenceClassification

TOKENS = torch.tensor([[101, 2023, 2003, 102], [101, 2178, 2028, 102]])


def task(name: Path, **settings: Any) -> SequenceClassification:
    model = Model(name=str(name), ignore_mismatched_head=True, lora=Lora(**{"r": 2, **settings}))
    made = SequenceClassification(Recipe(model=model, data=Data(max_length=32)))
    made.num_labels = 2
    return made


def trained(made: SequenceClassification) -> Any:
    """With adapters that do something: fresh ones add nothing."""
    model = lora.with_adapters(made.model(), made, made.recipe)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "modules_to_save" in name:
                parameter.copy_(torch.randn_like(parameter))
    return model.eval()


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    frozen = lora.frozen_names(model)
    return {name: t for name, t in model.state_dict().items() if name not in frozen}


def test_peft_loads_the_adapters_and_transformers_the_merged_model(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    made = task(tiny_model, target_modules=["query", "dense"])
    model = trained(made)
    expected = model(input_ids=TOKENS).logits
    lora.save(made, model, state(model), str(tmp_path / "adapters"))
    assert {path.name for path in (tmp_path / "adapters").iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
    }
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert (config["r"], config["task_type"], config["base_model_name_or_path"]) == (
        2,
        "SEQ_CLS",
        str(tiny_model),
    )
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=2, ignore_mismatched_sizes=True
    )
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapters")).eval()
    torch.testing.assert_close(loaded(input_ids=TOKENS).logits, expected)
    merging = task(tiny_model, target_modules=["query", "dense"], merge=True)
    lora.save(merging, model, state(model), str(tmp_path / "merged"))
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(input_ids=TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


def test_what_the_stored_model_lacks_is_trained_in_full(tiny_model: Path) -> None:
    """Its weights are drawn anew, so that nobody could load the adapters without them."""
    made = task(tiny_model, target_modules=["query"])
    base = made.model()
    assert new_modules(base) == ["classifier"]
    base._galley_new = ("bert.pooler.dense.weight", "classifier.weight")  # type: ignore[assignment]
    model = lora.with_adapters(base, made, made.recipe)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.rpartition("model.")[2].partition(".default")[0] for name in names} == {
        "bert.encoder.layer.0.attention.self.query.lora_A",
        "bert.encoder.layer.0.attention.self.query.lora_B",
        "bert.pooler.dense.modules_to_save",
        "classifier.modules_to_save",
    }


def test_peft_chooses_the_layers_where_the_recipe_does_not(tiny_model: Path) -> None:
    made = task(tiny_model)
    model = lora.with_adapters(made.model(), made, made.recipe)
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in state(model) if "lora_" in name}
    assert adapted == {"query", "value"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"target_modules": ["q_proj"]}, "has no layer 'q_proj'\n    valid: word_embeddings"),
        ({"target_modules": ["querry"]}, "did you mean 'query'?"),
        ({"modules_to_save": ["poler"]}, "has no layer 'poler'\n    did you mean 'pooler'?"),
    ],
)
def test_a_layer_that_is_not_there_is_refused_with_those_that_are(
    tiny_model: Path, settings: dict[str, Any], words: str
) -> None:
    made = task(tiny_model, **settings)
    with pytest.raises(ConfigError) as caught:
        lora.with_adapters(made.model(), made, made.recipe)
    assert words in str(caught.value)


def test_a_model_that_peft_does_not_know_needs_names() -> None:
    made = SequenceClassification(Recipe(model=Model(lora=Lora(r=2))))
    with pytest.raises(ConfigError, match="PEFT has no choice for a model 'Sequential'"):
        lora.with_adapters(torch.nn.Sequential(torch.nn.Linear(2, 2)), made, made.recipe)


@pytest.mark.parametrize("targets", [None, ["query", "dense"], ["all-linear"]])
def test_the_estimate_counts_the_adapters_that_peft_makes(
    tiny_model: Path, targets: list[str] | None
) -> None:
    made = task(tiny_model, target_modules=targets)
    model = lora.with_adapters(made.model(), made, made.recipe)
    adapters = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert num_adapter_parameters(made.recipe.model) == adapters


def test_a_local_model_is_asked_before_anything_starts(tiny_model: Path) -> None:
    words = [f"model.name={tiny_model}", "model.lora.r=2", "model.lora.target_modules=[self.querry,dense]"]
    with pytest.raises(ConfigError) as caught:
        compose_recipe(words)
    (problem,) = caught.value.problems
    assert "the model has no layer 'self.querry'" in problem.what
    assert "query" in problem.hint
