"""`diff RUN_A RUN_B`, `compare RUN_A RUN_B` and `verify RUN`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cli.options import Options
from galley.counting import counted
from galley.errors import ConfigError, Problem
from galley.json_numbers import standard
from galley.report.comparison import Finished, Row, compared, efficiency, incomparable
from galley.run.verify import find_drift
from galley.rundir import RunFolder


def diff(words: Sequence[str], options: Options) -> int:
    """Print every key of the two sealed runs that differs."""
    folders = _two_runs("diff", words, options)
    first, second = (flatten(asdict(folder.read_spec())) for folder in folders)
    changed = {key: (first.get(key), second.get(key)) for key in sorted({*first, *second})}
    changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
    if options.json:
        print(json.dumps(changed))
        return 0
    for key, (before, after) in changed.items():
        print(f"{key}: {json.dumps(before)} -> {json.dumps(after)}")
    if not changed:
        print("the runs are the same")
    return 0


def compare(words: Sequence[str], options: Options) -> int:
    """Print what RUN_B is to RUN_A. Raises `ConfigError` for runs that have not succeeded, or differ in what
    they learn."""
    first, second = (_finished(folder) for folder in _two_runs("compare", words, options))
    if problems := incomparable(first, second):
        raise ConfigError(problems)
    rows, scaling = compared(first, second), efficiency(first, second)
    if options.json:
        names = {"run_a": first.name, "run_b": second.name}
        print(json.dumps(standard({**names, "efficiency": scaling, "rows": [asdict(row) for row in rows]})))
        return 0
    print("\n".join(comparison_lines(first, second, rows, scaling)))
    return 0


def comparison_lines(first: Finished, second: Finished, rows: list[Row], scaling: float | None) -> list[str]:
    """A table: a line for each figure, the second run's as a multiple of the first's."""
    width = max(len(row.name) for row in rows) if rows else 0
    marks = {True: "better", False: "worse", None: ""}
    lines = [f"A  {_carried(first)}", f"B  {_carried(second)}", ""]
    lines.append(f"{'':<{width}}  {'A':>12}  {'B':>12}  {'B ÷ A':>8}")
    for row in rows:
        ratio = "–" if row.ratio is None else f"{row.ratio:.3f}"
        figures = f"{row.first:>12.5g}  {row.second:>12.5g}  {ratio:>8}"
        lines.append(f"{row.name:<{width}}  {figures}  {marks[row.better]}".rstrip())
    if scaling is not None:
        ranks = f"{second.result.world_size} ranks next to {first.result.world_size}"
        lines += ["", f"scaling efficiency {scaling:.1%} ({ranks})"]
    return lines


def _carried(run: Finished) -> str:
    ranks = counted(run.result.world_size, "rank")
    engaged = run.result.engaged
    carried = f"{engaged.strategy} in {engaged.precision}" if engaged else run.spec.recipe.strategy.name
    return f"{run.name}: {carried}, {ranks}, {run.result.steps} steps"


def _finished(folder: RunFolder) -> Finished:
    result = folder.read_result()
    if result is None or result.state != "succeeded":
        what = "has not ended" if result is None else f"ended as {result.state}"
        raise ConfigError(Problem(str(folder.root), what, "only runs that have succeeded are compared"))
    return Finished(folder.root.name, folder.read_spec(), result, folder.read_data())


def _two_runs(verb: str, words: Sequence[str], options: Options) -> list[RunFolder]:
    from launchers.lifecycle.queries import find_run

    if len(words) != 2:
        raise ConfigError(Problem(verb, "takes two runs", f"{verb} RUN_A RUN_B (see `list`)"))
    return [find_run(word, options.root) for word in words]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [flatten(child, f"{prefix}.{name}" if prefix else name) for name, child in value.items()]
    return {key: leaf for part in parts for key, leaf in part.items()}


def verify(words: Sequence[str], options: Options) -> int:
    """Say what is no longer as it was when the run was sealed. Exit code 4 when something drifted."""
    from launchers.lifecycle.queries import find_run

    if len(words) != 1:
        raise ConfigError(Problem("verify", "takes one run", "verify RUN (see `list`)"))
    folder = find_run(words[0], options.root)
    drift = find_drift(folder)
    if options.json:
        print(json.dumps({"drift": drift}))
    else:
        read = folder.read_data()
        data = "its data have not been read yet" if read is None else f"data {read.fingerprint[:12]}"
        print("\n".join(drift) if drift else f"no drift: code, config and packages are as sealed; {data}")
    return 4 if drift else 0
