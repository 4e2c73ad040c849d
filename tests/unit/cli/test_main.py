"""The command line: verbs, flags, exit codes, and what it promises machines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import VERBS, main
from galley.run.seal import seal, write_snapshot
from galley.rundir import RunFolder
from galley.schema import Batch, Recipe
from galley.spec import to_json
from galley.strategy.layout import resolve_layout
from tests.unit.galley.strategy.test_layout import CPU


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_verbs_are_the_contract() -> None:
    contract = {"run", "plan", "status", "logs", "cancel", "resume", "list", "recipes", "explain", "estimate"}
    assert contract | {"diff", "verify", "doctor"} <= set(VERBS)


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, "--help")
    assert code == 0
    assert all(verb in out for verb in VERBS)
    assert output(capsys, "--version")[1].startswith("galley ")


def test_a_mistake_is_exit_2_without_traceback_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, err = output(capsys, "strategy=zero22", "lr=1")
    assert code == 2
    assert out == ""
    assert err.startswith("galley: 2 problems, nothing was started\n")
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_what_the_machine_cannot_carry_is_reported_with_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = output(capsys, "strategy=fsdp_hybrid", "lr=1", "cluster.procs_per_node=2")
    assert code == 2
    assert "did you mean 'optim.lr'?" in err
    assert "2 ranks = groups × 2 ranks has no solution" in err
    code, _, err = output(capsys, "cluster.procs_per_node=3", "schedule.warmup_steps=1")
    assert "batch.global_size: global_size 32 = micro_size ? × accumulation ? × 3 ranks" in err
    assert "recipes/quickstart.yaml" in err
    assert "keep one of them" in err


def test_json_errors_are_the_last_line_of_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, "plan", "lr=1", "--json")
    report = json.loads(out.splitlines()[-1])
    assert (code, report["exit_code"]) == (2, 2)
    assert report["problems"] == [
        {"where": "lr=1", "what": "'lr' is not a key", "hint": "did you mean 'optim.lr'?"}
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jsn"], "did you mean '--json'?"),
        (["plan", "--config-dir"], "--config-dir: needs a value"),
        (["logs", "x", "--rank", "one"], "is not a rank"),
        (["recipes", "lst"], "is not an action"),
        (["recipes", "show", "quickstrt"], "did you mean 'quickstart'?"),
        (["explain"], "takes one key"),
        (["explain", "lr"], "did you mean 'optim.lr'?"),
        (["resume"], "takes one run"),
        (["diff", "a"], "takes two runs"),
        (["pln"], "did you mean 'plan'?"),
    ],
)
def test_wrong_words(capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    code, _, err = output(capsys, *words)
    assert code == 2
    assert message in err


def test_plan_is_for_machines_and_writes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = output(capsys, "plan", "recipe=mrpc_deberta", "strategy=zero2", "--json")
    plan = json.loads(out.splitlines()[-1])
    assert code == 0
    assert {"launcher", "argv", "env", "files", "estimate", "warnings"} <= set(plan)
    assert plan["argv"][plan["argv"].index("--run-dir") + 1] == plan["run_dir"]
    assert plan["run_dir"].startswith(str(tmp_path / "runs" / "mrpc_deberta-zero2-"))
    assert plan["layout"]["global_size"] == 80
    assert list(tmp_path.iterdir()) == []


def test_plan_says_the_same_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "plan", "--json")[1] == output(capsys, "plan", "--json")[1]


def test_a_run_folder_that_exists_is_not_touched(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "thesis.txt").write_text("years of work")
    code, _, err = output(capsys, "run_dir=kept")
    assert code == 2
    assert "run_dir=kept: exists and is not empty" in err
    assert "resume kept" in err
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["thesis.txt"]


def test_a_run_of_another_version_is_resumed_with_its_own_code(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = Recipe(batch=Batch(global_size=32))
    spec = seal(recipe, resolve_layout(recipe, CPU))
    folder = RunFolder(tmp_path / "old")
    write_snapshot(recipe, folder)
    body = json.loads(to_json(spec))
    del body["recipe"]["train"]["length_grouped"]  # a key that came later
    folder.spec_file.write_text(json.dumps(body))
    code, _, err = output(capsys, "resume", "old")
    assert code == 2
    assert "was sealed by another version of Galley" in err
    assert f"python -P {folder.code}/train.py resume {folder.root}" in err


@pytest.mark.slow
def test_recipes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = output(capsys, "recipes", "ls", "--json")
    rows = {row["recipe"]: row for row in json.loads(out)}
    assert code == 0
    assert rows["quickstart"]["offline"]
    assert not rows["mrpc_deberta"]["offline"]
    assert rows["mrpc_deberta"]["profiles"] == ["full", "small"]
    assert output(capsys, "recipes", "validate")[0] == 0
    assert "python train.py recipe=mrpc_deberta" in output(capsys, "recipes", "show", "mrpc_deberta")[1]


def test_a_copied_recipe_runs_under_its_own_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    copy = tmp_path / "recipes" / "mine.yaml"
    assert output(capsys, "recipes", "cp", "quickstart", str(copy))[0] == 0
    code, out, _ = output(capsys, "plan", "--config-dir", str(tmp_path), "recipe=mine", "--json")
    assert code == 0
    assert "/mine-ddp-" in json.loads(out)["run_dir"]
    assert output(capsys, "recipes", "cp", "quickstart", str(copy))[0] == 2


@pytest.mark.slow
def test_explain(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, "explain", "optim.lr", "recipe=mrpc_deberta", "optim.lr=3e-5")
    assert code == 0
    assert out.splitlines()[0] == "optim.lr = 3e-05"
    assert "recipes/mrpc_deberta.yaml:" in out
    assert out.splitlines()[-1].strip() == "optim.lr=3e-5"
    assert "default of galley/schema/training.py" in output(capsys, "explain", "optim.eps")[1]
    assert "default of galley/schema/task.py" in output(capsys, "explain", "task.contrastive.scale")[1]


@pytest.mark.slow
def test_estimate_lists_every_strategy(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, "estimate", "recipe=mrpc_deberta", "--json")
    rows = json.loads(out)
    assert code == 0
    assert rows["ddp"]["total_gib"] == pytest.approx(886957058 * 16 / 2**30)
    assert rows["zero2"]["total_gib"] < rows["ddp"]["total_gib"]


@pytest.mark.slow
def test_doctor_never_shows_a_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    code, out, _ = output(capsys, "doctor")
    assert code == 0
    assert "HF_TOKEN" in out
    assert "hf_very_secret" not in out


def test_a_study_with_a_damaged_journal_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    journal = tmp_path / "runs" / "broken" / "journal.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text('{"event": "garbage"}\n')
    code, out, _ = output(capsys, "list", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["name"], row["state"]) for row in rows] == [("broken", "unreadable")]
    assert "journal.jsonl:1" in rows[0]["message"]


@pytest.mark.slow
def test_the_recipes_as_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = output(capsys, "recipes", "ls")
    header, *lines = out.splitlines()
    assert code == 0
    assert header.split() == [
        "recipe", "profiles", "task", "model", "data", "strategy", "hardware", "offline"
    ]  # fmt: skip
    place = header.index("hardware")
    found = {line.split()[0]: line[place:].rpartition("  ")[0].strip() for line in lines}
    expected = {
        "mrpc_deberta": "2 devices",
        "disaster_lora_roberta": "1 device",
        "starcoder_fsdp": "8 devices",
        "squad_distilbert_k8s": "4 × 1 CPU rank",
        "bert_cpu_knobs": "all CPUs",
    }
    assert expected.items() <= found.items()
    _, out, _ = output(capsys, "recipes", "ls", "--json")
    assert {row["recipe"]: row["hardware"] for row in json.loads(out)} == found
