"""One line for sbatch, from any value. `tests/integration/slurm` shows the same to the real sbatch."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from galley.errors import ConfigError
from galley.schema import Cluster
from galley.spec import RunSpec
from launchers.slurm.array import plan_array
from launchers.slurm.launcher import SlurmLauncher, submission_environment
from launchers.slurm.script import directive
from tests.unit.launchers.slurm.bench import FACTS, make_spec_on, plan_on


def read_as_sbatch(line: str) -> list[str]:
    """The arguments that sbatch makes of a line: Slurm's `get_argument` in src/sbatch/opt.c, rewritten."""
    words, word, quoted, escaped = [], "", "", False
    for letter in line.removeprefix("#SBATCH") + " ":
        if escaped:
            word, escaped = word + letter, False
        elif letter == "\\":
            escaped = True
        elif letter == quoted:
            quoted = ""
        elif not quoted and letter in "\"'":
            quoted = letter
        elif not quoted and letter == "#":
            break
        elif not quoted and letter == " ":
            words, word = [*words, word] if word else words, ""
        else:
            word += letter
    return words


@pytest.mark.parametrize(
    "value", ["plain", "two words", "it's", '"', "\\", '\\"', "$(id)", "`id`", "a#b", ";", "é", "a=b,c", "%j"]
)
def test_sbatch_reads_the_value_back(value: str) -> None:
    assert read_as_sbatch(directive("comment", value)) == [f"--comment={value}"]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\0", "\x1b[2J"])
def test_what_a_line_cannot_hold_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="control character"):
        directive("partition", value)


@pytest.mark.parametrize("name", ["A B", "A;touch x", "1A", "A=B", "", "A\nB", "É"])
def test_names_of_variables_are_checked(name: str) -> None:
    with pytest.raises(ConfigError, match="no name of an environment variable"):
        plan_on(Path("/runs/a"), with_variable(name, "x"))


def test_a_variable_without_an_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="NUL"):
        plan_on(Path("/runs/a"), with_variable("A", "x\0y"))


def with_variable(name: str, value: str) -> RunSpec:
    spec = make_spec_on()
    launcher = replace(spec.recipe.launcher, env={name: value})
    return replace(spec, recipe=replace(spec.recipe, launcher=launcher))


@pytest.mark.parametrize("path", ["/runs/a\\b", "/runs/a\nb", "/runs/a:b"])
def test_folders_that_cannot_be_passed_on_are_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="choose another run_dir"):
        plan_on(Path(path))


def test_a_percent_sign_in_the_folder_is_no_pattern() -> None:
    script = plan_on(Path("/runs/50%j")).files["job.sh"]
    assert "#SBATCH --output=/runs/50%%j/logs/slurm-%j.log\n" in script


def test_the_users_job_options_do_not_change_the_plan() -> None:
    environ = {
        "SBATCH_PARTITION": "x",
        "SLURM_JOB_ID": "7",
        "SLURM_CONF": "/c",
        "HF_TOKEN": "s",
        "PATH": "/bin",
    }
    assert submission_environment(environ) == {"SLURM_CONF": "/c", "HF_TOKEN": "s", "PATH": "/bin"}


def test_an_array_asks_once_for_what_all_its_runs_need() -> None:
    spec = make_spec_on(partition="gpu")
    runs = [(spec, Path(f"/runs/{n}"), 1) for n in range(12)]
    plan = plan_array(SlurmLauncher(), runs, Path("/sweep"), FACTS, parallel=3)
    script = plan.array.files["array.sh"]
    assert "#SBATCH --array=0-11%3\n" in script
    assert "#SBATCH --output=/sweep/logs/slurm-%A_%a.log\n" in script
    assert script.count("--partition") == 1
    assert plan.array.files["runs"].splitlines() == [f"/runs/{n}" for n in range(12)]
    assert plan.array.argv == ("sbatch", "--parsable", "/sweep/array.sh")


def test_runs_that_need_different_nodes_are_no_array() -> None:
    small = make_spec_on()
    large = replace(small, recipe=replace(small.recipe, cluster=Cluster(memory_gib_per_node=100)))
    runs = [(small, Path("/runs/a"), 1), (large, Path("/runs/b"), 1)]
    with pytest.raises(ConfigError, match="asks Slurm for other mem than /runs/a"):
        plan_array(SlurmLauncher(), runs, Path("/sweep"), FACTS)


def test_spare_nodes_of_another_kind_are_two_features() -> None:
    def constraint(**slurm: Any) -> str:
        return plan_on(Path("/runs/a"), make_spec_on(**slurm)).files["job.sh"]

    kinds = {"constraint": "new", "spare_nodes": 1, "spare_constraint": "old"}
    assert '#SBATCH --constraint="[new*2&old*1]"\n' in constraint(**kinds)
    for wrong, said in (
        ({"constraint": None}, "is needed beside spare_constraint"),
        ({"constraint": "a&b"}, "'a&b' is not one feature"),
        ({"spare_constraint": "$(id)"}, "is not one feature"),
        ({"spare_nodes": 0}, "means nothing without spare nodes"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            constraint(**kinds | wrong)
