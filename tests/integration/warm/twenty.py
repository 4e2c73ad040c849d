"""Twenty trials of `quickstart` on two ranks, F1 and samples/s, and their front by brute force."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from galley.rundir import RunFolder
from galley.schema import Hpo
from tests.support import run_galley

TRIALS, RANKS = 20, 2
METRICS = ("eval/f1", "samples_per_s")


def sweep(study: Path, backend: str, words: Sequence[str], timeout: float) -> dict[str, Any]:
    """What `sweep --json` says of a sweep that must succeed."""
    asked = [
        f"hpo={backend}", f"hpo.trials={TRIALS}", f"cluster.procs_per_node={RANKS}", "hpo.warm=true",
        f"hpo.objectives=[{','.join(METRICS)}]", "optim.lr=tag(log, interval(1e-5, 1e-3))",
        "hpo.space.batch.global_size=[8,16,32]", "checkpoint.model=false", "checkpoint.every_steps=null",
        f"hpo.study_dir={study}",
    ]  # fmt: skip
    done = run_galley(["sweep", *asked, *words, "--json"], timeout=timeout)
    assert done.rc == 0, done.err
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    return found


def check(found: dict[str, Any]) -> None:
    """Twenty runs that trained on two ranks, with other parameters each, and the front of what they say."""
    trials = found["trials"]
    assert [(trial["number"], trial["state"]) for trial in trials] == [
        (n, "succeeded") for n in range(TRIALS)
    ]
    assert len({json.dumps(trial["params"], sort_keys=True) for trial in trials}) == TRIALS
    points = []
    for trial in trials:
        folder = RunFolder(Path(trial["run"]))
        result, spec = folder.read_result(), folder.read_spec()
        assert result is not None
        assert (result.state, result.world_size, result.attempts) == ("succeeded", RANKS, 1)
        # Only the controller draws: what both ranks read has no space, and one value for each dimension.
        assert spec.recipe.hpo == Hpo()
        assert all(folder.rank_log(1, rank).exists() for rank in range(RANKS))
        assert spec.recipe.optim.lr == trial["params"]["optim.lr"]
        assert spec.recipe.batch.global_size == trial["params"]["batch.global_size"]
        points.append((result.metrics["eval/f1"], result.samples_per_s or 0.0))
        assert tuple(trial["values"][name] for name in METRICS) == points[-1]
    beaten = [any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in points) for a in points]
    assert found["front"] == [number for number in range(TRIALS) if not beaten[number]]
    assert found["chosen"] in found["front"]
