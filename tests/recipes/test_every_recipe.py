"""Every recipe, found by glob: it composes, plans for every launcher, and its small profile learns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cli.options import Options
from cli.prepare import prepare
from cli.recipes import is_offline, profiles
from galley.config.compose import compose_recipe
from galley.paths import CONF, RECIPES
from galley.schema import Recipe
from tests.integration.tasks import runs
from tests.integration.train.tiny import losses
from tests.support import REPO

NAMES = sorted(file.stem for file in RECIPES.glob("*.yaml"))
PAGE = REPO / "docs" / "recipes.md"
LAUNCHERS = sorted(file.stem for file in (CONF / "launcher").glob("*.yaml"))
# One batch of four samples again and again: a model that learns at all learns it.
SHORT = (
    "hpo=none", "tracker=none", "launcher=local", "data.max_samples=4", "data.streaming=false",
    "batch.global_size=4",
    "batch.micro_size=null", "batch.accumulation=null", "train.epochs=100", "train.max_steps=4",
    "train.log_every_steps=1", "schedule.kind=constant", "schedule.warmup_steps=0",
    "schedule.warmup_ratio=null", "eval.only=false", "eval.enabled=false", "eval.every_steps=null",
    "eval.patience=null", "eval.every_epochs=null", "checkpoint.keep_best=null",
    "checkpoint.every_steps=null", "model.dropout=0", "cluster.procs_per_node=null", "cluster.nodes=1",
    "model.lora.dropout=0",
)  # fmt: skip


def addresses(recipe: Recipe, launcher: str) -> list[str]:
    """What only the user can know: where the nodes are, and what they have."""
    nodes, found = recipe.cluster.nodes, []
    if launcher == "mpi" and nodes > 1:
        found.append(f"launcher.mpi.hosts=[{','.join(f'host{number}' for number in range(nodes))}]")
    if launcher == "local" and nodes > 1:
        found.append("launcher.torchrun.rendezvous=host0:29500")
    if launcher == "local":  # whose cores are this machine's
        found += ["cluster.threads_per_proc=null", "strategy.ccl_workers=null"]
    if recipe.hpo.kind == "wandb":  # W&B's agents run it so
        found.append("hpo=none")
    if recipe.cluster.procs_per_node is None:
        found.append("cluster.procs_per_node=1")
    return found


def test_the_page_about_recipes_tells_what_every_small_profile_trains() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| `(\w+)` \| `(\w+)`.*\|$", PAGE.read_text(), flags=re.MULTILINE)
    assert [name for name, _, _ in rows] == NAMES
    for name, data, strategy in rows:
        recipe = compose_recipe([f"recipe={name}", "profile=small"])
        assert (recipe.data.name, recipe.strategy.name) == (f"embedded:{data}", strategy)


@pytest.mark.parametrize("name", NAMES)
def test_it_plans_for_every_launcher_and_its_header_is_its_command(name: str, tmp_path: Path) -> None:
    path = RECIPES / f"{name}.yaml"
    assert re.match(rf"# python train.py( (sweep )?recipe={name}\b.*)?\n", path.read_text())
    assert "small" in profiles(path)
    for profile in profiles(path):
        recipe = compose_recipe([f"recipe={name}", f"profile={profile}"])
        assert (recipe.recipe, recipe.profile) == (name, profile)
        for launcher in LAUNCHERS:
            words = [
                f"recipe={name}",
                f"profile={profile}",
                f"launcher={launcher}",
                *addresses(recipe, launcher),
            ]
            plan = prepare(words, Options(root=tmp_path)).plan
            assert any("--run-dir" in text for text in [*plan.argv, *plan.files.values()]), launcher


@pytest.mark.parametrize("name", NAMES)
def test_its_small_profile_learns_offline_under_two_strategies(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    cache = tmp_path_factory.getbasetemp() / "recipes-cache"
    own, curves = compose_recipe([f"recipe={name}", "profile=small"]).strategy, []
    other = (own.name, own.model_parallel) if own.model_parallel > 1 else ("fsdp", 2)
    for strategy, world_size in (("single", 1), other):
        overrides = [f"recipe={name}", "profile=small", f"strategy={strategy}", *SHORT]
        assert is_offline(compose_recipe(overrides))
        overrides.append(f"data.cache_dir='{cache}'")
        found = losses(runs.train(tmp_path / strategy, overrides, world_size, HF_HUB_OFFLINE="1"))
        assert len(found) == 4
        assert found[-1] < found[0], (strategy, found)
        curves.append(found)
    if own.model_parallel > 1:
        assert curves[1] == pytest.approx(curves[0], abs=1e-5)
