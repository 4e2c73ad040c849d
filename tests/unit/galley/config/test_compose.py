"""Composition: precedence, profiles and variants, the user's folder, and every mistake at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from galley.config.compose import compose_recipe, explain_sources
from galley.config.hydra_bridge import open_loader
from galley.errors import ConfigError
from tests.support import problems, user_recipe


def test_default_recipe_is_quickstart() -> None:
    recipe = compose_recipe([])
    assert (recipe.recipe, recipe.profile, recipe.strategy.name) == ("quickstart", "full", "ddp")
    assert recipe.model.name == "embedded:minilm"
    assert recipe.data.name == "embedded:pydoc_pairs"


def test_mrpc_deberta_is_as_published() -> None:
    recipe = compose_recipe(["recipe=mrpc_deberta"])
    assert recipe.model.name == "microsoft/deberta-v2-xlarge-mnli"
    assert (recipe.data.subset, recipe.data.max_length) == ("mrpc", 128)
    assert (recipe.optim.lr, recipe.train.epochs, recipe.batch.global_size) == (2e-5, 3, 16)
    assert recipe.model.ignore_mismatched_head


def test_strategy_picks_the_recipes_own_variant() -> None:
    recipe = compose_recipe(["recipe=mrpc_deberta", "strategy=zero2"])
    assert recipe.batch.global_size == 80
    assert recipe.precision.compute == "fp16"
    assert (recipe.strategy.engine, recipe.strategy.shard) == ("deepspeed", "grads")


def test_command_line_wins_over_a_variants_choice() -> None:
    recipe = compose_recipe(
        ["recipe=mrpc_deberta", "strategy=zero2", "precision=fp32", "batch.global_size=32"]
    )
    assert (recipe.precision.compute, recipe.batch.global_size) == ("fp32", 32)


def test_small_profile_keeps_the_task_and_takes_embedded_parts() -> None:
    full = compose_recipe(["recipe=mrpc_deberta", "strategy=zero2"])
    small = compose_recipe(["recipe=mrpc_deberta", "strategy=zero2", "profile=small"])
    assert small.task == full.task
    assert small.strategy == full.strategy
    assert small.model.name == "embedded:deberta_minilm"
    assert small.data.name == "embedded:pydoc_pairs"


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        "recipe=mrpc_debert",
        "strategy=zero22",
        "lr=3",
        "batch.globl_size=8",
        "optim.lr=abc",
        "eval.mode=maximum",
        f"data.path={tmp_path}/missing",
        "stray",
    )
    text = "\n".join(found)
    for expected in (
        "'mrpc_debert' is not a recipe\n    did you mean 'mrpc_deberta'?",
        "'zero22' is not a strategy\n    did you mean 'zero2'?",
        "lr=3: 'lr' is not a key\n    did you mean 'optim.lr'?",
        "did you mean 'batch.global_size'?",
        'optim.lr=abc: "abc" is not a valid value\n    expected a number > 0',
        "did you mean 'max'? expected one of max, min",
        "missing",
        "stray: is neither a verb nor KEY=VALUE",
    ):
        assert expected in text
    assert len(found) == 8


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("global_size=8", "batch.global_size"),
        ("learning_rate=1e-4", "valid:"),
        ("train.lr=1e-4", "optim.lr"),
        ("optim.learning_rat=1", "valid: optim.kind, optim.lr,"),
        ("epochs=3", "train.epochs"),
        ("checkpoint.evry_steps=3", "checkpoint.every_steps"),
    ],
)
def test_right_key_at_the_wrong_place_is_suggested(override: str, hint: str) -> None:
    (problem,) = problems(override)
    assert "is not a key" in problem
    assert hint in problem


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.max_steps=0", "expected an integer > 0 or null"),
        ("train.max_steps=2.5", "expected an integer > 0 or null"),
        ("schedule.warmup_ratio=1.5", "expected a number >= 0 and <= 1 or null"),
        ("cluster.procs_per_node=true", "expected an integer > 0 or null"),
        ("model.name=123", "expected text"),
        ("data.text_columns=a", "expected a list or null"),
        ("train=3", "'train' is a section: set train.KEY"),
    ],
)
def test_a_wrong_value_names_the_valid_ones(override: str, expected: str) -> None:
    (problem,) = problems(override)
    assert problem.startswith(override.split("=")[0])
    assert expected in problem


def test_batch_that_cannot_be_split_states_the_equation() -> None:
    (problem,) = problems("batch.global_size=10", "batch.micro_size=4")
    assert "global_size 10 is not a multiple of micro_size 4" in problem
    assert "global_size = micro_size × accumulation × ranks" in problem


@pytest.mark.slow
def test_rules_between_keys() -> None:
    assert "keep one of them" in problems("schedule.warmup_steps=3")[0]
    assert "is one process" in problems("strategy=single", "cluster.procs_per_node=2")[0]
    assert "early stopping needs evaluations" in problems("eval.patience=2", "eval.every_steps=null")[0]
    assert "did you mean 'eval/f1'?" in problems("eval.metric=eval/f2")[0]
    assert "is set by Galley itself" in problems("launcher.env.RANK=3")[0]


def test_a_mistake_in_a_file_names_file_and_line(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, "optim:\n  lr: fast\n  warmup: 3\nbatch:\n  global_size: 8\n")
    found = problems("recipe=mine", user_dir=folder)
    assert any(p.startswith(f"{tmp_path}/recipes/mine.yaml:2: optim.lr: ") for p in found)
    assert any(p.startswith(f"{tmp_path}/recipes/mine.yaml:3: optim.warmup: ") for p in found)


def test_the_users_folder_adds_recipes_and_options(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, "defaults:\n  - override /optim: gentle\nbatch:\n  global_size: 8\n")
    (tmp_path / "optim").mkdir()
    (tmp_path / "optim" / "gentle.yaml").write_text("lr: 3e-6\n")
    recipe = compose_recipe(["recipe=mine"], [folder])
    assert (recipe.recipe, recipe.optim.lr) == ("mine", 3e-6)


def test_a_users_file_that_a_shipped_one_would_hide_is_refused(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, "seed: 1\n", name="quickstart")
    (problem,) = problems(user_dir=folder)
    assert "has the name of the shipped recipes/quickstart.yaml" in problem


def test_missing_user_folder(tmp_path: Path) -> None:
    assert "is not a folder" in problems(user_dir=tmp_path / "nowhere")[0]


def test_relative_paths_are_sealed_as_absolute_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "mine").mkdir()
    recipe = compose_recipe(["model.name=model", "data.cache_dir=cache", "plugins=[mine]"])
    assert recipe.model.name == f"{tmp_path}/model"
    assert recipe.data.cache_dir == f"{tmp_path}/cache"
    assert recipe.plugins == [f"{tmp_path}/mine"]
    assert compose_recipe(["model.name=some/hub-model"]).model.name == "some/hub-model"


def test_the_run_to_continue_from_is_a_folder_and_sealed_as_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (problem,) = problems("checkpoint.resume_from=run")
    assert "checkpoint.resume_from" in problem
    assert "'run' is not a folder" in problem
    (tmp_path / "run").mkdir()
    recipe = compose_recipe(["checkpoint.resume_from=run"])
    assert recipe.checkpoint.resume_from == f"{tmp_path}/run"


def test_unknown_profile() -> None:
    (problem,) = problems("recipe=mrpc_deberta", "profile=smal")
    assert "did you mean 'small'? valid: full, small" in problem


def test_explain_lists_file_lines_and_overrides_in_order() -> None:
    value, sources = explain_sources(["recipe=mrpc_deberta", "profile=small", "optim.lr=5e-5"], "optim.lr")
    assert value == 5e-5
    assert [source.where.split(":")[0] for source in sources] == [
        "conf/optim/adamw.yaml",
        "recipes/mrpc_deberta.yaml",
        "recipes/mrpc_deberta/small.yaml",
        "optim.lr=5e-5",
    ]
    assert all(source.where.split(":")[1].isdigit() for source in sources[:-1])


def test_groups_of_parameters_are_checked_like_any_other_key() -> None:
    words = ["optim.groups=[{match: 'head|pooler', lr: 1e-3}, {match: '(', lr: 1e-3}, {match: x}]"]
    with pytest.raises(ConfigError) as caught:
        compose_recipe(words)
    told = str(caught.value)
    assert "optim.groups[1].match: '(' is not a regular expression" in told
    assert "optim.groups[2]: changes nothing" in told
    assert "optim.groups[0]" not in told
    (group,) = compose_recipe(["optim.groups=[{match: head, lr: 1e-3}]"]).optim.groups
    assert (group.match, group.lr, group.weight_decay) == ("head", 1e-3, None)
    wrong = "optim.groups=[{match: head, lrr: 1e-3}]"
    what = f"{wrong}: 0.lrr: 0.001 is not a valid value\n    unexpected keyword argument"
    assert problems(wrong) == [what]


def test_settings_of_adapters_need_adapters() -> None:
    with pytest.raises(ConfigError, match=r"model.lora.alpha.*model.lora.r is null"):
        compose_recipe(["model.lora.alpha=8"])
    assert compose_recipe(["model.lora.r=4", "model.lora.target_modules=[query]"]).model.lora.r == 4


def test_zero3_is_not_compiled() -> None:
    (told,) = problems("train.compile=true", "strategy=zero3")
    assert told.startswith("train.compile=true: ZeRO-3 gathers parameters by hooks")
    assert compose_recipe(["train.compile=true", "strategy=zero2"]).train.compile


@pytest.mark.parametrize(
    "words",
    [
        ["++optim.lr=3e-4", "++train.max_steps=null", "++data.path='a b'", "++hpo.warm=true"],
        ["++batch.global_size=8", "++launcher.env={A: b}"],  # a mapping
        ["++optim.betas=[0.8,0.9]", "++seed=7"],  # a list
        ["++run_dir=x${seed}", "++seed=7"],  # a reference
        ["++hpo.space.optim.lr=[1e-5,1e-4]", "++optim.lr=1"],  # a key that is not there
    ],
)
def test_plain_values_are_set_as_omegaconf_sets_them(words: list[str]) -> None:
    choices = ["recipes@_global_=quickstart"]
    with open_loader() as loader:
        fast = loader.merged([*choices, *words])
        assert loader.merged([*choices, *words]) == fast, "the files are not changed by what is set"
        loader.composed.plain.clear()
        assert loader.merged([*choices, *words]) == fast
