"""A recipe says what it means: written text stays, what must be given is asked for, every check ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galley.config.compose import compose_recipe, explain_sources
from galley.config.hydra_bridge import parse_override
from galley.config.validate import validate
from galley.errors import ConfigError
from galley.quoting import override
from tests.support import problems, user_recipe

BATCH = "batch: {global_size: 8}\n"
WRITTEN = {"V": "1.10", "T": "12:30", "O": "0777", "X": "0x3", "E": "1e3", "U": "1_0", "a.b": "1.50"}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("launcher.env", "true"),
        ("launcher.k8s.node_selector", "true"),
        ("launcher.ray.resources", "many"),
        ("strategy.tp_plan", "[1]"),
        ("hpo.choose.weights", "heavy"),
        ("data.columns", "[1]"),
    ],
)
def test_a_wrong_value_under_a_key_with_a_dot_is_told_and_ends(key: str, text: str) -> None:
    told = problems(f"{key}={{a.b: {text}}}")
    assert told[0].startswith(f"{key}={{a.b: {text}}}: {key}.a.b: ")
    assert "is not a valid value\n    expected" in told[0]


def test_a_wrong_value_that_cannot_be_taken_out_ends_too() -> None:
    recipe, mistakes = validate({"launcher": {"env": {"a.b": [1]}, "ray": {"resources": {"c.d.e": "x"}}}})
    assert [mistake.path for mistake in mistakes] == [
        ("launcher", "env", "a.b"),
        ("launcher", "ray", "resources", "c.d.e"),
    ]
    assert (recipe.launcher.env, recipe.launcher.ray.resources) == ({}, {})


def test_an_unquoted_truth_in_a_node_selector_is_told_with_its_line(tmp_path: Path) -> None:
    text = f"{BATCH}launcher:\n  k8s:\n    node_selector: {{nvidia.com/gpu.present: true}}\n"
    (told,) = problems("recipe=mine", user_dir=user_recipe(tmp_path, text))
    assert told.startswith(
        f"{tmp_path}/recipes/mine.yaml:4: launcher.k8s.node_selector.nvidia.com/gpu.present"
    )
    assert "quote it for text" in told


def test_the_quoting_that_is_advised_works_when_typed() -> None:
    (told,) = problems("launcher.env.X=false")
    assert "expected text; " in told
    assert "quote it for text, on the command line 'launcher.env.X=\"false\"'" in told
    assert compose_recipe(['launcher.env.X="false"']).launcher.env == {"X": "false"}


def test_text_is_kept_as_a_file_writes_it(tmp_path: Path) -> None:
    entries = ", ".join(f"{name}: {text}" for name, text in WRITTEN.items())
    text = f"{BATCH}launcher:\n  env: {{{entries}}}\n  k8s: {{node_selector: {{zone: 010}}}}\n"
    recipe = compose_recipe(["recipe=mine"], [user_recipe(tmp_path, text)])
    assert recipe.launcher.env == WRITTEN
    assert recipe.launcher.k8s.node_selector == {"zone": "010"}


def test_text_is_kept_as_it_is_typed() -> None:
    entries = ", ".join(f"{name}: {text}" for name, text in WRITTEN.items())
    assert compose_recipe([f"launcher.env={{{entries}}}"]).launcher.env == WRITTEN
    words = [f"launcher.env.{name}={text}" for name, text in WRITTEN.items() if "." not in name]
    kept = {name: text for name, text in WRITTEN.items() if "." not in name}
    assert compose_recipe(words).launcher.env == kept
    last = compose_recipe(["launcher.env={A: 1.10, B: 2.0}", "launcher.env.A=1.20"]).launcher.env
    assert last == {"A": "1.20", "B": "2.0"}


def test_a_key_that_yaml_reads_as_a_truth_is_refused(tmp_path: Path) -> None:
    folder = user_recipe(tmp_path, f"{BATCH}launcher:\n  env: {{NO: x}}\n")
    (told,) = problems("recipe=mine", user_dir=folder)
    assert told.startswith(f"{tmp_path}/recipes/mine.yaml:3: launcher.env: the key false is not text")


def test_a_key_written_with_dots_in_a_file_is_refused_with_the_nesting(tmp_path: Path) -> None:
    """It was dropped in silence."""
    folder = user_recipe(tmp_path, f"{BATCH}optim.lr: 3e-5\nmodel:\n  lora.r: 4\n")
    second, first = sorted(problems("recipe=mine", user_dir=folder), reverse=True)
    assert first.startswith(f"{tmp_path}/recipes/mine.yaml:2: optim.lr: has a dot inside a key")
    assert "nest the keys: optim: {lr: …}" in first
    assert "nest the keys: model: {lora: {r: …}}" in second


@pytest.mark.parametrize(
    "key", ["launcher.slurm.account", "optim.lr", "seed", "launcher.env.A", "data.text_columns"]
)
def test_what_must_be_given_is_asked_for(tmp_path: Path, key: str) -> None:
    (told,) = problems(f"{key}=???")
    assert told == f"{key}=???: must be given\n    set {key}=VALUE"
    *parents, last = key.split(".")
    lines = [*(f"{'  ' * n}{name}:" for n, name in enumerate(parents)), f"{'  ' * len(parents)}{last}: ???"]
    folder = user_recipe(tmp_path, "\n".join([BATCH.strip(), *lines, ""]))
    (told,) = problems("recipe=mine", user_dir=folder)
    assert told.startswith(f"{tmp_path}/recipes/mine.yaml:{len(lines) + 1}: {key}: must be given")
    if key == "launcher.slurm.account":
        given = compose_recipe(["recipe=mine", f"{key}=lab"], [folder])
        assert given.launcher.slurm.account == "lab"


def test_explain_finds_an_entry_with_dots_and_says_what_is_not_set() -> None:
    assert explain_sources(["launcher.env={a.b: 1.10}"], "launcher.env.a.b")[0] == "1.10"
    with pytest.raises(ConfigError, match=r"launcher.env.A: is not set"):
        explain_sources([], "launcher.env.A")


SCALARS = (
    st.none()
    | st.text("abine0159_./-")  # what needs no quotes
    | st.booleans()
    | st.integers()
    | st.text(st.characters(codec="utf-8", exclude_characters="$\n\r"))
)
KEYS = st.text("abAB19._/- :=,()[]{}\\").map(lambda name: f"a{name}".strip())  # numbers stay numbers
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@settings(max_examples=100, deadline=None)
@given(VALUES)
def test_what_a_message_tells_to_type_is_read_back_by_hydra(value: object) -> None:
    read = parse_override(override(("launcher", "env"), value))
    assert read.key_or_group == "launcher.env"
    assert plain(read.value()) == plain(value)


def plain(value: object) -> object:
    """Hydra reads a key such as `1` as a number."""
    if isinstance(value, dict):
        return {str(name): plain(one) for name, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def test_a_name_with_a_dot_is_typed_inside_a_mapping() -> None:
    word = override(("launcher", "k8s", "node_selector", "nvidia.com/gpu.present"), "true")
    assert word == 'launcher.k8s.node_selector={nvidia.com/gpu.present:"true"}'
    assert compose_recipe([word]).launcher.k8s.node_selector == {"nvidia.com/gpu.present": "true"}
