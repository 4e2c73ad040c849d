"""`recipe=path/to/my.yaml`, files named .yml, and what a recipe refers to."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.options import Options
from cli.prepare import prepare
from cli.recipes import recipe_files
from galley.config.compose import compose_recipe, explain_sources
from galley.config.hydra_bridge import parse_override
from galley.config.recipe_file import with_absolute_path
from galley.errors import ConfigError
from tests.support import problems, user_recipe

BATCH = "batch: {global_size: 8}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes that is called neither `recipes` nor without a space."""
    here = tmp_path / "my work"
    (here / "one run").mkdir(parents=True)
    (here / "one run.yml").write_text(
        f"defaults: [/recipes/base@_global_]\nstrategy: zero2\n{BATCH}seed: 5\n"
    )
    (here / "one run/small.yaml").write_text(f"defaults: [/recipes/base@_global_]\n{BATCH}seed: 6\n")
    (here / "base.yaml").write_text("defaults: [/recipes/quickstart@_global_]\noptim: {lr: 3e-4}\n")
    (here / "quickstart.yaml").write_text("defaults: [/recipes/quickstart@_global_]\nseed: 9\n")
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize("path", ["one run.yml", "./one run.yml", "../my work/one run.yml", "{}/one run.yml"])
def test_a_recipe_is_named_by_its_path(folder: Path, path: str) -> None:
    recipe = compose_recipe([f"recipe='{path.format(folder)}'"])
    assert (recipe.recipe, recipe.seed, recipe.optim.lr) == ("one-run", 5, 3e-4)
    assert (recipe.strategy.name, recipe.model.name) == ("zero2", "embedded:minilm")


def test_its_variants_lie_in_the_folder_beside_it(folder: Path) -> None:
    assert compose_recipe(["recipe=one run.yml", "profile=small"]).seed == 6
    (told,) = problems("recipe=one run.yml", "profile=smal")
    assert told.startswith("profile=smal: recipe 'one-run' has no profile 'smal'\n")
    assert told.endswith("did you mean 'small'? valid: full, small")


def test_a_file_with_the_name_of_a_shipped_recipe_is_itself(folder: Path) -> None:
    assert compose_recipe(["recipe=quickstart.yaml"]).seed == 9
    assert compose_recipe(["recipe=quickstart"]).seed != 9


def test_explain_and_errors_name_the_file(folder: Path) -> None:
    value, sources = explain_sources(["recipe=one run.yml"], "seed")
    assert (value, sources[-1].where) == (5, f"{folder}/one run.yml:4")
    (folder / "bad.yaml").write_text(f"{BATCH}sed: 5\n")
    (told,) = problems("recipe=bad.yaml")
    assert told.startswith(f"{folder}/bad.yaml:2: sed: 'sed' is not a key")


def test_a_file_that_is_not_there_is_told_with_those_that_are(folder: Path) -> None:
    (told,) = problems("recipe=bas.yaml")
    assert told.startswith(f"recipe=bas.yaml: there is no file {folder}/bas.yaml\n    did you mean")
    assert f"{folder}/base.yaml" in told
    (told,) = problems("recipe=nowhere/base.yaml")
    assert told.endswith(f"{folder}/nowhere has no recipe")


def test_the_run_is_sealed_and_named_after_the_file(folder: Path) -> None:
    words = ["recipe=quickstart.yaml", "cluster.procs_per_node=1", "strategy=single"]
    prepared = prepare(words, Options(root=folder / "runs"))
    assert prepared.spec.recipe.seed == 9
    assert prepared.run_dir.name.startswith("quickstart-single-")
    assert prepared.words[0] == with_absolute_path(words)[0]
    assert parse_override(prepared.words[0]).value() == f"{folder}/quickstart.yaml"


def test_a_recipe_of_a_folder_may_end_in_yml(tmp_path: Path) -> None:
    user_recipe(tmp_path, f"{BATCH}seed: 7\n").joinpath("recipes/mine.yaml").rename(
        tmp_path / "recipes/mine.yml"
    )
    assert compose_recipe(["recipe=mine"], [tmp_path]).seed == 7
    assert recipe_files(Options(config_dirs=(tmp_path,)))["mine"] == tmp_path / "recipes/mine.yml"
    (tmp_path / "recipes/quickstart.yml").write_text(BATCH)
    assert "has the name of the shipped" in problems("recipe=mine", user_dir=tmp_path)[0]


@pytest.mark.parametrize("beside", ["recipes/mine", "conf/optim/mine"])
def test_two_files_of_one_name_are_refused(tmp_path: Path, beside: str) -> None:
    """Neither is taken in silence, be it a recipe or an option that a recipe chooses."""
    user_recipe(tmp_path, f"{BATCH}defaults: [{{override /optim: mine}}]\n")
    for ending in (".yaml", ".yml"):
        file = (tmp_path / beside).with_suffix(ending)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("lr: 1e-3\n" if "optim" in beside else BATCH)
    (told,) = problems("recipe=mine", user_dir=tmp_path)
    one, other = (str((tmp_path / beside).with_suffix(ending)) for ending in (".yaml", ".yml"))
    assert told == f"{one}: goes by the same name as {other}\n    rename or remove one of them"
    if "recipes" in beside:
        with pytest.raises(ConfigError, match="goes by the same name"):
            recipe_files(Options(config_dirs=(tmp_path,)))


@pytest.mark.parametrize(
    ("reference", "what", "hint"),
    [
        ("HOME", "variables are written otherwise", "for the environment variable write ${oc.env:HOME}"),
        ("recipe", "is not known while the recipe is read", "write the name itself"),
        ("optm.lr", "names a key that there is not", "did you mean 'optim.lr'?"),
        ("train.stop_at_step", "no file and no override sets", "set train.stop_at_step, or write its value"),
    ],
)
def test_a_reference_that_leads_nowhere_says_what_to_write(
    tmp_path: Path, reference: str, what: str, hint: str
) -> None:
    body = f"{BATCH}data: {{path: '${{{reference}}}/data'}}\n"
    (told,) = problems("recipe=mine", user_dir=user_recipe(tmp_path, body))
    assert told.startswith(f"data.path: '${{{reference}}}'")
    assert what in told
    assert told.endswith(hint)


def test_references_to_variables_and_to_other_keys_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", str(tmp_path))
    body = f"{BATCH}seed: 3\ndata: {{cache_dir: '${{oc.env:PLACE}}/c', hold_out: '${{seed}}'}}\n"
    data = compose_recipe(["recipe=mine"], [user_recipe(tmp_path, body)]).data
    assert (data.cache_dir, data.hold_out) == (f"{tmp_path}/c", 3)
