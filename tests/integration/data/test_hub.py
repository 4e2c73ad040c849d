"""No hub: one line, at once. Each case in a process of its own, for the libraries read their setting once."""

from __future__ import annotations

import socket
import sys
import time
from pathlib import Path

import pytest

from tests.support import run_process

DATA = """
from galley.schema import Data
from trainer.data.sources import read_splits
attempt = lambda: read_splits(Data(name="nyu-mll/glue", subset="mrpc"))
"""
MODEL = """
from galley.schema import Model, Recipe
from trainer.models.build import load_tokenizer
attempt = lambda: load_tokenizer(Recipe(model=Model(name="some/model")))
"""
ATTEMPT = """
import time
from galley.errors import ConfigError
started = time.monotonic()
try:
    attempt()
except ConfigError as error:
    print(error)
    print(time.monotonic() - started)
"""
WHAT = (
    "is not in the local cache, and the Hugging Face hub cannot be reached:"
    " use profile=small, or a local model with data.path=DIR"
)


@pytest.fixture
def closed_port() -> int:
    """A port of this host that refuses connections."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("code", "where"), [(DATA, "data.name=nyu-mll/glue"), (MODEL, "model.name=some/model")]
)
@pytest.mark.parametrize("how", ["offline", "unreachable", "proxy"])
def test_one_line_within_seconds(code: str, where: str, how: str, tmp_path: Path, closed_port: int) -> None:
    refused = f"http://127.0.0.1:{closed_port}"
    environment: dict[str, dict[str, str | None]] = {
        "offline": {"HF_HUB_OFFLINE": "1"},
        "unreachable": {"HF_ENDPOINT": refused, "HF_HUB_OFFLINE": None},
        "proxy": {"HTTPS_PROXY": refused, "HF_HUB_OFFLINE": None},
    }
    env = {"HF_HOME": str(tmp_path), **environment[how]}
    finished = run_process([sys.executable, "-c", code + ATTEMPT], env=env)
    message, seconds = finished.out.strip().splitlines()
    assert message == f"{where}: {WHAT}"
    assert float(seconds) < 30, "their clients retry for about a minute"
    assert "Retrying" not in finished.err


def test_libraries_that_are_loaded_already_stop_asking_too(tmp_path: Path, closed_port: int) -> None:
    env = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{closed_port}"}
    code = "import transformers, datasets\nfrom transformers import AutoTokenizer\n" + MODEL + DATA + ATTEMPT
    finished = run_process([sys.executable, "-c", code], env=env)
    assert finished.out.startswith(f"data.name=nyu-mll/glue: {WHAT}\n"), finished.err
    assert "Retrying" not in finished.err


def test_a_hub_that_answers_is_asked(tmp_path: Path) -> None:
    """The probe must not switch a hub off that is there: this one says 404 to everything."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    asked: list[str] = []

    class NotFound(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), NotFound)
    Thread(target=server.serve_forever, daemon=True).start()
    env = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}
    started = time.monotonic()
    finished = run_process([sys.executable, "-c", MODEL + ATTEMPT], env=env)
    server.shutdown()
    lines = finished.out.splitlines()
    assert lines[0].startswith("model.name=some/model: cannot be loaded: "), finished.err
    assert lines[1] == "    check the name, and HF_TOKEN for a private one"
    assert any("some/model" in path for path in asked)
    assert time.monotonic() - started < 60
