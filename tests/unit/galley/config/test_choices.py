"""A group is chosen by its option, however a recipe says it; a name alone chooses nothing and is no lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from galley.config.compose import compose_recipe
from galley.paths import CONF
from galley.schema import Strategy
from galley.strategy.names import AUTO, contradictions, strategy_name
from tests.support import problems, user_recipe

BATCH = "batch: {global_size: 8}\n"
SHIPPED = sorted(file.stem for file in (CONF / "strategy").glob("*.yaml"))


def option(name: str) -> Strategy:
    return Strategy(**yaml.safe_load((CONF / "strategy" / f"{name}.yaml").read_text()))


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != AUTO])
def test_each_shipped_name_means_what_its_option_says(name: str) -> None:
    """And the name is wrong over every other option, but for those that say no more than it does."""
    assert option(name).name == name
    assert contradictions(option(name)) == []
    also_true = {
        other for other in SHIPPED if other != AUTO and not contradictions(replace(option(other), name=name))
    }
    more = {
        "ddp": {"oneccl_cpu"},
        "oneccl_cpu": {"ddp"},
        "zero2": {"zero2_offload"},
        "zero3": {"zero3_offload", "zero3_nvme"},
        "fsdp": {"fsdp_hybrid", "fsdp_offload"},
    }
    assert also_true == {name} | more.get(name, set())


@pytest.mark.parametrize("name", sorted({*SHIPPED} - {AUTO, "oneccl_cpu"}))
def test_a_description_has_the_name_of_its_option(name: str) -> None:
    assert strategy_name(option(name)) == name


@pytest.mark.parametrize("word", ["strategy.name=zero2", "++strategy.name=zero2"])
def test_a_name_on_the_command_line_chooses_nothing_and_is_refused(word: str) -> None:
    (told,) = problems(word)
    assert told.startswith(f"{word}: strategy 'zero2' means strategy.engine deepspeed, but engine is torch")
    assert "strategy=zero2" in told


def test_a_name_in_a_recipe_chooses_nothing_and_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, f"{BATCH}strategy: {{name: zero2}}\n")
    (told,) = problems("recipe=mine", user_dir=folder)
    assert told.startswith(f"{tmp_path}/recipes/mine.yaml:2: strategy.name: strategy 'zero2' means")
    assert "`strategy: zero2`" in told


def test_a_key_that_makes_the_name_wrong_is_refused_where_it_was_set() -> None:
    (told,) = problems("strategy=zero2", "strategy.shard=params")
    assert told.startswith("strategy.shard=params: strategy 'zero2' means strategy.shard grads")
    assert "strategy=zero3" in told
    assert compose_recipe(["strategy=zero2", "strategy.offload_optimizer=cpu"]).strategy.name == "zero2"


@pytest.mark.parametrize("name", ["auto", "zero-2", "mine"])
def test_a_name_of_no_option_and_that_of_auto_are_refused(name: str) -> None:
    (told,) = problems(f"strategy.name={name}")
    assert told.startswith(f"strategy.name={name}: ")
    assert "strategy=auto" in told if name == "auto" else "valid: 3d, auto, ddp" in told


@pytest.mark.parametrize(
    "text",
    [
        "strategy: zero2\nmodel: deberta_minilm\nprecision: bf16\n",
        "defaults:\n  - strategy: zero2\n  - /model: deberta_minilm\n  - override precision: bf16\n",
        "defaults:\n  - override /strategy: zero2\n  - override /precision: bf16\nmodel: deberta_minilm\n",
        "defaults:\n  - _self_\n  - strategy: zero2\nmodel: deberta_minilm\nprecision: bf16\n",
    ],
)
def test_a_plain_word_is_the_choice_wherever_a_recipe_has_it(tmp_path: Path, text: str) -> None:
    folder = user_recipe(tmp_path, text + BATCH)
    recipe = compose_recipe(["recipe=mine"], [folder])
    chosen = compose_recipe(
        ["strategy=zero2", "model=deberta_minilm", "precision=bf16", "batch.global_size=8"]
    )
    assert (recipe.strategy, recipe.model, recipe.precision) == (
        chosen.strategy,
        chosen.model,
        chosen.precision,
    )
    assert compose_recipe(["recipe=mine", "strategy=fsdp"], [folder]).strategy.name == "fsdp"


def test_a_recipe_that_builds_on_another_chooses_anew(tmp_path: Path) -> None:
    user_recipe(tmp_path, f"{BATCH}strategy: zero2\nhpo: raytune\n", "base")
    folder = user_recipe(tmp_path, "defaults: [base]\nstrategy: zero3\n")
    recipe = compose_recipe(["recipe=mine"], [folder])
    assert (recipe.strategy.name, recipe.hpo.kind, recipe.batch.global_size) == ("zero3", "ray", 8)


def test_two_choices_of_one_group_in_one_file_are_refused(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, f"defaults:\n  - override /strategy: zero3\n{BATCH}strategy: zero2\n")
    (told,) = problems("recipe=mine", user_dir=folder)
    assert told.startswith(f"{tmp_path}/recipes/mine.yaml: strategy is chosen twice: zero3 and zero2")


@pytest.mark.parametrize("text", ["strategy: zero22\n", "defaults:\n  - override /strategy: zero22\n"])
def test_a_mistyped_option_in_a_recipe_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    folder = user_recipe(tmp_path, text + BATCH)
    (told,) = problems("recipe=mine", user_dir=folder)
    line = text.splitlines().index(next(row for row in text.splitlines() if "zero22" in row)) + 1
    assert told.startswith(f"{tmp_path}/recipes/mine.yaml:{line}: 'zero22' is not a strategy")
    assert "did you mean 'zero2'? valid: 3d, auto" in told


@pytest.mark.parametrize("key", ["recipe: other", "profile: small"])
def test_what_only_the_command_line_chooses_is_refused_in_a_recipe(tmp_path: Path, key: str) -> None:
    folder = user_recipe(tmp_path, f"{BATCH}{key}\n")
    (told,) = problems("recipe=mine", user_dir=folder)
    assert "is chosen on the command line, not by a recipe" in told


def test_an_option_of_the_users_own_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "strategy").mkdir()
    (tmp_path / "strategy" / "fast.yaml").write_text("engine: deepspeed\nshard: grads\n")
    assert compose_recipe(["strategy=fast"], [tmp_path]).strategy.name == "fast"
    user_recipe(tmp_path, f"{BATCH}strategy: {{name: fast}}\n", "lie")
    user_recipe(tmp_path, f"{BATCH}strategy: {{name: fast, engine: deepspeed, shard: grads}}\n", "promoted")
    (told,) = problems("recipe=lie", user_dir=tmp_path)
    assert "strategy.name: names strategy 'fast' without choosing it" in told
    assert compose_recipe(["recipe=promoted"], [tmp_path]).strategy.shard == "grads"


@pytest.mark.parametrize(
    ("word", "meant"),
    [("kubernetes", "k8s"), ("torchrun", "local"), ("pytorchjob", "k8s"), ("mpirun", "mpi")],
)
def test_a_launcher_by_the_name_of_its_program_is_guessed(word: str, meant: str) -> None:
    (told,) = problems(f"launcher={word}")
    assert f"did you mean '{meant}'? valid: k8s, local" in told
