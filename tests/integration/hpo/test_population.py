"""A population through the real controller, with a trainer of milliseconds: its kills are in test_kills."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from cli.options import Options
from cli.sweep import pareto
from galley.config.compose import compose_recipe
from galley.errors import ConfigError, RunFailedError
from galley.rundir import RunFolder
from hpo.select import pareto_front
from hpo.study.event_log import read_journal
from hpo.study.folder import StudyFolder
from hpo.study.state import Study, fold
from tests.integration.hpo import lab

WORDS = ("hpo=pbt", "hpo.trials=12", "hpo.parallel=3", "hpo.objectives=[eval/f1]")


def run(root: Path, events: Sequence[object] = (), *words: str) -> Study:
    folder = lab.make_study(root, *WORDS, *words)
    (folder.root / "events.json").write_text(json.dumps(events))
    return lab.run(folder)


def test_members_go_on_from_better_ones_and_the_winner_is_promoted_as_it_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four members of three intervals, three slots; a lost attempt is made again from the same weights."""
    study = run(tmp_path / "study", [[5, 1, "node"]])
    assert not lab.faults(study.folder, 12)
    assert study.trials[5].attempts == 2
    children = [trial for trial in study.trials if trial.parent is not None]
    copies = [t for t in children if study.trials[t.parent or 0].member != t.member]
    assert copies, "somebody was replaced"
    for trial in copies:
        assert trial.values["eval/f1"] != study.trials[trial.parent or 0].values["eval/f1"]
    for trial in children:
        sealed = RunFolder(Path(trial.run)).read_spec().recipe
        assert f"/trials/{trial.parent:04d}/checkpoints/step-" in (sealed.checkpoint.resume_from or "")
    front = pareto_front(study)
    best = max(study.trials, key=lambda trial: trial.values["eval/f1"])
    assert front.chosen == best.number
    (tmp_path / "mine").mkdir()
    options = Options(config_dirs=(tmp_path / "mine",), promote="winner", json=True)
    assert pareto([str(study.folder.root)], options) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    ran = []
    for number, command in enumerate(said["commands"]):
        words = [word for word in command.split()[2:] if not word.startswith(("--config-dir", str(tmp_path)))]
        assert number == 0 or f"checkpoint.resume_from=runs/winner-{number}" in words
        assert number == len(said["commands"]) - 1 or f"run_dir=runs/winner-{number + 1}" in words
        recipe = compose_recipe([words[0]], [tmp_path / "mine"])
        ran.append((recipe.train.stop_at_step, recipe.optim.lr))
    line = lab.lineage(study.trials, best)
    stops = {trial.params["optim.lr"]: 2 * (index + 1) for index, trial in enumerate(line)}
    assert ran == [(stop, lr) for lr, stop in stops.items()], "a recipe for each stretch of one rate"
    assert (
        Path(said["promoted"]).read_text().startswith(f"# {said['commands'][-1]}\n#\n# Trial {best.number} ")
    )


def test_failed_members_are_replaced_and_a_population_can_die_out(tmp_path: Path) -> None:
    study = run(tmp_path / "study", [[1, 1, "nan"], [4, 1, "user"]])
    assert [trial.number for trial in study.trials if trial.state == "failed"] == [1, 4]
    assert len(study.trials) == 12
    after = next(trial for trial in study.trials if trial.member == 1 and trial.number > 1)
    assert study.trials[after.parent or 0].member != 1
    assert not any(lab.trace_faults(t.number, t.params, lab.trace(study.folder, t.number))
                   for t in study.trials if t.state == "succeeded")  # fmt: skip
    dead = [[number, 1, "user"] for number in range(2, 4)]
    with pytest.raises(RunFailedError, match="died out after 4 of 6 trials: no member has weights to go on"):
        run(tmp_path / "dead", dead, "hpo.trials=6", "hpo.pbt.population=2")
    with pytest.raises(RunFailedError, match="died out"):
        lab.run(StudyFolder(tmp_path / "dead"))


def test_a_journal_whose_child_has_no_parent_is_refused(tmp_path: Path) -> None:
    study = run(tmp_path / "study", [], "hpo.trials=4", "hpo.pbt.population=2")
    events = read_journal(study.folder.journal)
    ends = [e for e in events if e.event != "ended" or e.number != study.trials[2].parent]
    with pytest.raises(ConfigError, match=r"asks trial 2 of trial \d, which has not succeeded"):
        fold(study.folder, ends)
