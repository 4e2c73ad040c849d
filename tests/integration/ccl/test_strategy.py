"""`strategy=oneccl_cpu` through the real worker: the numbers of DDP over gloo, and what is stated."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from galley.rundir import RunFolder
from galley.schema import Strategy, Train
from tests.support import REPO, not_available
from trainer.backends.ccl.toolchain import BackendUnavailable, find_parts

sys.path.insert(0, str(REPO / "tests" / "integration" / "train"))

from tiny import largest_difference, run_ranks, tiny_recipe, tiny_spec, train, weights

STEPS = Train(epochs=1.0, log_every_steps=1)


def run(root: Path, strategy: Strategy, backend: str, **environ: str) -> RunFolder:
    spec = tiny_spec(replace(tiny_recipe(), strategy=strategy, train=STEPS), world_size=2)
    layout = replace(spec.layout, backend=backend)  # type: ignore[arg-type]
    return train(root, replace(spec, layout=layout), **environ)


def test_oneccl_trains_what_gloo_trains_and_says_who_carried_it(tmp_path: Path) -> None:
    try:
        find_parts()
    except BackendUnavailable as error:
        not_available(str(error), "training over oneCCL")
    over_ccl = run(tmp_path / "ccl", Strategy("oneccl_cpu", backend="probe", pin_cores=True), "probe")
    over_gloo = run(tmp_path / "gloo", Strategy("ddp"), "gloo")
    assert largest_difference(weights(over_ccl), weights(over_gloo)) < 1e-6
    engaged = over_ccl.read_result().engaged  # type: ignore[union-attr]
    assert engaged is not None
    assert engaged.backend == "ccl"
    assert engaged.backend_reason.startswith("ccl: oneCCL 2022.")
    assert "(oneccl_bindings_for_pytorch is not installed)" in engaged.backend_reason
    plain = over_gloo.read_result().engaged  # type: ignore[union-attr]
    assert plain is not None
    assert (plain.backend, plain.backend_reason) == ("gloo", "")


def test_without_oneccl_the_probe_ends_at_gloo_and_a_named_ccl_fails(tmp_path: Path) -> None:
    without = {"CXX": "no-such-compiler"}
    folder = run(tmp_path / "probe", Strategy("oneccl_cpu", backend="probe"), "probe", **without)
    engaged = folder.read_result().engaged  # type: ignore[union-attr]
    assert engaged is not None
    assert engaged.backend == "gloo"
    assert "oneCCL no C++ compiler" in engaged.backend_reason
    assert "MPI torch was built without it" in engaged.backend_reason

    spec = tiny_spec(replace(tiny_recipe(), strategy=Strategy(backend="ccl"), train=STEPS), world_size=2)
    spec = replace(spec, layout=replace(spec.layout, backend="ccl"))
    assert set(run_ranks(tmp_path / "ccl", spec, **without)) == {2}
    log = (tmp_path / "ccl" / "logs" / "attempt-1" / "rank-0.log").read_text()
    assert "strategy.backend=ccl: oneccl_bindings_for_pytorch is not installed; oneCCL no C++" in log
