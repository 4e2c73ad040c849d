"""Adapters on a Transformers model: what is trained, and what PEFT loads from the final folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from cli.evaluate import what_to_measure
from cli.options import Options
from galley.config.compose import compose_recipe
from galley.config.rules.model import model_problems
from galley.errors import ConfigError
from galley.model.shape import num_adapter_parameters, num_parameters
from galley.schema import Data, Lora, Model, Recipe, Task
from galley.schema.task import LanguageModeling
from trainer.models import adapters
from trainer.models.build import new_modules
from trainer.tasks.language_modeling import CausalLM
from trainer.tasks.sequence_classification import SequenceClassification

TOKENS = torch.tensor([[101, 2023, 2003, 102], [101, 2178, 2028, 102]])


def task(name: Path, **settings: Any) -> SequenceClassification:
    model = Model(name=str(name), ignore_mismatched_head=True, lora=Lora(**{"r": 2, **settings}))
    made = SequenceClassification(Recipe(model=model, data=Data(max_length=32)))
    made.num_labels = 2
    return made


def trained(made: SequenceClassification) -> Any:
    """With adapters that do something: fresh ones add nothing."""
    model = adapters.with_adapters(made.model(), made, made.recipe)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("lora_B", "modules_to_save", "lora_magnitude", "ia3_l")):
                parameter.copy_(torch.randn_like(parameter))
    return model.eval()


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    frozen = adapters.frozen_names(model)
    return {name: t for name, t in model.state_dict().items() if name not in frozen}


def test_peft_loads_the_adapters_and_transformers_the_merged_model(tiny_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    made = task(tiny_model, target_modules=["query", "dense"])
    model = trained(made)
    expected = model(input_ids=TOKENS).logits
    adapters.save(made, model, state(model), str(tmp_path / "adapters"))
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
    adapters.save(merging, model, state(model), str(tmp_path / "merged"))
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(input_ids=TOKENS).logits, expected, atol=1e-5, rtol=1e-5)


def only_trained(model: torch.nn.Module) -> int:
    return sum(p.numel() for n, p in model.named_parameters() if p.requires_grad and "classifier" not in n)


@pytest.mark.parametrize(
    ("settings", "elements"),
    [
        # The embedded tiny BERT: a layer of 16 × 16 and 16 → 32 → 16.
        ({"method": "dora", "target_modules": ["query"]}, lambda h, _: 2 * 2 * h + h),
        ({"method": "ia3", "r": None, "target_modules": ["query", "output.dense"]}, lambda h, _: 3 * h),
        (
            {
                "method": "ia3", "r": None, "target_modules": ["query", "intermediate.dense"],
                "feedforward_modules": ["intermediate.dense"],
            },
            lambda h, _: 2 * h,
        ),
        # PEFT's own: key and value by their outputs, output.dense by its inputs (of both kinds in BERT).
        ({"method": "ia3", "r": None}, lambda h, inner: 2 * h + h + inner),
    ],
)  # fmt: skip
def test_other_methods_train_what_their_papers_say_and_peft_loads_them(
    tiny_model: Path, tmp_path: Path, settings: dict[str, Any], elements: Any
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    made = task(tiny_model, **settings)
    fresh = adapters.with_adapters(made.model(), made, made.recipe).eval()
    torch.testing.assert_close(fresh(input_ids=TOKENS).logits, made.model().eval()(input_ids=TOKENS).logits)
    model = trained(made)
    config = json.loads((tiny_model / "config.json").read_text())
    expected = elements(config["hidden_size"], config["intermediate_size"])
    assert only_trained(model) == expected * config["num_hidden_layers"]
    adapters.save(made, model, state(model), str(tmp_path / "adapters"))
    base = AutoModelForSequenceClassification.from_pretrained(
        tiny_model, num_labels=2, ignore_mismatched_sizes=True
    )
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapters")).eval()
    logits = model(input_ids=TOKENS).logits
    torch.testing.assert_close(loaded(input_ids=TOKENS).logits, logits)
    adapters.save(task(tiny_model, **settings, merge=True), model, state(model), str(tmp_path / "merged"))
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(merged(input_ids=TOKENS).logits, logits, atol=1e-5, rtol=1e-5)
    if made.recipe.model.lora.method == "dora":
        assert num_adapter_parameters(made.recipe.model) == expected * config["num_hidden_layers"]


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (Lora(method="dora"), "model.lora.method"),
        (Lora(r=2, method="ia3"), "model.lora.r"),
        (Lora(method="ia3", dropout=0.1), "model.lora.dropout"),
        (Lora(method="ia3", target_modules=["all-linear"]), "model.lora.target_modules"),
        (Lora(r=2, feedforward_modules=["dense"]), "model.lora.feedforward_modules"),
    ],
)
def test_keys_that_a_method_does_not_read_are_refused(settings: Lora, where: str) -> None:
    problems = list(model_problems(Recipe(model=Model(lora=settings))))
    assert where in [problem.where for problem in problems]


def test_what_the_stored_model_lacks_is_trained_in_full(tiny_model: Path) -> None:
    """Its weights are drawn anew, so that nobody could load the adapters without them."""
    made = task(tiny_model, target_modules=["query"])
    base = made.model()
    assert new_modules(base) == ["classifier"]
    base._galley_new = ("bert.pooler.dense.weight", "classifier.weight")  # type: ignore[assignment]
    model = adapters.with_adapters(base, made, made.recipe)
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name.rpartition("model.")[2].partition(".default")[0] for name in names} == {
        "bert.encoder.layer.0.attention.self.query.lora_A",
        "bert.encoder.layer.0.attention.self.query.lora_B",
        "bert.pooler.dense.modules_to_save",
        "classifier.modules_to_save",
    }


def test_a_folder_of_adapters_is_a_model(tiny_model: Path, tmp_path: Path) -> None:
    """Its base is the one it names; the head of another size comes with the adapters."""
    made = task(tiny_model, target_modules=["query"])
    model = trained(made)
    adapters.save(made, model, state(model), str(tmp_path))
    again = task(tmp_path)
    whole = replace(again.recipe, model=Model(name=str(tmp_path)))
    again.recipe = whole
    assert len(again.tokenizer) == 30522
    loaded = again.model().eval()
    torch.testing.assert_close(loaded(input_ids=TOKENS).logits, model(input_ids=TOKENS).logits)
    assert not any("lora" in name for name, _ in loaded.named_parameters())
    assert new_modules(loaded) == []
    assert num_parameters(whole.model) == num_parameters(Model(name=str(tiny_model)))
    assert what_to_measure(str(tmp_path), Options())["model"]["name"] == str(tmp_path)
    again.num_labels = 3
    with pytest.raises(RuntimeError, match="size mismatch"):
        again.model()


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_of_new_tokens_are_trained_and_kept(tmp_path: Path, tied: bool) -> None:
    """Fill-in-the-middle adds three; PEFT loads them onto a base that was drawn anew."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(n_embd=8, n_layer=1, n_head=1, n_positions=16, tie_word_embeddings=tied)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    named = Model(str(tmp_path / "base"), tokenizer="embedded:gpt2_bpe", lora=Lora(r=2))
    fim = LanguageModeling(fim_rate=0.5)
    made = CausalLM(Recipe(model=named, data=Data(max_length=16), task=Task("causal_lm", lm=fim)))
    made._prepare(None)
    model = adapters.with_adapters(made.model(), made, made.recipe)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn_like(parameter))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum("trainable_tokens" in name for name in trained) == (1 if tied else 2)
    tokens = torch.tensor([[5, 50257, 7, 50258, 9, 50259]])
    adapters.save(made, model.eval(), state(model), str(tmp_path / "adapters"))
    torch.manual_seed(7)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(50260, mean_resizing=False)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapters")).eval()
    torch.testing.assert_close(loaded(input_ids=tokens).logits, model(input_ids=tokens).logits)
    made.recipe = replace(made.recipe, seed=3, model=Model(str(tmp_path / "adapters")))
    whole = made.model().eval()
    torch.testing.assert_close(whole(input_ids=tokens).logits, model(input_ids=tokens).logits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"from_config": True}, "model.from_config=true draws the weights"),
        ({"architecture": "bert", "tokenizer": "characters"}, "model.architecture=bert draws the weights"),
        ({"name": "adapters"}, "holds adapters itself"),
    ],
)
def test_adapters_beside_a_model_that_nothing_keeps_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    model = Model(**{"lora": Lora(r=2), **changes})
    (problem,) = model_problems(Recipe(model=model))
    assert problem.where == "model.lora.r"
    assert words in problem.what
    assert not [*model_problems(Recipe(model=replace(model, lora=Lora(r=2, merge=True))))]


def test_peft_chooses_the_layers_where_the_recipe_does_not(tiny_model: Path) -> None:
    made = task(tiny_model)
    model = adapters.with_adapters(made.model(), made, made.recipe)
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
        adapters.with_adapters(made.model(), made, made.recipe)
    assert words in str(caught.value)


def test_a_model_that_peft_does_not_know_needs_names() -> None:
    made = SequenceClassification(Recipe(model=Model(lora=Lora(r=2))))
    with pytest.raises(ConfigError, match="PEFT has no choice for a model 'Sequential'"):
        adapters.with_adapters(torch.nn.Sequential(torch.nn.Linear(2, 2)), made, made.recipe)


@pytest.mark.parametrize("targets", [None, ["query", "dense"], ["all-linear"]])
def test_the_estimate_counts_the_adapters_that_peft_makes(
    tiny_model: Path, targets: list[str] | None
) -> None:
    made = task(tiny_model, target_modules=targets)
    model = adapters.with_adapters(made.model(), made, made.recipe)
    counted = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name)
    assert num_adapter_parameters(made.recipe.model) == counted


def test_a_local_model_is_asked_before_anything_starts(tiny_model: Path) -> None:
    words = [f"model.name={tiny_model}", "model.lora.r=2", "model.lora.target_modules=[self.querry,dense]"]
    with pytest.raises(ConfigError) as caught:
        compose_recipe(words)
    (problem,) = caught.value.problems
    assert "the model has no layer 'self.querry'" in problem.what
    assert "query" in problem.hint
