"""`parity`: one recipe under several strategies, compared step by step."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from cli.options import Options
from cli.prepare import NodeFacts, refuse_missing_packages
from galley.config.compose import compose_recipe
from galley.config.keys import is_known
from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError, Problem, RunCancelledError, RunFailedError, nearest, valid_values
from galley.paths import CONF
from galley.report.parity import Evidence, compare
from galley.report.parity_report import Measured, as_json, draw_parity, show_table
from galley.report.weights import compare_weights, model_files, weights_format
from galley.run.seal import seal, write_snapshot
from galley.rundir import RunFolder, write_atomic
from galley.schema import Checkpoint, Eval, Recipe
from galley.spec import ClusterFacts, RunResult, RunSpec
from galley.strategy.auto import AUTO
from galley.strategy.layout import layout_problems, resolve_layout

if TYPE_CHECKING:
    from launchers.base import Prepared

DEFAULT_STRATEGIES, DEFAULT_STEPS, REFERENCE = "ddp,zero2,fsdp", 20, "single"
WORDS = {"strategies": DEFAULT_STRATEGIES, "steps": str(DEFAULT_STEPS), "reference": REFERENCE}
DECIDED = {
    "strategy": "strategies= says which strategies",
    "train.max_steps": "steps= says how many",
    "detach": "parity waits for its runs",
    "model.dropout": "it is 0: every rank draws masks of its own",
}
"""Overrides that parity decides itself -> what to write instead."""


@dataclass(frozen=True)
class Request:
    """The words of one command; `strategies` begins with the reference."""

    strategies: tuple[str, ...]
    steps: int
    overrides: tuple[str, ...]


def parity(words: Sequence[str], options: Options) -> int:
    """Run the recipe under the reference and each strategy, one after another, and compare them.

    Exit code 0 when every deviation is within the tolerance, 4 when one is not or a run failed.
    Everything that is wrong with the request is reported before anything starts.
    """
    request = read_request(words, options)
    folder, planned = plan_runs(request, options)
    refuse_missing_packages(planned[0].spec.recipe)
    stream = sys.stderr if options.json else sys.stdout
    reference = _run(planned[0], stream)
    if reference.evidence.failure:
        raise RunFailedError(f"the reference failed, nothing was compared: {reference.evidence.failure}")
    runs = [reference, *(_compare(reference, _run(run, stream)) for run in planned[1:])]
    report = as_json(runs, request.steps)
    write_atomic(folder / "parity.json", json.dumps(report, indent=2) + "\n")
    picture = draw_parity(folder / "parity.png", runs, f"parity of {planned[0].spec.recipe.recipe}")
    show_table(runs, request.steps, stream)
    print(picture, folder / "parity.json", sep="\n", file=stream)
    if options.json:
        print(json.dumps({"run_dir": str(folder), **report}))
    return 0 if report["within"] else 4


def read_request(words: Sequence[str], options: Options) -> Request:
    """Raises `ConfigError` with every mistake: in the words of the verb, and in the overrides."""
    given, overrides, problems = dict(WORDS), list[str](), list[Problem]()
    for word in words:
        name, separator, value = word.partition("=")
        if separator and name in WORDS:
            given[name] = value
        elif separator and name in DECIDED:
            problems.append(Problem(word, "is decided by `parity`", DECIDED[name]))
        elif name != "recipe" and not is_known(name) and nearest(name, WORDS):
            problems.append(Problem(word, "is not a word of `parity`", valid_values(name, WORDS)))
        else:
            overrides.append(word)
    names = [name for name in given["strategies"].split(",") if name]
    problems += _wrong_strategies([given["reference"], *names]) + _wrong_steps(given["steps"])
    if not names:
        problems.append(Problem("strategies=", "names no strategy", f"for example {DEFAULT_STRATEGIES}"))
    if problems:
        raise ConfigError([*problems, *_problems_of(overrides, options)])
    chosen = dict.fromkeys([given["reference"], *names])
    return Request(tuple(chosen), int(given["steps"]), tuple(overrides))


def _problems_of(overrides: Sequence[str], options: Options) -> Sequence[Problem]:
    try:
        compose_recipe(overrides, options.config_dirs)
    except ConfigError as error:
        return error.problems
    return ()


def _wrong_strategies(names: Sequence[str]) -> list[Problem]:
    known = sorted(file.stem for file in (CONF / "strategy").glob("*.yaml") if file.stem != AUTO)
    unknown = dict.fromkeys(name for name in names if name not in known)
    return [Problem(name, "is not a strategy", valid_values(name, known)) for name in unknown]


def _wrong_steps(text: str) -> list[Problem]:
    if text.isdigit() and int(text) > 0:
        return []
    return [Problem(f"steps={text}", "is not a number of optimizer steps", "valid: whole numbers from 1")]


def plan_runs(request: Request, options: Options) -> tuple[Path, list[Prepared]]:
    """The folder, and a run for each strategy, which differ in nothing but the strategy.

    Raises `ConfigError` with the problems of all of them. Writes nothing.
    """
    from launchers.lifecycle.prepare import prepare

    recipes, nodes = _recipes(request, options), NodeFacts(options)
    facts = {name: nodes.of(recipe) for name, recipe in recipes.items()}
    recipes = _same_batch(recipes, facts)
    problems = [p for name, recipe in recipes.items() for p in _problems(recipe, facts[name])]
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    specs = {name: seal(recipe, resolve_layout(recipe, facts[name])) for name, recipe in recipes.items()}
    reference = specs[request.strategies[0]]
    folder = _folder(recipes[request.strategies[0]].run_dir, reference, options)
    return folder, [prepare(spec, RunFolder(folder / name), facts[name]) for name, spec in specs.items()]


def _recipes(request: Request, options: Options) -> dict[str, Recipe]:
    """The recipe as it is under the reference, with each strategy's own section.

    A recipe may have other values under another strategy (a larger batch); those are left out.
    """
    composed = {
        name: compose_recipe([*request.overrides, *_choice(name)], options.config_dirs)
        for name in request.strategies
    }
    base = composed[request.strategies[0]]
    fixed = replace(
        base,
        # Masks are drawn by every rank for itself: no two layouts have the same ones.
        model=replace(base.model, dropout=0.0),
        train=replace(base.train, max_steps=request.steps, epochs=float(request.steps), log_every_steps=1),
        eval=Eval(enabled=False),
        checkpoint=Checkpoint(),
        detach=False,
    )
    return {
        name: replace(fixed, strategy=recipe.strategy, cluster=recipe.cluster)
        for name, recipe in composed.items()
    }


def _choice(name: str) -> list[str]:
    """One process has no place for the ranks that the other strategies are given."""
    alone = ["cluster.nodes=1", "cluster.procs_per_node=1"]
    return [f"strategy={name}", *(alone if name == "single" else [])]


def _same_batch(recipes: dict[str, Recipe], facts: dict[str, ClusterFacts]) -> dict[str, Recipe]:
    """One global batch for all; a micro-batch that is given stays, accumulation follows from it."""
    name, recipe = max(recipes.items(), key=lambda pair: pair[1].strategy.data_parallel)
    batch = recipe.batch
    if batch.global_size is None and not layout_problems(recipe, facts[name]):
        batch = replace(batch, global_size=resolve_layout(recipe, facts[name]).global_size)
    if batch.global_size and batch.micro_size:
        batch = replace(batch, accumulation=None)
    return {name: replace(recipe, batch=batch) for name, recipe in recipes.items()}


def _problems(recipe: Recipe, facts: ClusterFacts) -> list[Problem]:
    found = recipe_problems(recipe) or layout_problems(recipe, facts)
    return [replace(problem, where=f"{recipe.strategy.name}: {problem.where}") for problem in found]


def _folder(run_dir: str | None, reference: RunSpec, options: Options) -> Path:
    if run_dir is None:
        name, number = f"parity-{reference.recipe.recipe}-{reference.sha256[:8]}", 1
        folder = options.root.resolve() / name
        while folder.exists():
            number += 1
            folder = options.root.resolve() / f"{name}-{number}"
        return folder
    folder = Path(run_dir).expanduser().resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(Problem(f"run_dir={run_dir}", "exists and is not empty", "choose another run_dir"))
    return folder


def _run(planned: Prepared, stream: IO[str]) -> Measured:
    """Raises `RunCancelledError` where somebody ended it: there is nothing left to compare."""
    from launchers.lifecycle.launch import supervise

    write_snapshot(planned.spec.recipe, planned.folder)
    planned.folder.write_spec(planned.spec)
    result = supervise(planned, stream)
    if result.state == "cancelled":
        raise RunCancelledError(f"{planned.folder.root}: {result.message}")
    evidence = read_evidence(planned.spec, planned.folder, result)
    return Measured(evidence, result, planned.folder.root)


def read_evidence(spec: RunSpec, folder: RunFolder, result: RunResult) -> Evidence:
    """What the run left in its folder."""
    # A loss is null where the samples of a step had no token to measure.
    rows = [row for row in folder.read_metrics() if row.get("loss") is not None]
    succeeded = result.state == "succeeded"
    return Evidence(
        strategy=spec.recipe.strategy.name,
        compute=spec.recipe.precision.dtype,
        reduce=spec.recipe.precision.reduce,
        world_size=spec.layout.world_size,
        accumulation=spec.layout.accumulation,
        losses=tuple(row["loss"] for row in rows),
        grad_norms=tuple(row["grad_norm"] for row in rows),
        tokens=tuple(_tokens_a_sample(row) for row in rows),
        weights_format=weights_format(model_files(folder.model)) if succeeded else None,
        failure="" if succeeded else result.message or result.state,
    )


def _tokens_a_sample(row: dict[str, Any]) -> float:
    return float(row["tokens_per_s"] / row["samples_per_s"]) if row["samples_per_s"] else 0.0


def _compare(reference: Measured, run: Measured) -> Measured:
    weights = None
    if not run.evidence.failure:
        weights = compare_weights(*(model_files(RunFolder(r.run_dir).model) for r in (reference, run)))
    return replace(run, comparison=compare(reference.evidence, run.evidence, weights))
