"""Unit tests stand where the source stands: `galley/run/seal.py` is tested in `tests/unit/galley/run`.

A file is named after the module that it tests. One that tests a property of several modules has the name of
the property, and says what it is in its first line.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.support import REPO

UNIT = REPO / "tests" / "unit"
FILES = sorted(file for folder in UNIT.iterdir() if folder.is_dir() for file in folder.rglob("test_*.py"))


def module_of(file: Path) -> Path:
    """The module or package whose name the test has."""
    folder = REPO / file.parent.relative_to(UNIT)
    return folder / file.stem.removeprefix("test_")


def name(path: Path) -> str:
    return path.relative_to(UNIT).as_posix()


def names_a_module(file: Path) -> bool:
    return module_of(file).with_suffix(".py").is_file() or (module_of(file) / "__init__.py").is_file()


@pytest.mark.parametrize("folder", sorted({file.parent for file in FILES}), ids=name)
def test_a_folder_of_tests_is_a_package_of_the_program(folder: Path) -> None:
    assert (REPO / folder.relative_to(UNIT) / "__init__.py").is_file()


@pytest.mark.parametrize("file", FILES, ids=name)
def test_a_file_names_a_module_or_says_what_it_tests(file: Path) -> None:
    assert names_a_module(file) or ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))


def test_most_files_name_a_module() -> None:
    """A property that a module has belongs to the tests of the module."""
    assert len([file for file in FILES if names_a_module(file)]) >= 0.7 * len(FILES)
