"""What every launcher must keep. A launcher's tests subclass `LauncherContract` and give `make`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.spec import LaunchPlan, RunHandle, RunSpec, State, from_json, to_json
from launchers.base import Launcher
from launchers.lifecycle.attempt_store import last_handle
from launchers.lifecycle.launch import write_plan
from tests.integration.local.standin import (
    FACTS,
    end_all,
    hanging,
    make_run,
    make_spec,
    processes_of,
    wait_until,
)

VALUE = "not-to-be-written-down"


class LauncherContract:
    """Ranks are stand-ins; what starts them is real. Two ranks where the launcher has to mind both: a
    lone one needs no torchrun, whose import of torch is most of a test."""

    timeout_s = 120.0

    def make(self) -> Launcher:
        raise NotImplementedError

    def spec(self, **env: str) -> RunSpec:
        """A run that this launcher plans."""
        return make_spec(**env)

    @pytest.fixture
    def folder(self, weird_tmp_path: Path) -> Iterator[RunFolder]:
        folder = RunFolder(weird_tmp_path / "run")
        yield folder
        end_all(folder)

    def test_planning_is_pure(self, folder: RunFolder) -> None:
        plans = [self.make().plan(self.spec(), folder.root, FACTS, attempt=1) for _ in range(2)]
        assert plans[0] == plans[1]
        assert not folder.root.exists()
        with pytest.raises(FrozenInstanceError):
            plans[0].launcher = "another"  # type: ignore[misc]

    def test_a_plan_survives_json(self, folder: RunFolder) -> None:
        plan = self.make().plan(self.spec(), folder.root, FACTS, attempt=1)
        assert from_json(LaunchPlan, to_json(plan)) == plan

    def test_a_plan_names_secrets_and_never_their_values(
        self, folder: RunFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", VALUE)
        plan = self.make().plan(self.spec(), folder.root, FACTS, attempt=1)
        assert "HF_TOKEN" in plan.forward_env
        assert VALUE not in to_json(plan)

    def test_a_plan_carries_the_run_the_attempt_and_the_users_variables(self, folder: RunFolder) -> None:
        spec = self.spec(MINE="a 'b' $c")
        text = json.dumps(json.loads(to_json(self.make().plan(spec, folder.root, FACTS, attempt=2))))
        assert spec.sha256 in text
        assert "--run-dir" in text
        assert "GALLEY_RESUME" in text
        assert "MINE" in text

    def test_a_result_is_that_of_its_attempt(self, folder: RunFolder) -> None:
        """An attempt that ends without one has failed, whatever an earlier one left."""
        make_run(folder.root, "succeed", ranks=1)
        launcher, first = self.submit(folder)
        assert self.wait(launcher, first, folder) == "succeeded"
        assert self.make().poll(first, folder) == "succeeded", "the state is known to other processes too"
        folder.write_spec(make_spec("say_and_leave", ranks=1))
        launcher, second = self.submit(folder, attempt=2)
        assert self.wait(launcher, second, folder) == "failed"
        logs = launcher.logs(second, folder)
        assert any("I have nothing to do" in log.read_text() for log in logs), logs

    def test_the_first_failing_rank_is_named(self, folder: RunFolder) -> None:
        make_run(folder.root, "raise_on_one_rank", STANDIN_RANK="1")
        launcher, handle = self.submit(folder)
        assert self.wait(launcher, handle, folder) == "failed"
        assert folder.read_rank_errors(1)[0].rank == 1

    @pytest.mark.parametrize(("behavior", "ranks"), [("hang", 1), ("be_stubborn", 2)])
    def test_another_process_cancels_by_the_handle_and_by_no_other(
        self, folder: RunFolder, behavior: str, ranks: int
    ) -> None:
        make_run(folder.root, behavior, ranks)
        launcher, handle = self.submit(folder)
        wait_until(lambda: hanging(folder, ranks), self.timeout_s)
        handle = from_json(RunHandle, to_json(handle))
        foreign = replace(handle, job=str(self.foreign_job()), process_started_at=1.0)
        other = self.make()
        assert other.poll(handle, folder) == "running"
        other.cancel(handle, folder, grace_s=1.0)
        assert self.wait(launcher, handle, folder) in ("failed", "cancelled")
        wait_until(lambda: not processes_of(folder), self.timeout_s)
        other.cancel(handle, folder, grace_s=1.0)  # a run that has ended is left alone
        assert self.make().poll(foreign, folder) not in ("queued", "running")

    def test_a_job_whose_submitter_was_killed_before_it_kept_the_handle_is_found(
        self, folder: RunFolder
    ) -> None:
        """Where a scheduler owns it; elsewhere it dies with the submitter."""
        if not self.make().remote:
            return
        make_run(folder.root, "hang", ranks=1)
        _, handle = self.submit(folder)
        folder.launch_file.unlink()
        found = last_handle(folder)
        assert found == replace(handle, started_at=found.started_at if found else 0.0)
        assert folder.read_handles() == [found]
        self.make().cancel(handle, folder, grace_s=1.0)

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
