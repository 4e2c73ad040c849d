"""The model card as huggingface_hub reads it, and the upload against a stand-in of the hub."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils._validators import HFValidationError

from galley.config.rules.hub import energy_problems, hub_problems, is_repo_id
from galley.schema import Checkpoint, Data, Hub, Lora, Model, Recipe, Train
from galley.spec import CodeSnapshot, Engaged, Layout, RunResult, RunSpec
from trainer.run.model_card import write_model_card
from trainer.run.publish import push_model

ENGAGED = Engaged("zero2", "DeepSpeedEngine", "gloo", "bf16", {})
METRICS = {"eval/accuracy": 0.75, "eval/loss": 0.5, "train/loss": 0.4, "energy_kwh": 0.5, "co2_eq_kg": 0.19}
RESULT = RunResult("succeeded", 0, metrics=METRICS, steps=9, epochs=1.0, world_size=2, engaged=ENGAGED)


def card_of(folder: Path, recipe: Recipe, result: RunResult = RESULT) -> Any:
    layout = Layout(1, 2, 2, "cpu", "gloo", 1, 16, 8, 1)
    spec = RunSpec(recipe, layout, CodeSnapshot("0" * 64, None, False), {"torch": "2.13.0"}, "3.11")
    write_model_card(folder, spec, result)
    return ModelCard.load(folder / "README.md")


def test_the_card_says_what_the_hub_asks_for(tmp_path: Path) -> None:
    recipe = Recipe(
        recipe="mrpc",
        model=Model("FacebookAI/roberta-large", lora=Lora(r=2)),
        data=Data("nyu-mll/glue", subset="mrpc"),
        train=Train(energy=True, country="DEU"),
        hub=Hub("me/mrpc", license="apache-2.0"),
    )
    card = card_of(tmp_path, recipe)
    data = card.data
    assert (data.base_model, data.datasets) == ("FacebookAI/roberta-large", ["nyu-mll/glue"])
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "peft",
        "text-classification",
        "apache-2.0",
    )
    found = {one.metric_type: one.metric_value for one in data.eval_results}
    assert found == {"accuracy": 0.75, "loss": 0.5}
    assert data.to_dict()["co2_eq_emissions"] == {
        "emissions": 190.0,
        "source": "CodeCarbon",
        "training_type": "fine-tuning",
        "geographical_location": "DEU",
    }
    assert "DeepSpeedEngine, 2 × cpu, bf16" in card.text
    assert "| accuracy | 0.75 | higher |" in card.text
    assert "| loss | 0.5 | lower |" in card.text


def test_the_card_names_nothing_of_this_machine(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    recipe = Recipe(
        recipe="own", model=Model(str(tmp_path / "base")), data=Data(path="/home/me/secret/reviews")
    )
    card = card_of(tmp_path, recipe, replace(RESULT, metrics={}))
    assert (card.data.base_model, card.data.datasets, card.data.eval_results) == (None, None, None)
    assert "secret" not in card.content
    assert str(tmp_path) not in card.content
    assert "reviews" in card.content


@pytest.mark.parametrize("name", ["embedded:minilm", "gpt2"])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_base_model_is_one_that_the_hub_has(tmp_path: Path, name: str, fresh: bool) -> None:
    card = card_of(tmp_path, Recipe(recipe="a", model=Model(name, from_config=fresh)))
    assert card.data.base_model == ("gpt2" if name == "gpt2" and not fresh else None)


NAMES = ["a", "a/b", "Foo-BAR_foo.bar123", "x" * 96, "x" * 97, "a/b/c", ".a", "a-", "a--b", "a..b", "a.git",
         "a b", "", "/a", "a/", f"{'o' * 50}/{'r' * 50}", "a/.b", "-a/b"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_names_of_repositories_are_judged_as_the_hub_does(name: str) -> None:
    try:
        validate_repo_id(name)
        valid = True
    except HFValidationError:
        valid = False
    assert is_repo_id(name) is valid


@pytest.mark.parametrize(
    ("recipe", "where"),
    [
        (Recipe(hub=Hub("a/b/c")), ["hub.push"]),
        (Recipe(hub=Hub("a/b"), checkpoint=Checkpoint(model=False)), ["hub.push"]),
        (Recipe(hub=Hub(license="Apache 2")), ["hub.license"]),
        (Recipe(train=Train(country="DEU")), ["train.country"]),
        (Recipe(train=Train(energy=True, country="DEU", region="bavaria")), ["train.region"]),
        (Recipe(train=Train(energy=True, country="USA", region="ohio"), hub=Hub("a/b")), []),
    ],
)
def test_what_cannot_be_published_is_refused(recipe: Recipe, where: list[str]) -> None:
    found = [*hub_problems(recipe), *energy_problems(recipe)]
    assert [problem.where for problem in found] == where


class FakeHub(BaseHTTPRequestHandler):
    """A stand-in for the hub: what huggingface_hub asks of it to make a repository and commit small files."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.path == "/api/repos/create":
            self.asked.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/me/mrpc"})
        elif self.path.startswith("/api/models/me/mrpc/preupload/"):
            names = [one["path"] for one in json.loads(body)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer({"files": modes})
        elif self.path.startswith("/api/models/me/mrpc/commit/"):
            for line in body.splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    self.files[one["value"]["path"]] = base64.b64decode(one["value"]["content"])
            url = f"http://{self.headers['Host']}/me/mrpc/commit/{'0' * 40}"
            self.answer({"success": True, "commitOid": "0" * 40, "commitUrl": url})
        else:
            self.answer({"error": "not found"}, 404)

    def do_GET(self) -> None:
        self.answer({"id": "me/mrpc", "sha": "0" * 40, "siblings": []})

    def answer(self, value: Any, code: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    FakeHub.files.clear()
    FakeHub.asked.clear()
    yield endpoint
    server.shutdown()
    server.server_close()


def test_the_whole_folder_is_uploaded(tmp_path: Path, hub: str) -> None:
    card_of(tmp_path, Recipe(recipe="mrpc"))
    (tmp_path / "config.json").write_text("{}")
    assert push_model(tmp_path, Hub("me/mrpc"), hub) == ""
    assert {name: FakeHub.files[name] for name in ("README.md", "config.json")} == {
        "README.md": (tmp_path / "README.md").read_bytes(), "config.json": b"{}"
    }  # fmt: skip
    assert [(one["name"], one["visibility"]) for one in FakeHub.asked] == [("mrpc", "private")]


def test_a_hub_that_refuses_or_is_away_costs_no_model(
    tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = push_model(tmp_path, Hub("other/name"), hub)
    assert found.startswith("the model was not pushed to other/name: ")
    assert found.endswith(f"later: hf upload other/name {tmp_path}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "the hub cannot be reached" in push_model(tmp_path, Hub("me/mrpc"), hub)
