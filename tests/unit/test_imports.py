"""Imports run one way, and planning is light: read from the source, and from real processes."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from galley.registry import LAUNCHERS
from tests.support import REPO, run_process

HEAVY = {
    "torch", "transformers", "accelerate", "deepspeed", "datasets", "pyarrow", "pandas", "optuna", "ray",
    "kubernetes", "wandb", "matplotlib", "mpi4py",
}  # fmt: skip
OURS = ("cli", "galley", "trainer", "launchers", "hpo")
MAY_IMPORT = {
    "cli": {"cli", "galley", "trainer", "launchers", "hpo"},
    "galley": {"galley"},
    "trainer": {"galley", "trainer"},
    "launchers": {"galley", "launchers"},
    "hpo": {"galley", "hpo", "launchers"},
}
FLOORS = (
    (
        "galley",
        "galley.__main__",
        "galley.counting",
        "galley.errors",
        "galley.json_numbers",
        "galley.paths",
        "galley.plugins",
        "galley.quoting",
        "galley.registry",
        "galley.urls",
    ),
    ("galley.schema",),
    ("galley.spec", "galley.rundir", "galley.metrics"),
    ("galley.system",),
    ("galley.data", "galley.model"),
    ("galley.tasks",),
    ("galley.strategy",),
    ("galley.trackers",),
    ("galley.config", "galley.interop"),
    ("galley.run",),
    ("galley.report",),
)
"""The rooms of `galley` from the ground: a module imports from its own floor or from one below."""
ENGINES = {"torch", "transformers", "accelerate", "deepspeed", "datasets"}
MAX_MODULES = 18
STARTERS = {"os.system", "os.popen", "os.spawnv", "os.spawnvp", "os.posix_spawn"}
PICKLES = {"pickle", "cloudpickle", "dill", "shelve", "marshal"}
MAY_START_PROCESSES = {"galley/system/proc.py"}


def sources() -> list[Path]:
    return [file for package in OURS for file in sorted((REPO / package).rglob("*.py"))]


@cache
def nodes(file: Path) -> tuple[ast.AST, ...]:
    """Everything in a source file."""
    return tuple(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))


def relative(file: Path) -> str:
    return file.relative_to(REPO).as_posix()


def imported(nodes: Iterable[ast.AST]) -> set[str]:
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


def arrows(file: Path) -> Iterator[str]:
    """Imports of a source file that run against the order of the packages."""
    package = file.relative_to(REPO).parts[0]
    anywhere = top(imported(nodes(file)))
    yield from (anywhere & set(OURS)) - MAY_IMPORT[package]
    if package == "cli":  # the others are loaded when a verb uses them
        at_import = top(imported(outside_functions(nodes(file)[0])))
        yield from (at_import & set(OURS)) - {"cli", "galley"}
    if package != "trainer":  # it alone imports the engines
        yield from anywhere & ENGINES


def offenders(rule: Callable[[Path], Iterable[object]], files: Iterable[Path]) -> dict[str, list[str]]:
    """What breaks a rule, by file."""
    found = {relative(file): sorted(map(str, rule(file))) for file in files}
    return {name: broken for name, broken in found.items() if broken}


def test_imports_run_one_way() -> None:
    assert offenders(arrows, sources()) == {}


def floor(module: str) -> int:
    """Of a room, or of a module beside the rooms."""
    room = ".".join(module.split(".")[:2])
    return next((height for height, rooms in enumerate(FLOORS) if room in rooms), -1)


def upwards(file: Path) -> Iterator[str]:
    here = floor(".".join(file.relative_to(REPO).with_suffix("").parts).removesuffix(".__init__"))
    names = {name for name in imported(nodes(file)) if name.startswith("galley")}
    yield from (name for name in names if floor(name) > here)


def test_no_room_of_galley_imports_from_a_higher_floor() -> None:
    assert offenders(upwards, sorted((REPO / "galley").rglob("*.py"))) == {}


def rooms(folder: Path) -> list[Path]:
    return [folder, *(path for path in folder.rglob("*") if any(path.glob("*.py")))]


def test_no_package_has_more_modules_than_a_reader_keeps_in_mind() -> None:
    sizes = {folder: len(list(folder.glob("*.py"))) for name in OURS for folder in rooms(REPO / name)}
    assert {relative(folder): size for folder, size in sizes.items() if size > MAX_MODULES} == {}


def starts(file: Path) -> Iterator[str]:
    """Processes and shells that are started past `galley.system.proc`."""
    if relative(file) not in MAY_START_PROCESSES:
        yield from {"subprocess"} & imported(nodes(file))
    calls = [node for node in nodes(file) if isinstance(node, ast.Call)]
    yield from {ast.unparse(call.func) for call in calls} & STARTERS
    yield from (ast.unparse(call) for call in calls for word in call.keywords if word.arg == "shell")


def test_one_module_starts_processes_and_none_a_shell() -> None:
    assert offenders(starts, sources()) == {}


def lost_modules(file: Path) -> Iterator[str]:
    """Modules that are named in text, to be started or loaded later, and that are not there."""
    texts = [node.value for node in nodes(file) if isinstance(node, ast.Constant)]
    words = [text for text in texts if isinstance(text, str)]
    started = {word for text in words for word in re.findall(r"python (?:-P )?-m ([\w.]+)", text)}
    for node in (node for node in nodes(file) if isinstance(node, ast.Tuple | ast.List)):
        values = [one.value if isinstance(one, ast.Constant) else None for one in node.elts]
        started |= {str(word) for flag, word in pairwise(values) if flag == "-m"}
    loaded = {word.partition(":")[0] for word in words if re.fullmatch(r"[a-z][\w.]*\.\w+:\w+", word)}
    for name in started | loaded:
        path = REPO / Path(*name.split("."))
        if name.split(".")[0] in OURS and not path.with_suffix(".py").exists() and not path.is_dir():
            yield name


def test_modules_that_are_named_in_text_exist() -> None:
    assert offenders(lost_modules, sources()) == {}


def test_one_module_locks() -> None:
    files = [file for file in sources() if relative(file) != "galley/system/locks.py"]
    assert offenders(lambda file: {"fcntl"} & imported(nodes(file)), files) == {}


def unpickles(file: Path) -> Iterator[str]:
    yield from top(imported(nodes(file))) & PICKLES
    calls = (node for node in nodes(file) if isinstance(node, ast.Call))
    for call in (call for call in calls if ast.unparse(call.func) == "torch.load"):
        if {word.arg: ast.unparse(word.value) for word in call.keywords}.get("weights_only") != "True":
            yield ast.unparse(call)


def test_nothing_is_unpickled() -> None:
    assert offenders(unpickles, sources()) == {}


def is_catch_all(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    last = node.body[-1]
    caught = ast.unparse(node.type) if node.type else "BaseException"
    return caught in {"Exception", "BaseException"} and not (isinstance(last, ast.Raise) and last.exc is None)


def unnamed_catch_alls(file: Path) -> set[ast.AST]:
    """Those whose function names no process boundary, in its docstring or a comment."""
    handlers = {node for node in nodes(file) if is_catch_all(node)}
    if not handlers:
        return handlers
    text = file.read_text(encoding="utf-8")
    for function in nodes(file):
        held = handlers.intersection(ast.walk(function)) if isinstance(function, ast.FunctionDef) else ()
        if held and "process boundary" in str(ast.get_source_segment(text, function)):
            handlers -= held
    return handlers


def test_every_catch_all_names_its_process_boundary() -> None:
    assert offenders(lambda file: map(ast.unparse, unnamed_catch_alls(file)), sources()) == {}


LIGHT_COMMANDS = [
    ["--help"],
    ["plan"],
    ["plan", "recipe=mrpc_deberta", "strategy=zero2", "profile=small", "--json"],
    ["recipes"],
    ["recipes", "validate"],
    ["explain", "optim.lr"],
    ["list"],
]


@pytest.mark.slow
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


OF_A_LAUNCHER = ("launcher.kind", "handle.launcher")


def of_one_launcher(file: Path) -> Iterator[str]:
    """Launchers that are told apart by name, or imported, outside `launchers`."""
    names = {*LAUNCHERS.built_in, *LAUNCHERS.hidden}
    for node in nodes(file):
        if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith(
            ("launcher.kind", "handle.launcher")
        ):
            named = {leaf.value for leaf in ast.walk(node) if isinstance(leaf, ast.Constant)}
            yield from (ast.unparse(node) for _ in named & names)
    folders = tuple(f"launchers.{name}" for name in names)
    yield from (name for name in imported(nodes(file)) if name.startswith(folders))


def test_nobody_but_the_launchers_tells_them_apart() -> None:
    """Rules that hold for one launcher only are rows of `galley.schema.launcher_traits`, or capabilities."""
    outside = [file for file in sources() if not relative(file).startswith("launchers/")]
    assert offenders(of_one_launcher, outside) == {}
    lifecycle = sorted((REPO / "launchers" / "lifecycle").glob("*.py"))
    assert offenders(of_one_launcher, lifecycle) == {}
