"""What surrounds the program: workflows, hooks, forms and notes agree with it and with each other."""

from __future__ import annotations

import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

import galley
from tests.support import REPO, run_process

GITHUB = REPO / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(form for form in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if form.name != "config.yml")
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())

# What GitHub demands of the elements of an issue form, and which of their attributes it knows.
# https://docs.github.com/communities/using-templates-to-encourage-useful-issues-and-pull-requests
ELEMENTS = {
    "markdown": ({"value"}, {"value"}),
    "textarea": ({"label"}, {"label", "description", "placeholder", "value", "render"}),
    "input": ({"label"}, {"label", "description", "placeholder", "value"}),
    "dropdown": ({"label", "options"}, {"label", "description", "multiple", "options", "default"}),
    "checkboxes": ({"label", "options"}, {"label", "description", "options"}),
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def jobs(workflow: Path) -> Iterator[dict[str, Any]]:
    yield from read(workflow)["jobs"].values()


def steps(workflow: Path) -> Iterator[dict[str, Any]]:
    for job in jobs(workflow):
        yield from job["steps"]


def made(workflow: Path) -> set[str]:
    """Targets of the Makefile that the workflow runs."""
    commands = [line for step in steps(workflow) for line in step.get("run", "").splitlines()]
    words = [command.split()[1:] for command in commands if command.split()[:1] == ["make"]]
    return {word for word in itertools.chain(*words) if "=" not in word}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_targets_that_exist(workflow: Path) -> None:
    assert made(workflow)
    assert made(workflow) <= targets()


def test_workflows_run_what_a_change_needs_and_the_whole_suite() -> None:
    assert {"setup", "lint", "unit"} <= made(GITHUB / "workflows" / "check.yml")
    assert {"system", "setup", "test"} <= made(GITHUB / "workflows" / "nightly.yml")


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_may_only_read_and_ends(workflow: Path) -> None:
    assert read(workflow)["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] for job in jobs(workflow))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_commit_and_say_their_version(workflow: Path) -> None:
    used = re.findall(r"^ +- uses: (.*)$", workflow.read_text(), flags=re.MULTILINE)
    assert used
    for action in used:
        assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


def test_the_checked_versions_of_python_are_those_that_the_project_names() -> None:
    (job,) = jobs(GITHUB / "workflows" / "check.yml")
    checked = job["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: "
    named = [line.removeprefix(prefix) for line in PROJECT["project"]["classifiers"] if prefix in line]
    assert checked == [version for version in named if "." in version]
    allowed = SpecifierSet(PROJECT["project"]["requires-python"])
    assert all(allowed.contains(version) for version in checked)
    first = checked[0].split(".")
    assert not allowed.contains(f"{first[0]}.{int(first[1]) - 1}")


def test_dependabot_watches_the_actions_and_the_packages() -> None:
    found = read(GITHUB / "dependabot.yml")
    assert found["version"] == 2
    for update in found["updates"]:
        assert update["schedule"]["interval"] in {"daily", "weekly", "monthly"}
        assert (REPO / update["directory"].lstrip("/")).is_dir()
    assert {"github-actions", "pip"} <= {update["package-ecosystem"] for update in found["updates"]}


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.name)
def test_an_issue_form_is_one_that_github_accepts(form: Path) -> None:
    found = read(form)
    assert found.keys() <= {"name", "description", "title", "labels", "assignees", "projects", "type", "body"}
    assert found["name"].strip()
    assert found["description"].strip()
    asked = [element for element in found["body"] if element["type"] != "markdown"]
    assert asked
    for element in found["body"]:
        demanded, known = ELEMENTS[element["type"]]
        assert element.keys() <= {"type", "id", "attributes", "validations"}
        assert demanded <= element["attributes"].keys() <= known
        assert all(isinstance(value, bool) for value in element.get("validations", {}).values())
    for name in ("id", "label"):
        values = [element["attributes"]["label"] if name == "label" else element["id"] for element in asked]
        assert len(set(values)) == len(values)
    assert all(re.fullmatch(r"[\w-]+", element["id"]) for element in asked)


def test_a_report_names_one_of_the_launchers() -> None:
    bug = read(GITHUB / "ISSUE_TEMPLATE" / "bug.yml")
    (launcher,) = (element for element in bug["body"] if element.get("id") == "launcher")
    options = {file.stem for file in (REPO / "conf" / "launcher").glob("*.yaml")}
    assert set(launcher["attributes"]["options"]) == options


def hooks() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Name of a hook -> its repository, and itself."""
    repositories = read(REPO / ".pre-commit-config.yaml")["repos"]
    return {hook["id"]: (repository, hook) for repository in repositories for hook in repository["hooks"]}


def test_the_hooks_run_the_ruff_that_is_pinned() -> None:
    pin = re.search(r"^ruff==(.+)$", (REPO / "constraints.txt").read_text(), flags=re.MULTILINE)
    assert pin is not None
    for name in ("ruff-check", "ruff-format"):
        repository, _ = hooks()[name]
        assert repository["rev"] == f"v{pin[1]}"


def test_the_type_checker_is_that_of_the_environment_and_runs_before_a_push() -> None:
    repository, hook = hooks()["mypy"]
    assert repository["repo"] == "local"
    assert hook["entry"] == ".venv/bin/mypy"
    assert hook["stages"] == ["pre-push"]
    assert hook["pass_filenames"] is False


def test_the_changelog_has_the_version_and_newer_ones_first() -> None:
    text = (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](.*)$", text, flags=re.MULTILINE)
    assert headings[0][0] == "Unreleased"
    versions = [tuple(map(int, version.split("."))) for version, _ in headings[1:]]
    assert ".".join(map(str, versions[0])) == galley.__version__
    assert versions == sorted(versions, reverse=True)
    dates = [date for _, date in headings[1:]]
    assert all(re.fullmatch(r" - (\d{4}-\d\d-\d\d|not yet released)", date) for date in dates)
    kinds = set(re.findall(r"^### (.+)$", text, flags=re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def packages() -> list[Path]:
    return [
        path.parent for path in REPO.glob("*/__init__.py") if path.parent.name not in {"tests", "benchmarks"}
    ]


def test_every_package_says_that_it_is_typed() -> None:
    assert {"cli", "galley", "trainer", "launchers", "hpo"} <= {package.name for package in packages()}
    assert all((package / "py.typed").is_file() for package in packages())


def test_editors_wrap_where_the_formatter_does() -> None:
    width = re.search(r"^max_line_length = (\d+)$", (REPO / ".editorconfig").read_text(), flags=re.MULTILINE)
    assert width is not None
    assert int(width[1]) == PROJECT["tool"]["ruff"]["line-length"]


IN_CODE = re.compile(r"`([\w./-]+/[\w.*/-]*|[\w-]+\.(?:py|md|toml|txt))`")


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"])
def test_files_that_a_page_names_exist(page: str) -> None:
    names = set(IN_CODE.findall((REPO / page).read_text(encoding="utf-8")))
    of_a_run = {"code/", "plan/", "site/"}
    missing = [name for name in names - of_a_run if "NAME" not in name and not list(REPO.glob(name))]
    assert names
    assert not missing


def test_the_ways_to_extend_galley_are_all_described() -> None:
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for kind in ("model", "task", "engine", "strategy", "launcher", "tracker", "hpo backend"):
        assert re.search(rf"^### Add an? {kind}$", text, flags=re.MULTILINE), kind


OF_ALL = ("docs/", "tests/")
MOST_FILES = {
    "model": 1,
    "task": 4,
    "strategy": 2,
    "engine": 6,
    "launcher": 5,
    "tracker": 3,
    "hpo backend": 3,
}
"""What an extension of each kind may cost, besides its tests and its documentation."""


def test_an_extension_takes_few_files() -> None:
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### Add an? ([^\n]+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    rows = {kind: re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE) for kind, table in sections}
    files = {kind: [row for row in found if not row.startswith(OF_ALL)] for kind, found in rows.items()}
    assert files.keys() == MOST_FILES.keys()
    assert {kind: found for kind, found in files.items() if not 0 < len(found) <= MOST_FILES[kind]} == {}


def test_contributing_has_every_target_that_it_is_for() -> None:
    text = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `make ([a-z-]+)` \|", text, flags=re.MULTILINE))
    assert shown == targets() - {"help", "quickstart", "system"}


def commands(*words: str) -> list[list[str]]:
    """The commands of pytest that `make WORDS` would run."""
    done = run_process(["make", "--dry-run", *words])
    assert done.rc == 0, done.err
    lines = [shlex.split(line) for line in done.out.splitlines() if " -m pytest " in line]
    return [line[line.index("pytest") + 1 :] for line in lines]


def suites() -> set[str]:
    """Every folder of tests that `make test` is to run."""
    inner = {path for path in (REPO / "tests" / "integration").iterdir() if list(path.glob("**/test_*.py"))}
    outer = {path for path in (REPO / "tests").iterdir() if list(path.glob("**/test_*.py"))}
    found = {path.relative_to(REPO).as_posix() for path in inner | outer}
    return found - {"tests/acceptance"}


def test_the_whole_suite_leaves_no_folder_out_and_runs_none_twice() -> None:
    first, second = commands("test")
    ignored = {word.removeprefix("--ignore=") for word in first if word.startswith("--ignore=")}
    assert ignored == {word for word in second if word.startswith("tests/")} <= suites()
    outer = {word for word in first if word.startswith("tests/")}
    assert outer == {suite for suite in suites() if suite.count("/") == 1}


def test_selected_tests_run_once() -> None:
    (named,) = commands("test", "PYTEST_ARGS=tests/unit -k layout")
    assert named == ["-q", "tests/unit", "-k", "layout"]
    (everywhere,) = commands("test", "PYTEST_ARGS=-k layout")
    assert everywhere[:3] == ["-q", "-k", "layout"]
    assert {"tests/unit", "tests/integration", "tests/docs"} <= set(everywhere)


def test_unit_runs_all_unit_and_contract_tests_and_torch_last() -> None:
    (words,) = commands("unit")
    paths = [word for word in words if word.startswith("tests/")]
    inner = {path for path in (REPO / "tests" / "unit").iterdir() if list(path.glob("**/test_*.py"))}
    inner |= set((REPO / "tests" / "unit").glob("test_*.py"))
    assert {f"tests/unit/{path.name}" for path in inner} | {"tests/contract"} <= set(paths)
    assert paths.index("tests/contract") < paths.index("tests/unit/trainer")


def test_pytest_alone_runs_what_needs_no_cluster() -> None:
    alone = set(PROJECT["tool"]["pytest"]["ini_options"]["testpaths"])
    needs_more = {"databases", "gpu", "hosts", "k8s", "mpi", "ray", "report", "slurm"}
    assert not [path for path in alone if not (REPO / path).exists()]
    integration = {f"tests/integration/{name}" for name in needs_more}
    assert suites() - {"tests/integration"} - alone == integration
