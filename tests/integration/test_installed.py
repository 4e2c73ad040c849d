"""The built wheel, installed into an environment of its own: `galley` works in any folder."""

from __future__ import annotations

import json
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from galley.run.seal import PROGRAM, code_files
from galley.rundir import RunFolder
from galley.schema import Recipe
from tests.support import REPO, Finished, not_available, run_process

# Names that others may have in the same environment.
STRANGERS = ("cli", "hpo", "launchers", "trainer")
FEW_STEPS = (
    "strategy=single", "batch.global_size=4", "data.max_samples=64", "data.max_eval_samples=8",
    "data.max_length=16", "train.max_steps=4", "checkpoint.every_steps=2", "eval.every_steps=4",
)  # fmt: skip
FRAGILE = '''
import os
import time
from pathlib import Path

from mean_recall import MeanRecall


class Fragile(MeanRecall):
    """Fails in the first attempt, as soon as there is a checkpoint."""

    def collate(self, samples):
        if self.step == 3 and os.environ["GALLEY_ATTEMPT"] == "1":
            while not Path("runs/a/checkpoints/step-000002/manifest.json").exists():
                time.sleep(0.05)
            raise RuntimeError("as planned")
        return super().collate(samples)
'''


class Environment:
    """An empty environment; `site` is its site-packages, with a stranger's modules in it."""

    def __init__(self, root: Path) -> None:
        venv.create(root, symlinks=True, with_pip=False)
        self.root = root
        (self.site,) = root.glob("lib/python*/site-packages")
        for name in STRANGERS:
            (self.site / f"{name}.py").write_text("raise ImportError('this is not the module of Galley')\n")

    def install(self, wheel: Path) -> None:
        pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--python", self._python]
        done = run_process([*pip, "install", "-q", "--no-deps", "--no-index", "--no-compile", wheel])
        assert done.rc == 0, done.err

    @property
    def _python(self) -> Path:
        return self.root / "bin" / "python"

    def galley(self, *words: str | Path, cwd: Path, timeout: float = 120) -> Finished:
        argv = [self.root / "bin" / "galley", *words]
        return run_process(argv, cwd=cwd, env={"PYTHONPATH": None}, timeout=timeout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if find_spec("hatchling") is None:
        not_available("hatchling is not installed", "tests/integration/test_installed.py")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
    done = run_process([*pip, "--no-build-isolation", "--no-deps", "--no-index", "-w", folder, REPO])
    assert done.rc == 0, done.err
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def with_torch(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Sees the packages of the tests. Their .pth file, which adds the checkout, is not read from here."""
    environment = Environment(tmp_path_factory.mktemp("with torch"))
    environment.install(wheel)
    packages = distribution("torch").locate_file("")
    (environment.site / "zz_packages.pth").write_text(f"{packages}\n")
    return environment


@pytest.fixture(scope="module")
def base_only(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Has Galley's own dependencies and no extra."""
    environment = Environment(tmp_path_factory.mktemp("base"))
    environment.install(wheel)
    for name in sorted(needed_by("galley")):
        link(name, environment.site)
    return environment


def needed_by(name: str) -> set[str]:
    """Names of the distributions that `name` needs without an extra."""
    found, waiting = set[str](), [name]
    while waiting:
        wanted = map(Requirement, distribution(waiting.pop()).requires or ())
        names = {one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})}
        waiting += names - found
        found |= names
    return found


def link(name: str, site: Path) -> None:
    """Put the files of an installed distribution into another site-packages."""
    found = distribution(name)
    for top in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
        if not (site / top).exists():  # a few have a folder in common
            (site / top).symlink_to(Path(str(found.locate_file(top))))


def members(wheel: Path) -> Iterator[str]:
    with zipfile.ZipFile(wheel) as archive:
        yield from archive.namelist()


def test_wheel_is_the_program_under_one_name(wheel: Path) -> None:
    """Its `_program` is what a run takes as its snapshot, byte for byte, and the files for Kubernetes."""
    tops = {name.split("/")[0] for name in members(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"galley"}
    prefix = "galley/_program/"
    inside = {name.removeprefix(prefix) for name in members(wheel) if name.startswith(prefix)}
    assert {name for name in members(wheel) if name.startswith("galley/") and prefix not in name} == {
        "galley/__init__.py"
    }
    assert {name.split("/")[0] for name in inside} == {*PROGRAM, "k8s"}
    assert "k8s/Dockerfile" in inside
    with zipfile.ZipFile(wheel) as archive:
        for name, file in code_files(Recipe()).items():
            assert archive.read(f"{prefix}{name}") == file.read_bytes(), name


def test_editable_installation_is_only_a_path_to_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """A copy of the program beside it would be imported instead."""
    code = "import sys; from hatchling.build import build_editable; print(build_editable(sys.argv[1]))"
    done = run_process([sys.executable, "-P", "-c", code, tmp_path])
    assert done.rc == 0, done.err
    names = {name for name in members(tmp_path / done.out.strip()) if ".dist-info/" not in name}
    assert names == {"_galley.pth"}


def test_base_package_plans_explains_and_lists_without_torch(base_only: Environment, tmp_path: Path) -> None:
    for package in ("torch", "transformers", "optuna"):
        assert not list(base_only.site.glob(f"{package}*"))
    help_text = base_only.galley("--help", cwd=tmp_path)
    assert help_text.out.startswith("galley [VERB]")
    shown = base_only.galley("explain", "optim.lr", cwd=tmp_path)
    assert "recipes/quickstart.yaml:13  optim.lr = 1e-4" in shown.out
    listed = base_only.galley("recipes", "--json", cwd=tmp_path)
    assert {row["recipe"] for row in json.loads(listed.out)} == {f.stem for f in REPO.glob("recipes/*.yaml")}
    for launcher in ("local", "slurm"):
        words = ("plan", "--json", f"launcher={launcher}", "cluster.procs_per_node=1")
        planned = base_only.galley(*words, cwd=tmp_path)
        assert planned.rc == 0, planned.err
        found = json.loads(planned.out)
        assert found["run_dir"].startswith(str(tmp_path / "runs"))
        warned = [text for text in found["warnings"] if "torch, transformers" in text]
        assert len(warned) == (launcher == "local")
    refused = base_only.galley("strategy=single", cwd=tmp_path)
    assert refused.rc == 2
    assert "pip install 'galley[train]'" in refused.err
    assert not any(tmp_path.iterdir())


def test_default_recipe_trains_and_resumes_in_a_project(with_torch: Environment, tmp_path: Path) -> None:
    """Its `mine` is the default recipe, with data and a task of the project."""
    made = with_torch.galley("init", "project", cwd=tmp_path)
    assert made.rc == 0, made.err
    project = tmp_path / "project"
    (project / "plugins" / "fragile.py").write_text(FRAGILE)
    words = ("recipe=mine", "task.kind=fragile:Fragile", *FEW_STEPS, "run_dir=runs/a")
    done = with_torch.galley(*words, cwd=project, timeout=300)
    assert done.rc == 4, done.err
    assert "as planned" in done.err
    folder = RunFolder(project / "runs" / "a")
    assert (folder.code / "trainer" / "worker.py").is_file()
    assert (folder.code / "plugins" / "0" / "mean_recall.py").is_file()
    done = with_torch.galley("resume", "a", cwd=project, timeout=300)
    assert done.rc == 0, done.err
    result = folder.read_result()
    assert result is not None
    assert (result.state, result.steps, result.attempts) == ("succeeded", 4, 2)
    assert result.resumed_from == "step-000002"
    assert 0 <= result.metrics["eval/mean_recall"] <= 1
    assert folder.read_spec().code.commit is None
    added = {path.name for path in with_torch.site.iterdir() if path.suffix not in (".dist-info", ".pth")}
    assert added == {"galley", *(f"{name}.py" for name in STRANGERS)}
