"""The site profiles that are there to be copied: each is a whole request."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.main import main
from tests.support import REPO

PROFILES = sorted(file.stem for file in (REPO / "conf" / "cluster").glob("slurm_*.yaml"))


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_says_all_that_slurm_is_asked(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["launcher=slurm", f"cluster={name}", "cluster.nodes=2", "batch.global_size=64", "precision=fp32"]
    assert main(["plan", *words, "--json"]) == 0
    plan: dict[str, Any] = json.loads(capsys.readouterr().out)
    script = plan["files"]["job.sh"]
    for option in ("partition", "nodes", "cpus-per-task", "time"):
        assert f"#SBATCH --{option}=" in script
    assert plan["warnings"] == []
    assert plan["layout"]["device"] == ("cuda" if name.endswith("gpu") else "cpu")


def test_a_profile_leaves_the_launcher_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"cluster={PROFILES[0]}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["launcher"] == "local"
