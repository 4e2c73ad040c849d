"""What is written for W&B's sweeps, read by W&B's own agent code and composed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from cli.options import parse_arguments
from galley.config.compose import compose_recipe
from galley.errors import ConfigError
from galley.spec import RunResult
from galley.trackers import summary_of
from hpo.study.values import SpaceDim
from hpo.wandb_sweep import export_sweep, parameter

WORDS = ["hpo=wandb", "hpo.trials=5", "hpo.objectives=[eval/f1]", "data.max_samples=64"]
LOG = "optim.lr=tag(log, interval(1e-6,1e-4))"


def export(tmp_path: Path, *words: str) -> dict[str, Any]:
    every = [*WORDS, *words]
    config = export_sweep(compose_recipe(every, []), every, tmp_path / "lr" / "sweep.yaml")
    assert yaml.safe_load((tmp_path / "lr" / "sweep.yaml").read_text()) == config
    return config


def test_the_agents_command_composes_the_point(tmp_path: Path) -> None:
    config = export(tmp_path, LOG, "batch.global_size=16,32", "strategy=ddp,fsdp")
    assert config["metric"] == {"name": "eval/f1", "goal": "maximize"}
    assert config["run_cap"] == 5
    point = {
        "optim.lr": {"value": 3.25e-6},
        "batch.global_size": {"value": 32},
        "strategy": {"value": "fsdp"},
    }
    assert point.keys() == config["parameters"].keys()
    arguments = create_sweep_command_args({"args": point})["args_no_hyphens"]
    line = create_sweep_command(config["command"])
    words = [*line[:-1], *arguments]
    assert line[-1] == "${args_no_hyphens}"
    recipe = compose_recipe(words[words.index("run") + 1 :], [])
    assert (recipe.optim.lr, recipe.batch.global_size, recipe.strategy.name) == (3.25e-6, 32, "fsdp")
    assert (recipe.hpo.kind, recipe.tracker.kind, recipe.data.max_samples) == ("none", "wandb", 64)


@pytest.mark.parametrize("metric", ["eval/loss", "samples_per_s", "peak_memory_gib", "train/loss", "wall_s"])
def test_an_objective_is_what_a_run_tells_its_tracker(metric: str, tmp_path: Path) -> None:
    result = RunResult("succeeded", 0, metrics={"eval/loss": 0.5, "train/loss": 0.5}, samples_per_s=1.0,
                       peak_memory_gib=1.0)  # fmt: skip
    assert metric in summary_of(result)
    assert export(tmp_path, LOG, f"hpo.objectives=[{metric}]")["metric"]["name"] == metric


def test_an_agent_finds_the_users_folders_and_reports_to_the_entity(tmp_path: Path) -> None:
    (tmp_path / "mine/recipes").mkdir(parents=True)
    (tmp_path / "mine/recipes/own.yaml").write_text(
        "tracker: {entity: our-team}\noptim: {lr: 0.25}\nbatch: {global_size: 8}\n"
    )
    folders = [tmp_path / "mine"]
    words = ["recipe=own", *WORDS, "train.max_steps=3,4"]
    config = export_sweep(compose_recipe(words, folders), words, tmp_path / "sweep.yaml", folders)
    assert (config["entity"], config["project"]) == ("our-team", "galley")
    verb, rest, options = parse_arguments([*config["command"][3:-1], "train.max_steps=4"], ["run"])
    assert (verb, options.config_dirs) == ("run", tuple(folders))
    assert compose_recipe(rest, options.config_dirs).optim.lr == 0.25


@pytest.mark.parametrize(
    ("dim", "wanted"),
    [
        (SpaceDim("k", "float", 1e-6, 1e-4, log=True), ("log_uniform_values", 1e-6, 1e-4, None)),
        (SpaceDim("k", "float", 0.0, 0.5), ("uniform", 0.0, 0.5, None)),
        (SpaceDim("k", "float", 0.5, 2.0, step=0.25), ("q_uniform", 0.5, 2.0, 0.25)),
        (SpaceDim("k", "int", 1, 9), ("int_uniform", 1, 9, None)),
        (SpaceDim("k", "int", 1, 1024, log=True), ("q_log_uniform_values", 1, 1024, 1)),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, tuple) else None,
)
def test_a_range_stays_the_range_that_it_is(dim: SpaceDim, wanted: tuple[Any, ...]) -> None:
    told = parameter(dim)
    assert (told["distribution"], told["min"], told["max"], told.get("q")) == wanted


def test_steps_of_integers_are_counted_from_low_as_here() -> None:
    assert parameter(SpaceDim("k", "int", 3, 12, step=4)) == {"values": [3, 7, 11]}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hpo.objectives=[eval/f1,samples_per_s]"], "one metric"),
        (["hpo.constraints=[{metric: peak_memory_gib, max: 2}]"], "cannot be told"),
        (["hpo.repeats=5"], "hpo.repeats"),
        (["hpo.objectives=[cost]", "hpo.cost_per_hour=2"], "no run logs 'cost'"),
        (["tracker.mode=offline"], "no agent would tell W&B's server"),
        (["launcher.env.TOKEN=abc"], "launcher.env.TOKEN: would be sent to W&B's server"),
        (["+hpo.space={model.name: ['16', minilm]}"], "'16' cannot be passed on"),
        (["+hpo.space={model.name: ['1e-5', minilm]}"], "'1e-5' cannot be passed on"),
        (["+hpo.space={model.name: ['null', minilm]}"], "'null' cannot be passed on"),
        (["+hpo.space={model.name: ['True', minilm]}"], "'True' cannot be passed on"),
        (["+hpo.space={data.max_length: {low: 1, high: 4001, step: 2}}"], "2001 values, which W&B"),
        (["+hpo.space={strategy: [ddp, 'a b']}"], "cannot be passed on"),
        (["+hpo.space={strategy: [ddp, fsdp], strategy.wrap: {choices: [size], when: {strategy: [fsdp]}}}"],
         "conditional"),
        (["+hpo.space={model.dropout: {low: 0.05, high: 0.25, step: 0.1}}"], "multiples of the step"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)  # fmt: skip
def test_what_a_wandb_sweep_cannot_express_is_refused(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        export(tmp_path, LOG, *words)
    assert not (tmp_path / "lr").exists()
