"""What a message tells to type works when it is typed, and no message offers nothing."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from galley.config.compose import compose_recipe
from galley.config.hydra_bridge import parse_override
from galley.errors import valid_values
from galley.paths import ROOT
from tests.support import problems

FILES = [file for part in ("galley", "launchers", "hpo", "trainer") for file in (ROOT / part).rglob("*.py")]
# A list or a mapping is a pattern for the shell: [ab] is the file `a`, and braces become several words.
UNQUOTED = re.compile(r"(?<!['`\w./-])(?:[a-z_]+\.)*[a-z_]+=(?:\[(?!\^)|\{)")
FIELD = "\0"  # what stands for {…} of an f-string


def texts(file: Path) -> Iterator[str]:
    """Every text of a module's code but its docstrings, with the fields of f-strings cut out."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            said |= {id(part) for part in node.values}
            parts = (str(part.value) if isinstance(part, ast.Constant) else FIELD for part in node.values)
            yield "".join(parts)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in said:
            yield node.value


@pytest.mark.slow
def test_a_hint_with_a_list_or_a_mapping_is_quoted_for_the_shell() -> None:
    found = [f"{file.name}: {text!r}" for file in FILES for text in texts(file) if UNQUOTED.search(text)]
    assert [one for one in found if "hydra.searchpath" not in one] == []


@pytest.mark.slow
def test_none_is_never_the_only_thing_that_is_valid() -> None:
    assert [file.name for file in FILES for text in texts(file) if "valid: none" in text] == []
    assert valid_values("nix", []) == "there is none"
    assert valid_values("nothing", ["none"]) == "the one valid value is 'none'"
    assert valid_values("x", ["none", "cpu"]) == "valid: cpu, none"


@pytest.mark.parametrize(
    "words",
    [
        ["strategy=ddp", "strategy.offload_optimizer=cpu"],
        ["strategy=zero2", "strategy.offload_params=cpu"],
        ["strategy=zero2", "strategy.offload_optimizer=nvme"],
        ["strategy=ddp", "strategy.shard=grads"],
        ["strategy=ddp", "strategy.engine_options={x: 1}"],
    ],
)
def test_what_a_strategy_does_not_take_names_what_to_do(words: list[str]) -> None:
    told = "\n".join(problems(*words))
    assert "valid: none" not in told
    assert "\n    " in told
    for choice in re.findall(r"strategy=(\w+)", told.partition("\n")[2]):
        assert compose_recipe([f"strategy={choice}", "strategy.offload_nvme_path=/tmp"]).strategy


def test_the_variable_to_forward_is_a_list_that_is_read_back() -> None:
    (told,) = problems("tracker=mlflow", "tracker.uri=env:URI", "launcher.forward_env=[A]")
    (word,) = shlex.split(told.partition("\n")[2])
    assert parse_override(word).value() == ["A", "URI"]


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("launcher.env.1X=4", "launcher.env", {"1X": "4"}),
        ("data.path=/a (b)/c", "data.path", "/a (b)/c"),
        ("model.name=a:b'c", "model.name", "a:b'c"),
    ],
)
def test_the_form_for_what_cannot_be_read_can_be_read(text: str, key: str, value: object) -> None:
    told = problems(text)[0]
    (word,) = shlex.split(
        told.partition("\n")[2].strip().removeprefix("write ").removeprefix("quote the value: ")
    )
    read = parse_override(word)
    assert (read.key_or_group, read.value()) == (key, value)


def test_a_mapping_that_cannot_be_read_is_told_the_form_of_mappings() -> None:
    (told,) = problems('launcher.k8s.node_selector={"a b": x}')
    assert told.endswith("a mapping launcher.k8s.node_selector='{name: \"b c\"}', its names without quotes")
