"""Half precision on CPUs: what the kernel and a measurement say, and what follows for `precision`."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from galley.config.compose import compose_recipe
from galley.errors import SubmissionError
from galley.paths import RECIPES
from galley.schema import Dtype, Recipe
from galley.spec import ClusterFacts
from galley.strategy.layout import layout_warnings, resolve_layout
from galley.system import half_precision
from galley.system.half_precision import cost_text, half_cost, read_cpu, with_cost
from tests.support import make_recipe
from trainer.engines import half_precision as ranks_halves
from trainer.engines.half_precision import measure

HERE = ClusterFacts(hostname="h", gpus=0, gpu_memory_gib=0, physical_cores=4, memory_gib=16)
SAPPHIRE_RAPIDS = """\
processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
flags\t\t: fpu sse2 avx2 avx512f avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8

processor\t: 1
flags\t\t: other
"""
EPYC_ROME = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 f16c\nbugs\t\t: sysret\n"
GRAVITON_3 = (
    "processor\t: 0\nFeatures\t: fp asimd asimdhp svebf16 i8mm bf16\n"
    "CPU implementer\t: 0x41\nCPU part\t: 0xd40\n"
)


@pytest.mark.parametrize(
    ("text", "model", "instructions"),
    [
        (
            SAPPHIRE_RAPIDS,
            "Intel(R) Xeon(R) Platinum 8488C",
            ("amx_bf16", "avx512_bf16", "avx512_fp16"),
        ),
        (EPYC_ROME, "AMD EPYC", ()),
        (GRAVITON_3, "CPU implementer 0x41 CPU part 0xd40", ("svebf16", "bf16", "asimdhp")),
        ("", "", ()),
    ],
)
def test_the_instructions_are_those_that_the_kernel_names(
    text: str, model: str, instructions: tuple[str, ...]
) -> None:
    assert (read_cpu(text).model, read_cpu(text).instructions) == (model, instructions)


def recipe_in(compute: str, device: str = "auto") -> Recipe:
    return make_recipe(batch={"global_size": 32}, precision={"compute": compute}, cluster={"device": device})


@pytest.mark.parametrize(
    ("instructions", "cost", "taken"),
    [
        (("amx_bf16",), {"bf16": 0.4, "fp16": 9.0}, "bf16"),
        (("amx_bf16",), {"bf16": 0.95, "fp16": 0.5}, "fp32"),  # within the noise
        (("amx_bf16",), {"bf16": 3.0}, "fp32"),  # a torch that does not use them
        (("amx_bf16",), {}, "bf16"),  # no torch here to be measured
        (("avx512_fp16",), {"bf16": 0.5}, "fp32"),
        ((), {}, "fp32"),
    ],
)
def test_auto_takes_what_is_faster(instructions: tuple[str, ...], cost: dict[str, float], taken: str) -> None:
    facts = replace(HERE, instructions=instructions, half_cost=cost)  # type: ignore[arg-type]
    assert resolve_layout(recipe_in("auto"), facts).precision == taken
    assert resolve_layout(recipe_in("auto", "cpu"), replace(facts, gpus=2, bf16=True)).precision == taken


@pytest.mark.parametrize(
    ("compute", "facts", "said"),
    [
        (
            "bf16",
            replace(HERE, half_cost={"bf16": 55.4}),
            "bf16 takes 55 times as long as fp32 on h (measured",
        ),
        ("fp16", replace(HERE, half_cost={"fp16": 1.3}), "fp16 takes 1.3 times as long as fp32 on h"),
        ("bf16", HERE, "the CPUs of h have no instructions for bf16"),
        ("bf16", replace(HERE, declared=True), "is not known here"),
        ("bf16", replace(HERE, half_cost={"bf16": 0.4}), None),
        ("bf16", replace(HERE, instructions=("amx_bf16",)), None),
        ("auto", replace(HERE, half_cost={"bf16": 55.4}), None),
        ("fp32", replace(HERE, declared=True), None),
    ],
)
def test_the_warning_has_the_measured_factor(compute: str, facts: ClusterFacts, said: str | None) -> None:
    recipe = recipe_in(compute)
    warnings = [w for w in layout_warnings(recipe, resolve_layout(recipe, facts), facts) if compute in w]
    assert [w for w in warnings if said is None or said not in w] == []
    assert len(warnings) == (said is not None)
    assert not any("precision=bf16" in w for w in warnings if compute == "fp16"), "it is as slow"


def test_only_a_recipe_that_depends_on_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_precision, "half_cost", lambda: {"bf16": 7.0})
    amx = replace(HERE, instructions=("amx_bf16",))
    for recipe, facts, measured in (
        (recipe_in("bf16"), HERE, True),
        (recipe_in("auto"), amx, True),
        (recipe_in("auto"), HERE, False),
        (recipe_in("fp32"), amx, False),
        (recipe_in("fp16"), replace(HERE, gpus=1), False),
        (recipe_in("fp16", "cpu"), replace(HERE, gpus=1), True),
    ):
        assert bool(with_cost(facts, recipe).half_cost) == measured


def test_a_kind_of_cpu_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Sequence[str]] = []

    def answer(argv: Sequence[str], **_: object) -> str:
        asked.append(argv)
        return 'a warning of torch\n{"bf16": 12.5, "fp16": 13}\n'

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(half_precision.proc, "run", answer)
    for _ in range(2):
        half_cost.cache_clear()
        assert half_cost() == {"bf16": 12.5, "fp16": 13}
    assert len(asked) == 1
    (kept,) = tmp_path.rglob("*.json")
    kept.write_text("{")
    half_cost.cache_clear()
    assert half_cost() == {"bf16": 12.5, "fp16": 13}
    assert json.loads(kept.read_text()) == {"bf16": 12.5, "fp16": 13}
    half_cost.cache_clear()


def test_without_torch_nothing_is_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object, **__: object) -> str:
        raise SubmissionError("No module named 'torch'")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(half_precision.proc, "run", fail)
    assert half_precision.measure_here() == {}
    assert not list(tmp_path.rglob("*.json"))


def test_the_measurement_agrees_with_torch_and_takes_a_moment() -> None:
    """Against one large product of the kind that is slowest, timed by torch itself."""
    from torch.utils.benchmark import Timer

    random, begin = torch.get_rng_state(), time.perf_counter()
    cost = measure("bf16")
    took = time.perf_counter() - begin
    assert torch.equal(torch.get_rng_state(), random), "the run's random numbers stay"
    a, b = torch.rand(64, 256), torch.rand(256, 256)
    times = {
        dtype: Timer("torch.mm(a, b)", globals={"a": a.to(dtype), "b": b.to(dtype)}).timeit(3).mean
        for dtype in (torch.float32, torch.bfloat16)
    }
    slower = times[torch.bfloat16] / times[torch.float32]
    if half_precision.has_instructions("bf16", half_precision.this_cpu().instructions):
        assert cost < 4
    else:
        assert min(cost, slower) > 2
        assert took < 1


@pytest.mark.parametrize(
    ("precision", "cost", "said"),
    [
        ("bf16", 22.0, "bf16 takes 22 times as long as fp32 on node7: precision=fp32 is faster there"),
        ("bf16", 0.4, None),
        ("fp32", 22.0, None),
    ],
)
def test_a_rank_tells_what_its_own_node_measures(
    precision: Dtype,
    cost: float,
    said: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ranks_halves, "measure", lambda _: cost)
    ranks_halves.warn_if_emulated(precision, "cpu", "node7")
    ranks_halves.warn_if_emulated(precision, "cuda", "node7")
    assert caplog.messages == ([said] if said else [])


def test_costs_are_told_in_words() -> None:
    assert cost_text("bf16", 55.4) == "bf16 takes 55 times as long as fp32"
    assert cost_text("fp16", 1.31) == "fp16 takes 1.3 times as long as fp32"
    assert cost_text("bf16", 0.4) == "bf16 takes 40% of the time of fp32"


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*/small.yaml")), ids=lambda file: file.parent.name)
def test_no_small_profile_names_half_precision(file: Path) -> None:
    recipe = compose_recipe([f"recipe={file.parent.name}", "profile=small"])
    assert recipe.precision.compute in ("auto", "fp32")
