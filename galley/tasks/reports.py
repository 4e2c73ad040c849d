"""Metrics that a task of the user's own declares: its class attribute `reports`, read from the file."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from galley.errors import Problem, valid_values
from galley.metrics import DIRECTIONS, Metric
from galley.schema import Recipe


def own_metrics(reports: Mapping[str, Any]) -> dict[str, Metric]:
    """`{"cer": "min"}` of a task of the user's own as metrics; a word that is no direction declares none.

    Its loss may have any sign: it has a direction, and no range.
    """
    found = {
        f"eval/{str(name).removeprefix('eval/')}": Metric(DIRECTIONS[way])
        for name, way in reports.items()
        if isinstance(way, str) and way in DIRECTIONS
    }
    return {"eval/loss": Metric("minimize"), **found}


def reports_problems(recipe: Recipe) -> Iterator[Problem]:
    """Words in `reports` of a task of the user's own that are no directions."""
    kind = recipe.task.kind
    for name, way in declared_reports(kind, [Path(folder) for folder in recipe.plugins]).items():
        if not (isinstance(way, str) and way in DIRECTIONS):
            what = f"reports of '{kind}' has {way!r} for '{name}', which is not a direction"
            yield Problem("task.kind", what, valid_values(str(way), ("max", "min")))


def declared_reports(kind: str, folders: list[Path]) -> dict[str, Any]:
    """The class attribute `reports` of `MODULE:CLASS`, read from its file, which is not executed.

    Empty if the class has none, or one that is not a literal. A base class in the same file counts.
    """
    module, _, name = kind.partition(":")
    for folder in folders:
        for end in (".py", "/__init__.py"):
            file = folder.expanduser() / f"{module.replace('.', '/')}{end}"
            if file.is_file():
                return _reports_of(name, file)
    return {}


def _reports_of(name: str, file: Path) -> dict[str, Any]:
    try:
        body = ast.parse(file.read_bytes()).body
    except (SyntaxError, ValueError):  # the worker says so, with its line
        return {}
    classes = {node.name: node for node in body if isinstance(node, ast.ClassDef)}
    for node in _with_bases(name, classes):
        for statement in node.body:
            if _assigns(statement, "reports"):
                return _literal(getattr(statement, "value", None))
    return {}


def _with_bases(name: str, classes: dict[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    node = classes.pop(name, None)  # once: a file may hold a class that names itself as its base
    if node is not None:
        yield node
        for base in node.bases:
            yield from _with_bases(base.id if isinstance(base, ast.Name) else "", classes)


def _assigns(statement: ast.stmt, name: str) -> bool:
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def _literal(value: ast.expr | None) -> dict[str, Any]:
    try:
        found = ast.literal_eval(value) if value is not None else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
