"""Imports run one way, and planning is light: read from the source, and from real processes."""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import REPO, run_process

HEAVY = {
    "torch", "transformers", "accelerate", "deepspeed", "datasets", "pyarrow", "pandas", "optuna", "ray",
    "kubernetes", "wandb", "matplotlib", "mpi4py",
}  # fmt: skip
OURS = ("galley", "trainer", "launchers", "hpo")
MAY_IMPORT = {
    "galley": {"galley"},
    "trainer": {"galley", "trainer"},
    "launchers": {"galley", "launchers"},
    "hpo": {"galley", "hpo", "launchers"},
}
ENGINES = {"torch", "transformers", "accelerate", "deepspeed", "datasets"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
MAY_START_PROCESSES = {"galley/proc.py"}


def sources() -> list[Path]:
    return [file for package in OURS for file in sorted((REPO / package).rglob("*.py"))]


def relative(file: Path) -> str:
    return file.relative_to(REPO).as_posix()


def imported(nodes: Iterator[ast.AST]) -> set[str]:
    """Absolute names of the modules imported by the given nodes."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            found.add(node.module)
    return found


def outside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """Everything that runs when the module is imported; `if TYPE_CHECKING:` does not."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for child in ast.iter_child_nodes(node):
            is_typing_only = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            if not is_typing_only and not isinstance(
                child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
            ):
                waiting.append(child)


def top(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("file", sources(), ids=relative)
def test_imports_run_one_way(file: Path) -> None:
    package = file.relative_to(REPO).parts[0]
    tree = ast.parse(file.read_text())
    at_import, anywhere = top(imported(outside_functions(tree))), top(imported(ast.walk(tree)))
    assert (at_import & set(OURS)) <= MAY_IMPORT[package]
    if package != "galley":  # its verbs reach the others, when they are used
        assert (anywhere & set(OURS)) <= MAY_IMPORT[package]
    if package != "trainer":
        assert not anywhere & ENGINES, "only trainer imports the engines"


@pytest.mark.parametrize("file", sources(), ids=relative)
def test_one_module_starts_processes_and_none_a_shell(file: Path) -> None:
    tree = ast.parse(file.read_text())
    if relative(file) not in MAY_START_PROCESSES:
        assert "subprocess" not in imported(ast.walk(tree))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func) for call in calls}
    assert not names & {"os.system", "os.popen", "os.spawnv", "os.spawnvp", "os.posix_spawn"}
    assert not [call for call in calls for word in call.keywords if word.arg == "shell"]


@pytest.mark.parametrize("file", sources(), ids=relative)
def test_nothing_is_unpickled(file: Path) -> None:
    tree = ast.parse(file.read_text())
    assert not top(imported(ast.walk(tree))) & {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
    loads = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "torch.load"]
    for call in loads:
        safe = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert safe.get("weights_only") == "True"


def is_catch_all(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    last = node.body[-1]
    caught = ast.unparse(node.type) if node.type else "BaseException"
    return caught in {"Exception", "BaseException"} and not (isinstance(last, ast.Raise) and last.exc is None)


@pytest.mark.parametrize("file", sources(), ids=relative)
def test_every_catch_all_names_its_process_boundary(file: Path) -> None:
    """In the docstring or a comment of the function that holds it."""
    text = file.read_text()
    tree = ast.parse(text)
    handlers = {node for node in ast.walk(tree) if is_catch_all(node)}
    for function in ast.walk(tree):
        held = handlers.intersection(ast.walk(function)) if isinstance(function, ast.FunctionDef) else ()
        if held and "process boundary" in str(ast.get_source_segment(text, function)):
            handlers -= held
    assert not handlers


LIGHT_COMMANDS = [
    ["--help"],
    ["plan"],
    ["plan", "recipe=mrpc_deberta", "strategy=zero2", "profile=small", "--json"],
    ["recipes"],
    ["recipes", "validate"],
    ["explain", "optim.lr"],
    ["list"],
]


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS, ids=" ".join)
def test_light_commands_load_no_engine(arguments: list[str], tmp_path: Path) -> None:
    report = tmp_path / "modules.json"
    code = (
        "import atexit, json, pathlib, runpy, sys\n"
        "report = pathlib.Path(sys.argv.pop(1))\n"
        "atexit.register(lambda: report.write_text(json.dumps(sorted(sys.modules))))\n"
        "sys.argv[0] = 'train.py'\n"
        f"runpy.run_path({str(REPO / 'train.py')!r}, run_name='__main__')\n"
    )
    done = run_process([sys.executable, "-P", "-c", code, report, *arguments], cwd=tmp_path)
    assert done.rc == 0, done.err
    loaded = {name.split(".")[0] for name in json.loads(report.read_text())}
    assert "galley" in loaded
    assert not loaded & HEAVY
