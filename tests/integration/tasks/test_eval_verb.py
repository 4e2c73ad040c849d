"""`eval` of a finished run and of a model's folder: the numbers of the run itself, on any data and ranks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import main
from tests.integration.tasks import runs
from tests.support import run_galley


def write_data(folder: Path, shift: int = 0) -> Path:
    for split in ("train", "dev"):
        rows = [{"text": "good " * (n % 7 + shift) + "bad " * (n % 3), "label": n % 2} for n in range(22)]
        runs.write_rows(folder / f"{split}.jsonl", rows)
    return folder


def test_a_run_and_its_model_are_measured_alike_on_the_same_and_on_other_data(tmp_path: Path) -> None:
    data, other = write_data(tmp_path / "data"), write_data(tmp_path / "other", shift=2)
    model = runs.tiny_bert(tmp_path / "bert")
    overrides = [
        f"data.path={data}", f"model.name={model}", "data.max_length=16", "batch.global_size=4",
        "train.max_steps=4", "optim.lr=1e-2", "strategy=single", "checkpoint.every_steps=null",
    ]  # fmt: skip
    folder = runs.train(tmp_path / "run", overrides)
    trained = {name: value for name, value in runs.last_metrics(folder).items() if name.startswith("eval/")}
    common = ["--json", "strategy=ddp", "cluster.procs_per_node=2", f"data.cache_dir={tmp_path / 'cache'}"]
    again = run_galley(["eval", folder.root, *common, f"run_dir={tmp_path / 'again'}"], timeout=240)
    assert again.rc == 0, again.err
    found = json.loads(again.out.splitlines()[-1])
    assert (found["world_size"], found["steps"]) == (2, 0)
    assert found["metrics"] == pytest.approx(trained, rel=1e-5)
    assert not (tmp_path / "again" / "model").exists()
    assert "eval/accuracy" in again.err

    elsewhere = run_galley(
        [
            "eval",
            folder.model,
            "--json",
            "strategy=single",
            f"data.cache_dir={tmp_path / 'cache'}",
            f"data.path={other}",
            "data.max_length=16",
            f"run_dir={tmp_path / 'else'}",
        ],
        timeout=240,
    )
    assert elsewhere.rc == 0, elsewhere.err
    moved = json.loads(elsewhere.out.splitlines()[-1])["metrics"]
    assert moved.keys() == trained.keys()
    assert moved["eval/loss"] != pytest.approx(trained["eval/loss"], rel=1e-5)


def test_what_cannot_be_measured_is_said_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval"]) == 2
    assert "names no run and no folder of a model" in capsys.readouterr().err
    assert main(["eval", str(tmp_path / "nothing")]) == 2
    assert "is no run" in capsys.readouterr().err


def test_a_model_from_configuration_is_measured_as_it_was_trained_without_training_rows(
    tmp_path: Path,
) -> None:
    """Weights, configuration and tokenizer are those of the run's model, and dev.txt is all there is."""
    both, only_dev = tmp_path / "both", tmp_path / "dev"
    for folder, splits in ((both, ("train", "dev")), (only_dev, ("dev",))):
        folder.mkdir()
        for split in splits:
            (folder / f"{split}.txt").write_text("to be or not to be " * 20, encoding="utf-8")
    overrides = [
        "task=causal_lm", f"data.path={both}", "model.architecture=gpt2", "model.tokenizer=characters",
        "model.config={n_layer: 1, n_head: 1, n_embd: 8, n_positions: 16}", "data.max_length=16",
        "batch.global_size=4", "train.max_steps=8", "optim.lr=1e-2", "strategy=single",
    ]  # fmt: skip
    folder = runs.train(tmp_path / "run", overrides)
    words = ["eval", folder.root, "--json", f"data.path={only_dev}", f"run_dir={tmp_path / 'again'}"]
    again = run_galley([*words, "cluster.procs_per_node=1"], timeout=240)
    assert again.rc == 0, again.err
    found = json.loads(again.out.splitlines()[-1])["metrics"]
    assert found["eval/perplexity"] == pytest.approx(runs.last_metrics(folder)["eval/perplexity"], rel=1e-5)
    assert "cannot be resumed" not in again.err
