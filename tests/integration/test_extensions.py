"""The package of docs/extending.md, installed into an environment of its own, and used by its names."""

from __future__ import annotations

import csv
import json
import shutil
import sys
import venv
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support import REPO, Finished, not_available, run_process

SOURCE = REPO / "docs" / "examples" / "galley_extras"
TINY = (
    "model.architecture=bert", "model.tokenizer=embedded:minilm",
    "model.config={hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}",
    "batch.global_size=8", "data.max_length=16", "train.max_steps=4", "strategy=single",
)  # fmt: skip

Galley = Callable[..., Finished]


@pytest.fixture(scope="module")
def galley(tmp_path_factory: pytest.TempPathFactory) -> Galley:
    """The program under an interpreter that sees these packages and the example, installed by pip."""
    if find_spec("hatchling") is None:
        not_available("hatchling is not installed", "tests/integration/test_extensions.py")
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True, with_pip=False)
    (site,) = root.glob("lib/python*/site-packages")
    (installed,) = {Path(path) for path in sys.path if path.endswith("site-packages")}
    (site / "shared.pth").write_text(f"{installed}\n")
    source = shutil.copytree(SOURCE, tmp_path_factory.mktemp("source") / "galley_extras")
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "install", "-q", "--no-index"]
    done = run_process([*pip, "--no-build-isolation", "--no-deps", "--target", site, source])
    assert done.rc == 0, done.err

    def run(*words: str | Path, cwd: Path) -> Finished:
        argv = [root / "bin" / "python", "-P", REPO / "train.py", *words]
        return run_process(argv, cwd=cwd, timeout=300)

    return run


def test_a_launcher_a_tracker_and_data_from_a_package(galley: Galley, tmp_path: Path) -> None:
    words = (
        "launcher=nice", "launcher.options.level=5", "tracker=csv", "tracker.options.file=all.csv",
        "data.name=embedded:parity", "data.text_columns=[text]", "data.label_column=label",
    )  # fmt: skip
    planned = galley("plan", *TINY, *words, "--json", cwd=tmp_path)
    assert planned.rc == 0, planned.err
    assert json.loads(planned.out.splitlines()[-1])["argv"][:3] == ["nice", "-n", "5"]

    done = galley(*TINY, *words, "run_dir=run", cwd=tmp_path)
    assert done.rc == 0, done.err
    with (tmp_path / "run" / "tracker" / "all.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    logged = {(int(step), name): float(value) for step, name, value in rows}
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    wanted = {(row["step"], "loss"): row["loss"] for row in metrics if "loss" in row}
    assert wanted
    assert wanted.items() <= logged.items()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["packages"]["galley-extras"] == "0.1"
    assert "succeeded (attempt 1)" in galley("status", "run", cwd=tmp_path).out


def test_an_engine_from_a_package_is_measured_by_what_it_promises(galley: Galley, tmp_path: Path) -> None:
    engine = ("strategy=ddp", "strategy.name=centralized", "strategy.engine=centralized")
    done = galley(*TINY, *engine, "cluster.procs_per_node=2", "run_dir=run", cwd=tmp_path)
    assert done.rc == 0, done.err
    engaged = json.loads((tmp_path / "run" / "result.json").read_text())["engaged"]
    assert (engaged["strategy"], engaged["engine"]) == ("centralized", "DistributedDataParallel")


def test_a_sweep_backend_from_a_package_draws_the_points(galley: Galley, tmp_path: Path) -> None:
    """By hand: 1, 2, 3 in base 2 mirror to 1/2, 1/4, 3/4 of the way from 1e-4 to 5e-4."""
    words = ("hpo=halton", "hpo.trials=3", "hpo.objectives=[eval/loss]", "hpo.study_dir=study")
    done = galley("sweep", *TINY, "optim.lr=interval(1e-4,5e-4)", *words, cwd=tmp_path)
    assert done.rc == 0, done.err
    front = galley("pareto", "study", "--json", cwd=tmp_path)
    trials = json.loads(front.out.splitlines()[-1])["trials"]
    assert [trial["params"]["optim.lr"] for trial in trials] == pytest.approx([3e-4, 2e-4, 4e-4])
    assert {trial["state"] for trial in trials} == {"succeeded"}


def test_a_task_from_a_package_is_known_before_the_start_and_reports_its_metric(
    galley: Galley, tmp_path: Path
) -> None:
    best = ("task=error_rate", "checkpoint.keep_best=eval/error", "data.max_samples=64")
    done = galley(*TINY, *best, "run_dir=run", cwd=tmp_path)
    assert done.rc == 0, done.err
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())["metrics"]
    assert metrics["eval/error"] == pytest.approx(1 - metrics["eval/accuracy"])
    assert json.loads((tmp_path / "run" / "run.json").read_text())["packages"]["galley-extras"] == "0.1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["launcher=nise"], "did you mean 'nice'"),
        (["tracker.kind=csw"], "did you mean 'csv'"),
        (["launcher.options.level=5"], "launcher.options: is read only by a launcher from outside"),
        (["data.name=embedded:parrity"], "did you mean 'parity'"),
        (["tracker=nowhere:Tracker"], "no folder of plugins has a module 'nowhere'"),
        (["launcher=mine:Launcher"], "'mine:Launcher' is not a launcher"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_before_anything_starts(
    galley: Galley, tmp_path: Path, words: list[str], message: str
) -> None:
    done = galley("run", *TINY, *words, "run_dir=run", cwd=tmp_path)
    assert done.rc == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()
