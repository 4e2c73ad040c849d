"""Which folders a recipe may name where the ranks are pods: those that the pods see."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.config.compose import compose_recipe
from galley.config.rank_paths import place_problems, place_warnings, seen_here, uploads, with_uploads
from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError, Problem
from galley.run.seal import code_files
from galley.rundir import RunFolder
from galley.schema import Batch, Recipe, Source
from galley.spec import CodeSnapshot
from launchers.k8s import bundle
from launchers.k8s.launcher import K8sLauncher
from tests.support import make_recipe
from tests.unit.launchers.k8s.runs import make_spec
from trainer.run.attempt_layout import with_uploaded

ROWS = [("one", "two", "0"), ("three", "four", "1"), ("é", "six", "1"), ("seven", "", "0")]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of this machine with data of sentence pairs."""
    folder = tmp_path / "pairs"
    write_pairs(folder)
    return folder


def write_pairs(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("sentence1", "sentence2", "label"), *ROWS])


def recipe(k8s: dict[str, Any] | None = None, /, **sections: Any) -> Recipe:
    return make_recipe(make_spec(k8s).recipe, **{"batch": Batch(micro_size=8), **sections})


def refusals(k8s: dict[str, Any] | None = None, /, **sections: Any) -> list[Problem]:
    return recipe_problems(recipe(k8s, **sections))


def with_folder(key: str, path: str) -> Recipe:
    section, *inner = key.split(".")
    value: Any = path
    for name in reversed(inner):
        value = {name: value}
    return recipe(**{section: value})


KEYS = ["data.path", "model.name", "model.tokenizer", "task.distillation.teacher"]


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["k8s", "pytorchjob", "trainjob"])
def test_a_folder_that_only_the_claim_has_is_named(key: str, kind: str) -> None:
    found = with_folder(key, "/galley/given")
    found = replace(found, launcher=replace(found.launcher, kind=kind))  # type: ignore[arg-type]
    assert recipe_problems(found) == []
    assert place_warnings(found) == [
        f"{key}=/galley/given is not seen from here: the ranks are the first to read it"
    ]


@pytest.mark.parametrize("key", KEYS)
def test_a_folder_that_only_this_machine_has_is_refused(key: str, pairs: Path) -> None:
    (problem,) = recipe_problems(with_folder(key, str(pairs)))
    assert problem.where == key
    assert problem.what == f"'{pairs}' is a folder of this machine, which the pods do not see"
    assert "/galley (the claim 'galley')" in problem.hint
    assert "launcher.k8s.upload=true" in problem.hint


def test_the_command_says_so_by_the_override(pairs: Path) -> None:
    with pytest.raises(ConfigError) as error:
        compose_recipe(["launcher=k8s", "cluster.procs_per_node=1", f"data.path={pairs}"])
    assert [problem.where for problem in error.value.problems] == [f"data.path={pairs}"]


def test_sources_of_a_mixture_are_named_by_their_number(pairs: Path) -> None:
    mix = [Source(path="/galley/a"), Source(path=str(pairs))]
    assert [problem.where for problem in refusals(data={"mix": mix})] == ["data.mix.1.path"]


def test_a_folder_that_nobody_has_is_refused_with_what_there_is() -> None:
    (problem,) = refusals({"image_folders": ["/opt/data"]}, data={"path": "/data/pairs"})
    assert problem.what == "the pods have no folder '/data/pairs', and neither has this machine"
    for valid in ("/galley (the claim 'galley')", "/opt/data (a folder of the image)"):
        assert valid in problem.hint


def test_a_folder_of_the_image_is_named() -> None:
    assert refusals({"image_folders": ["/opt/data"]}, data={"path": "/opt/data/pairs"}) == []


def test_a_name_on_the_hub_is_no_folder() -> None:
    assert refusals(model={"name": "google/bert", "tokenizer": "bert-base-uncased"}) == []


def test_a_cache_that_pods_cannot_make_is_refused() -> None:
    (problem,) = refusals(data={"cache_dir": "/home/ann/cache"})
    assert problem.what == "the pods have no folder '/home/ann/cache'"
    assert refusals(data={"cache_dir": "/galley/cache"}) == []


def test_the_claim_is_read_where_this_machine_sees_it(tmp_path: Path) -> None:
    """Rows of the claim are checked before anything is sent, by the path that pods know."""
    claim = {"transport": "claim", "claim_here": str(tmp_path)}
    write_pairs(tmp_path / "good")
    (tmp_path / "bad").mkdir()
    for split in ("train", "dev"):
        (tmp_path / "bad" / f"{split}.csv").write_text("sentence1,sentence2,label\na,b,5.5\n")
    assert refusals(claim, data={"path": "/galley/good"}) == []
    assert place_warnings(recipe(claim, data={"path": "/galley/good"})) == []
    assert any("5.5" in problem.what for problem in refusals(claim, data={"path": "/galley/bad"}))
    assert "does not exist" in str(refusals(claim, data={"path": "/galley/none"})[0])
    (problem,) = refusals(claim, data={"path": f"{tmp_path}/good"})
    assert (problem.what, problem.hint) == (
        f"the pods see '{tmp_path}/good' as /galley/good", "set data.path=/galley/good"
    )  # fmt: skip


def test_other_launchers_see_what_this_machine_sees(pairs: Path) -> None:
    found = recipe(data={"path": str(pairs)})
    found = replace(found, launcher=replace(found.launcher, kind="slurm"))
    assert (list(place_problems(found)), place_warnings(found), uploads(found)) == ([], [], {})
    assert seen_here(found, str(pairs)) == pairs


def test_an_upload_travels_with_the_code_and_is_what_the_worker_reads(pairs: Path, tmp_path: Path) -> None:
    (pairs / ".hidden").write_text("not data")
    found = recipe({"upload": True}, data={"path": str(pairs)})
    assert place_warnings(found) == []
    files = {name: path for name, path in code_files(found).items() if name.startswith("uploads/")}
    assert files == {f"uploads/data.path/{name}": pairs / name for name in ("dev.csv", "train.csv")}
    folder = RunFolder(tmp_path / "run")
    for name, path in files.items():
        (folder.code / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.code / name).write_bytes(path.read_bytes())
    spec = replace(make_spec(), recipe=found, code=CodeSnapshot("c" * 64, None, False))
    read = with_uploaded(spec, folder.code)
    with (Path(str(read.recipe.data.path)) / "train.csv").open(newline="", encoding="utf-8") as stream:
        assert [tuple(row) for row in csv.reader(stream)][1:] == ROWS
    assert Path(str(read.recipe.data.path)).is_relative_to(folder.code)
    assert read.sha256 == spec.sha256, "the run keeps its name"
    assert read.recipe.model == found.model


def test_an_upload_of_a_mixture_and_a_model_finds_its_keys(tmp_path: Path) -> None:
    found = recipe(
        data={"mix": [Source(path="/galley/a"), Source(path="/galley/b", weight=2)]},
        model={"name": "/galley/m"},
    )
    for key in ("data.mix.1.path", "model.name"):
        (tmp_path / "uploads" / key).mkdir(parents=True)
    read = with_uploads(found, tmp_path)
    assert [source.path for source in read.data.mix] == [
        "/galley/a", str(tmp_path / "uploads" / "data.mix.1.path")
    ]  # fmt: skip
    assert read.data.mix[1].weight == 2
    assert read.model.name == str(tmp_path / "uploads" / "model.name")


def test_what_is_uploaded_is_checked_first(pairs: Path) -> None:
    (pairs / "train.csv").write_text("sentence1,sentence2,label\na,b,-7\n")
    assert any("-7" in problem.what for problem in refusals({"upload": True}, data={"path": str(pairs)}))


def test_trials_cannot_differ_in_what_is_uploaded_once(pairs: Path) -> None:
    found = recipe(
        {"upload": True}, data={"path": str(pairs)}, hpo={"space": {"data.path": [str(pairs), "/x"]}}
    )
    assert [problem.where for problem in place_problems(found)] == ["hpo.space.data.path"]


def test_an_upload_that_does_not_fit_is_refused_before_anything_is_written(pairs: Path) -> None:
    """Random bytes cannot be compressed: 600 KiB of them are more than the room beside the program."""
    import random

    found = recipe({"upload": True}, data={"path": str(pairs)})
    K8sLauncher().facts(found)
    (pairs / "more.bin").write_bytes(random.Random(0).randbytes(600 * 1024))
    with pytest.raises(ConfigError, match=r"data.path: 3 files take 60\d KiB when compressed, 576 fit"):
        K8sLauncher().facts(found)
    K8sLauncher().facts(recipe({"upload": True, "transport": "claim"}, data={"path": str(pairs)}))


def test_the_program_leaves_the_room_that_is_stated() -> None:
    assert len(bundle.pack(code_files(Recipe()))) < bundle.PROGRAM_BYTES
