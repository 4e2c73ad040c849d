"""Studies whose Optuna storage is the database of a real server; the trainer is the stand-in."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import TypeVar

import optuna
import pytest
from sqlalchemy import Engine, event

from galley.schema import Hpo
from hpo import controller
from hpo.backends.base import NoAnswerError, Search
from hpo.backends.optuna import OptunaBackend
from hpo.space.dimensions import read_space
from hpo.study.state import read_study
from hpo.study.values import Objective, Params, Trial
from tests.integration.conftest import Command
from tests.integration.databases.servers import PASSWORD, SERVERS, Server
from tests.integration.hpo import lab
from tests.integration.local.standin import environment, wait_until
from tests.support import free_port

Answer = TypeVar("Answer")

WORDS = ("hpo=optuna", "hpo.trials=6", "hpo.parallel=2", "hpo.storage=env:STUDY_DB")


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    made = SERVERS[request.param]()
    try:
        made.create()
        made.start()
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def thread(server: Server) -> Iterator[ThreadPoolExecutor]:
    """One that lives as long as the server: what a thread has started ends with it."""
    with ThreadPoolExecutor(1) as pool:
        yield pool
        server.stop()


@pytest.fixture(autouse=True)
def _named_by_a_variable(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_DB", server.url)


def ended(root: Path) -> int:
    return sum(trial.state == "succeeded" for trial in read_study(root).trials)


def test_a_killed_controller_leaves_a_study_that_goes_on(server: Server, tmp_path: Path) -> None:
    folder = lab.make_study(tmp_path / f"killed-{server.port}", *WORDS)
    argv = [sys.executable, "-m", "tests.integration.hpo.lab", folder.root]
    process = subprocess.Popen(argv, env=environment(STUDY_DB=server.url, STANDIN_STEP_S="0.05"))
    wait_until(lambda: ended(folder.root) >= 2, 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lab.run(folder)
    assert not lab.faults(folder, 6)
    assert not (folder.root / "optuna.log").exists()
    written = [path for path in folder.root.rglob("*") if path.is_file()]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]


def test_a_server_that_is_away_for_a_while_ends_nothing(
    server: Server,
    thread: ThreadPoolExecutor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The trials that run go on, and what happened meanwhile is told when it is back."""
    monkeypatch.setattr(controller, "ASK_AGAIN_S", 0.5)
    folder = lab.make_study(tmp_path / f"away-{server.port}", *WORDS, "launcher.env.STANDIN_STEP_S=0.2")

    def restart() -> None:
        wait_until(lambda: len(read_study(folder.root).running()) == 2, 60)
        server.stop()
        try:
            wait_until(lambda: ended(folder.root) >= 2, 60)
            time.sleep(1.0)
        finally:
            server.start()

    with caplog.at_level(logging.WARNING, "galley"):
        restarted = thread.submit(restart)
        study = lab.run(folder)
        restarted.result()
    assert not lab.faults(folder, 6)
    assert [trial.attempts for trial in study.trials] == [1] * 6
    said = [record.getMessage() for record in caplog.records if "asking again" in record.getMessage()]
    assert len(said) == 1, said
    assert PASSWORD not in said[0]


def drop_connection(server: Server, engine: Engine, at: int) -> Callable[[], bool]:
    """At one of the statements and commits to come. Returns what says whether it came to that."""
    left = count(at, -1)
    seen: list[object] = []

    def see(*_: object) -> None:
        if next(left) == 0:
            seen.append(None)
            server.drop_connections()

    event.listen(engine, "before_cursor_execute", see)
    event.listen(engine, "commit", see)
    return lambda: bool(seen)


class Insistent:
    """A backend that is used as a ledger does: made anew, from the trials so far, where it did not answer."""

    def __init__(self, search: Search) -> None:
        self.trials: list[Trial] = []
        self._search = search
        self.backend = OptunaBackend(search, self.trials)

    def use(self, what: Callable[[OptunaBackend], Answer]) -> Answer:
        for _ in range(3):
            with suppress(NoAnswerError):
                return what(self.backend)
            self.backend.close()
            self.backend = OptunaBackend(self._search, self.trials)
        raise AssertionError("the database answers, but not the backend")


@pytest.mark.parametrize("fixed", [None, {"seed": 4}], ids=["drawn", "noted"])
def test_a_connection_that_is_lost_at_any_statement_is_made_again(
    server: Server, tmp_path: Path, fixed: Params | None
) -> None:
    """Trial N loses it at its statement N."""
    space, objectives = read_space({"seed": {"low": 1, "high": 9}}), (Objective("eval/f1", "maximize"),)
    settings = Hpo(kind="optuna", storage="env:STUDY_DB", sampler="random")
    insistent = Insistent(Search(f"lost-{fixed}", tmp_path, space, objectives, (), 1, settings))
    told = insistent.trials
    while True:
        number = len(told)
        was_lost = drop_connection(server, insistent.backend._storage.engine, number)
        params = insistent.use(lambda backend, number=number: backend.ask(number, fixed))  # type: ignore[misc]
        assert params is not None
        told.append(Trial(number, "succeeded", params, {"eval/f1": float(number)}))
        insistent.use(lambda backend: backend.tell(told[-1]))
        if not was_lost():
            break
    assert len(told) > 20, "it has sent hardly anything"
    stored = optuna.load_study(study_name=f"lost-{fixed}", storage=server.url).trials
    assert [(trial.params, trial.values) for trial in stored] == [
        (trial.params, [trial.values["eval/f1"]]) for trial in told
    ]


@pytest.mark.parametrize("what", ["password", "port", "driver"])
def test_a_database_that_cannot_be_opened_is_refused_before_anything_is_written(
    server: Server, tmp_path: Path, galley: Command, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    wrong = {
        "password": server.url_with("another-one"),
        "port": server.url.replace(f":{server.port}", f":{free_port()}"),
        "driver": server.url.replace(server.driver, "oracle"),
    }
    monkeypatch.setenv("STUDY_DB", wrong[what])
    study = tmp_path / "study"
    space = ("optim.lr=tag(log, interval(1e-5, 1e-3))", "hpo.objectives=[eval/f1]", f"hpo.study_dir={study}")
    code, _, said = galley("sweep", *WORDS, *space)
    assert code == 2, said
    assert "hpo.storage: cannot be opened" in said
    assert PASSWORD not in said
    assert "another-one" not in said
    assert not study.exists()
