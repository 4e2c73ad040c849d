"""What the plan prints is what the processes receive, in run folders of any name."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cli.options import Options
from cli.run import resume
from galley.errors import ConfigError
from galley.run.seal import snapshot_sha256
from galley.rundir import RunFolder
from galley.spec import CodeSnapshot, LaunchPlan, from_json
from launchers.local.launcher import LocalLauncher
from tests.integration.local.standin import FACTS, make_run, make_spec, run_launch, wait_until

HOSTILE = {
    "PLAIN": "a b",
    "QUOTES": 'it\'s a "b"',
    "DOLLAR": "$HOME `id` $(id)",
    "LINES": "a\nb;c",
    "EMPTY": "",
}
RECORDER = """\
#!{python}
import json, os, sys
part = os.environ["RECORD"] + ".part"
json.dump({{"argv": sys.argv[1:], "env": dict(os.environ)}}, open(part, "w"))
os.replace(part, os.environ["RECORD"])
"""


@pytest.mark.parametrize("name", ["plain", "with space", 'it\'s "q"', "$HOME `id`", "a\nb", "-x", "é*?"])
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_stand_in_interpreter_receives_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ranks: int
) -> None:
    executable = tmp_path / "bin/standin-python"
    executable.parent.mkdir()
    executable.write_text(RECORDER.format(python=sys.executable))
    executable.chmod(0o755)
    monkeypatch.setenv("PATH", str(executable.parent), prepend=os.pathsep)
    monkeypatch.setenv("OF_THE_USER", "kept")
    record = tmp_path / "record.json"
    folder = RunFolder(tmp_path / name)
    launcher = LocalLauncher(python=executable.name)
    spec = make_spec("none", ranks, RECORD=str(record), **HOSTILE)
    plan = launcher.plan(spec, folder.root, FACTS, attempt=1)
    launcher.submit(plan, folder)
    wait_until(record.exists)
    received = json.loads(record.read_text())
    assert [plan.argv[0], *received["argv"]] == list(plan.argv)
    received["env"].pop("LC_CTYPE", None)  # a Python that starts in the C locale sets it
    assert received["env"] == {**os.environ, **plan.env}


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_rank_receives_the_plan_that_the_folder_keeps(weird_tmp_path: Path, ranks: int) -> None:
    folder = make_run(weird_tmp_path / "a\nrun", "record", ranks, **HOSTILE)
    done = run_launch(folder)
    assert done.rc == 0, done.err
    plan = from_json(LaunchPlan, (folder.plan / "launch.json").read_bytes())
    assert plan == LocalLauncher().plan(folder.read_spec(), folder.root, FACTS, attempt=1)
    worker = list(plan.argv[plan.argv.index("trainer.worker") - 3 :])
    for rank in range(ranks):
        received = json.loads((folder.root / f"received-{rank}.json").read_text())
        assert received["argv"] == worker
        assert {key: received["env"][key] for key in plan.env if key != "RANK"} == {
            key: value for key, value in plan.env.items() if key != "RANK"
        }
        assert received["env"]["RANK"] == str(rank)


def test_a_run_is_resumed_on_other_ranks(weird_tmp_path: Path) -> None:
    """In this process, as the command does it. Its name and its recipe stay."""
    folder = make_run(weird_tmp_path / "run", "record")
    sealed = replace(folder.read_spec(), code=CodeSnapshot(snapshot_sha256(folder), None, False))
    folder.write_spec(sealed)
    with pytest.raises(ConfigError, match=r"optim\.lr=1: a resumed run keeps its sealed recipe"):
        resume([str(folder.root), "optim.lr=1"], Options())
    with pytest.raises(ConfigError, match=r"32 = micro_size \? × accumulation \? × 3 ranks"):
        resume([str(folder.root), "cluster.procs_per_node=3"], Options())
    assert not folder.launch_file.exists()
    assert resume([str(folder.root), "cluster.procs_per_node=1", "cluster.device=cpu"], Options()) == 0
    received = json.loads((folder.root / "received-0.json").read_text())
    assert received["argv"][-1] == sealed.sha256 == folder.spec_sha256()
    assert json.loads(received["env"]["GALLEY_LAYOUT"])["accumulation"] == 2
    assert folder.read_attempt_spec(1).layout.world_size == 1
    assert not (folder.root / "received-1.json").exists()


def test_secrets_reach_the_ranks_and_no_file(weird_tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "do-not-write-me")
    folder = make_run(weird_tmp_path / "run", "record", ranks=1)
    assert run_launch(folder).rc == 0
    received = folder.root / "received-0.json"
    assert json.loads(received.read_text())["env"]["WANDB_API_KEY"] == "do-not-write-me"
    received.unlink()
    written = [path for path in folder.root.rglob("*") if path.is_file()]
    assert folder.plan / "launch.json" in written
    assert not [path for path in written if b"do-not-write-me" in path.read_bytes()]
