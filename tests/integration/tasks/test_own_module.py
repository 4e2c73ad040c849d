"""A model of the user's own, from a folder of plugins: trained under every engine, and measured again."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from cli.evaluate import what_to_measure
from cli.options import Options
from galley.config.compose import compose_recipe
from galley.rundir import RunFolder
from tests.integration.tasks import own_net, runs
from tests.integration.train import tiny


def with_plugin(root: Path) -> Path:
    """The snapshot of the code, as far as ranks without a command need it."""
    folder = root / "code" / "plugins" / "0"
    folder.mkdir(parents=True)
    shutil.copy(own_net.__file__, folder / "users_net.py")
    return root


def test_it_trains_alike_under_every_engine_and_is_measured_with_its_weights(tmp_path: Path) -> None:
    plugin = tmp_path / "mine"
    plugin.mkdir()
    shutil.copy(own_net.__file__, plugin / "users_net.py")
    words = [
        f"plugins=[{plugin}]", "model.architecture='users_net:Net'", "model.tokenizer=embedded:minilm",
        "model.config={width: 12}", "data.max_samples=40", "batch.global_size=8", "train.max_steps=6",
        "optim.lr=1e-2", "eval.every_steps=null", "checkpoint.every_steps=null", "train.log_every_steps=1",
    ]  # fmt: skip
    found: dict[str, RunFolder] = {}
    for strategy, ranks in (("single", 1), ("ddp", 2), ("fsdp", 2)):
        root = with_plugin(tmp_path / strategy)
        found[strategy] = runs.train(root, [*words, f"strategy={strategy}"], ranks)
    alone = found["single"]
    assert tiny.losses(alone)[-1] < tiny.losses(alone)[0]
    assert "a new Net, drawn from seed 42" in runs.log_of(alone)
    for strategy in ("ddp", "fsdp"):
        assert tiny.losses(found[strategy]) == pytest.approx(tiny.losses(alone), rel=1e-4)
        assert tiny.largest_difference(tiny.weights(alone), tiny.weights(found[strategy])) < 1e-4

    (tmp_path / "conf" / "recipes").mkdir(parents=True)
    body = yaml.safe_dump(what_to_measure(str(alone.root), Options()))
    (tmp_path / "conf" / "recipes" / "again.yaml").write_text(body)
    again = compose_recipe(["recipe=again", "strategy=single"], (tmp_path / "conf",))
    measured = tiny.train(with_plugin(tmp_path / "again"), tiny.tiny_spec(again, 1), OWN_TASK="1")
    before = {name: value for name, value in runs.last_metrics(alone).items() if name.startswith("eval/")}
    assert runs.last_metrics(measured) == pytest.approx(before, rel=1e-5)
