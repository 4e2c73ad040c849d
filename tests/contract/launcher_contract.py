"""What every launcher must keep. A launcher's tests subclass `LauncherContract` and give `make`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.spec import LaunchPlan, RunHandle, State, from_json, to_json
from launchers.base import Launcher
from launchers.run import write_plan
from tests.integration.local.standin import FACTS, end_all, hanging, make_run, make_spec, wait_until

VALUE = "not-to-be-written-down"


class LauncherContract:
    """Ranks are stand-ins; what starts them is real."""

    timeout_s = 60.0

    def make(self) -> Launcher:
        raise NotImplementedError

    @pytest.fixture
    def folder(self, weird_tmp_path: Path) -> Iterator[RunFolder]:
        folder = RunFolder(weird_tmp_path / "run")
        yield folder
        end_all(folder)

    def test_planning_is_pure(self, folder: RunFolder) -> None:
        plans = [self.make().plan(make_spec(), folder.root, FACTS, attempt=1) for _ in range(2)]
        assert plans[0] == plans[1]
        assert not folder.root.exists()
        with pytest.raises(FrozenInstanceError):
            plans[0].launcher = "another"  # type: ignore[misc]

    def test_a_plan_survives_json(self, folder: RunFolder) -> None:
        plan = self.make().plan(make_spec(), folder.root, FACTS, attempt=1)
        assert from_json(LaunchPlan, to_json(plan)) == plan

    def test_a_plan_names_secrets_and_never_their_values(
        self, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", VALUE)
        plan = self.make().plan(make_spec(), folder.root, FACTS, attempt=1)
        assert "HF_TOKEN" in plan.forward_env
        assert VALUE not in to_json(plan)

    def test_a_plan_carries_the_run_the_attempt_and_the_users_variables(self, folder: RunFolder) -> None:
        spec = make_spec(MINE="a 'b' $c")
        text = json.dumps(json.loads(to_json(self.make().plan(spec, folder.root, FACTS, attempt=2))))
        assert spec.sha256 in text
        assert "--run-dir" in text
        assert "GALLEY_RESUME" in text
        assert "MINE" in text

    def test_a_run_that_succeeds(self, folder: RunFolder) -> None:
        make_run(folder.root, "succeed")
        launcher, handle = self.submit(folder)
        assert self.wait(launcher, handle, folder) == "succeeded"
        assert self.make().poll(handle, folder) == "succeeded", "the state is known to other processes too"

    def test_a_run_that_ends_without_a_result_has_failed(self, folder: RunFolder) -> None:
        make_run(folder.root, "say_and_leave")
        launcher, handle = self.submit(folder)
        assert self.wait(launcher, handle, folder) == "failed"
        logs = launcher.logs(handle, folder)
        assert logs
        assert any("I have nothing to do" in log.read_text() for log in logs)

    def test_the_first_failing_rank_is_named(self, folder: RunFolder) -> None:
        make_run(folder.root, "raise_on_one_rank", STANDIN_RANK="1")
        launcher, handle = self.submit(folder)
        assert self.wait(launcher, handle, folder) == "failed"
        assert folder.read_rank_errors(1)[0].rank == 1

    def test_a_stale_result_is_not_that_of_a_later_attempt(self, folder: RunFolder) -> None:
        make_run(folder.root, "succeed")
        launcher, first = self.submit(folder)
        self.wait(launcher, first, folder)
        folder.write_spec(make_spec("say_and_leave"))
        launcher, second = self.submit(folder, attempt=2)
        assert self.wait(launcher, second, folder) == "failed"

    @pytest.mark.parametrize("behavior", ["hang", "be_stubborn"])
    def test_another_process_cancels_by_the_handle(self, folder: RunFolder, behavior: str) -> None:
        make_run(folder.root, behavior)
        launcher, handle = self.submit(folder)
        wait_until(lambda: hanging(folder), self.timeout_s)
        handle = from_json(RunHandle, to_json(handle))
        other, started = self.make(), time.monotonic()
        assert other.poll(handle, folder) == "running"
        other.cancel(handle, folder, grace_s=1.0)
        assert self.wait(launcher, handle, folder) in ("failed", "cancelled")
        assert time.monotonic() - started < 15
        other.cancel(handle, folder, grace_s=1.0)  # a run that has ended is left alone

    def test_a_handle_of_another_process_is_never_acted_on(self, folder: RunFolder) -> None:
        make_run(folder.root, "hang")
        launcher, handle = self.submit(folder)
        wait_until(lambda: hanging(folder), self.timeout_s)
        launcher.cancel(handle, folder, grace_s=1.0)
        self.wait(launcher, handle, folder)
        foreign = replace(handle, job=str(self.foreign_job()), process_started_at=1.0)
        assert self.make().poll(foreign, folder) not in ("queued", "running")

    def foreign_job(self) -> int:
        """The id of something alive that is not the run's."""
        return 1

    def submit(self, folder: RunFolder, attempt: int = 1) -> tuple[Launcher, RunHandle]:
        launcher = self.make()
        plan = launcher.plan(folder.read_spec(), folder.root, FACTS, attempt)
        write_plan(plan, folder)
        handle = launcher.submit(plan, folder)
        folder.write_handles([*folder.read_handles(), handle])
        return launcher, handle

    def wait(self, launcher: Launcher, handle: RunHandle, folder: RunFolder) -> State:
        def ended() -> State | None:
            state = launcher.poll(handle, folder)
            return None if state in ("queued", "running") else state

        state: State = wait_until(ended, self.timeout_s)
        return state
