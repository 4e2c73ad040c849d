"""Numbers that YAML 1.1 reads in another base are refused, with what was read and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from galley.config.compose import compose_recipe
from galley.config.yaml_numbers import as_read
from tests.support import problems, user_recipe

BATCH = "batch: {global_size: 8}\n"


@pytest.mark.parametrize(
    "text", ["010", "-010", "+0777", "0_17", "12:30:00", "1:30", "-1:30", "190:20:30.15", "12:5"]
)
def test_what_is_told_is_what_the_library_reads(text: str) -> None:
    node = yaml.compose(text)
    assert isinstance(node, yaml.ScalarNode)
    assert as_read(node) == pytest.approx(yaml.safe_load(text))


@pytest.mark.parametrize("text", ["0", "00", "08", "10", "0x1F", "1_000", "'010'", '"12:30"', "a:b", "12:75"])
def test_what_means_what_its_digits_say_is_left(text: str) -> None:
    node = yaml.compose(text)
    assert isinstance(node, yaml.ScalarNode)
    assert as_read(node) is None


@pytest.mark.parametrize(
    ("body", "where", "told"),
    [
        (
            "train: {max_steps: 010}",
            "train.max_steps",
            "YAML reads 010 as 8, a number in base 8\n"
            "    for the decimal number write 10, for this one 8, for the text write '010'",
        ),
        (
            "cluster: {time_limit_min: 12:30:00}",
            "cluster.time_limit_min",
            "YAML reads 12:30:00 as 45000, a number in base 60\n"
            "    for this time of hours, minutes and seconds write 750, for the text write '12:30:00'",
        ),
        ("model: {config: {seed: 0777}}", "model.config.seed", "YAML reads 0777 as 511"),
        ("model: {config: {sizes: [8, 1:30]}}", "model.config.sizes", "YAML reads 1:30 as 90"),
        ("strategy: {tp_plan: {010: rowwise}}", "strategy.tp_plan.010", "YAML reads 010 as 8"),
        ("model: {revision: 0123}", "model.revision", "YAML reads 0123 as 83"),
    ],
)
def test_a_number_in_another_base_is_refused(tmp_path: Path, body: str, where: str, told: str) -> None:
    found = problems("recipe=mine", user_dir=user_recipe(tmp_path, f"{BATCH}{body}\n"))
    assert any(one.startswith(f"{tmp_path}/recipes/mine.yaml:2: {where}: {told}") for one in found), found


def test_quoted_text_and_texts_by_name_stay(tmp_path: Path) -> None:
    body = "launcher: {env: {O: 0777, T: 12:30}}\nmodel: {config: {code: '010'}}\n"
    recipe = compose_recipe(["recipe=mine"], [user_recipe(tmp_path, f"{BATCH}{body}")])
    assert recipe.launcher.env == {"O": "0777", "T": "12:30"}
    assert recipe.model.config["code"] == "010"


def test_the_command_line_has_no_octal_numbers() -> None:
    assert compose_recipe(["train.max_steps=010"]).train.max_steps == 10
