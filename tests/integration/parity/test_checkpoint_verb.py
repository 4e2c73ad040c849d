"""`checkpoint ls`, `verify` and `convert` on the checkpoints of a real run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from cli.main import main
from galley.schema import Checkpoint, Eval, Train
from tests.integration.train import tiny

LAST = "step-000006"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks, saved at steps 3 and 6; 6 is the last step."""
    recipe = tiny.tiny_recipe(
        "zero2",
        train=Train(epochs=1.0, max_steps=6, log_every_steps=1),
        checkpoint=Checkpoint(every_steps=3, keep=5),
        eval=Eval(enabled=False),
    )
    return tiny.train(tmp_path_factory.mktemp("runs") / "saved", tiny.tiny_spec(recipe, 2)).root


@pytest.fixture
def run(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be damaged, found by its name."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "runs" / "saved"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_ls_shows_what_is_there(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints" / "step-000003" / "manifest.json").unlink()
    assert main(["checkpoint", "ls", "saved", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["checkpoint"], row["step"], row["complete"]) for row in rows] == [
        ("step-000003", 3, False),
        (LAST, 6, True),
    ]
    assert rows[1]["ranks"] == 2
    on_disk = sum(p.stat().st_size for p in (run / "checkpoints" / LAST).iterdir())
    assert rows[1]["bytes"] == on_disk - (run / "checkpoints" / LAST / "manifest.json").stat().st_size
    assert main(["checkpoint", "ls", "saved"]) == 0
    assert "incomplete" in capsys.readouterr().out


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


@pytest.mark.parametrize(
    ("damage", "words"), [(flip, "was changed"), (cut, "bytes"), (Path.unlink, "is missing")]
)
def test_damage_is_named_and_nothing_is_converted(
    run: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], words: str
) -> None:
    assert main(["checkpoint", "verify", "saved"]) == 0
    assert capsys.readouterr().out.count("as saved") == 2
    name = "tensors-00001-of-00002.safetensors"
    damage(run / "checkpoints" / LAST / name)
    assert main(["checkpoint", "verify", "saved"]) == 4
    out = capsys.readouterr().out
    assert "step-000003  as saved" in out
    assert name in out
    assert words in out
    assert main(["checkpoint", "verify", f"runs/saved/checkpoints/{LAST}", "--json"]) == 4
    assert name in json.loads(capsys.readouterr().out)["checkpoints"][LAST]
    assert main(["checkpoint", "convert", f"runs/saved/checkpoints/{LAST}", "out"]) == 4
    assert name in capsys.readouterr().err
    assert not Path("out").exists()


def test_convert_writes_the_weights_of_that_step(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "model" / "config.json").write_text('{"model_type": "tiny"}')
    checkpoint = run / "checkpoints" / LAST
    before = tree(run)
    assert main(["checkpoint", "convert", str(checkpoint), "out"]) == 0
    assert {p.name for p in Path("out").iterdir()} == {"model.safetensors", "config.json"}
    written, final = load_file("out/model.safetensors"), load_file(run / "model" / "model.safetensors")
    assert written.keys() == final.keys()
    for name, tensor in final.items():
        np.testing.assert_array_equal(written[name], tensor, err_msg=name)
        assert written[name].dtype == np.float32
    assert tree(run) == before


def test_convert_writes_moments_when_asked(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = run / "checkpoints" / LAST
    assert main(["checkpoint", "convert", str(checkpoint), "out", "--optimizer", "--json"]) == 0
    done = capsys.readouterr()
    assert json.loads(done.out)["files"] == ["model.safetensors", "optimizer.safetensors"]
    assert "has weights only" in done.err
    moments = load_file("out/optimizer.safetensors")
    shapes = {name: t.shape for name, t in load_file("out/model.safetensors").items() if t.ndim}
    assert {name.partition("/")[0] for name in moments} == {"exp_avg", "exp_avg_sq"}
    for name, shape in shapes.items():
        assert moments[f"exp_avg/{name}"].shape == shape
        assert (moments[f"exp_avg_sq/{name}"] >= 0).all()
    assert any(moments[f"exp_avg/{name}"].any() for name in shapes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["convert", "CHECKPOINT", "kept"], "nothing is overwritten"),
        (["convert", "saved", "out"], "does not mean one checkpoint"),
        (["convert", "CHECKPOINT"], "checkpoint convert CHECKPOINT OUT"),
        (["verfy", "saved"], "did you mean 'verify'?"),
        (["ls", "savd"], "did you mean 'saved'?"),
        ([], "needs an action"),
    ],
)
def test_wrong_words_change_nothing(
    run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    Path("kept").mkdir()
    (Path("kept") / "thesis.txt").write_text("years of work")
    before = tree(Path())
    found = [str(run / "checkpoints" / LAST) if word == "CHECKPOINT" else word for word in words]
    assert main(["checkpoint", *found]) == 2
    assert message in capsys.readouterr().err
    assert tree(Path()) == before
