"""The report of a study, opened in a browser; and its files for machines."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.image import imread

from hpo.report import write_report
from hpo.report.importance import importances
from hpo.study.values import Objective, ParetoFront, Trial
from tests.integration.report.browser import Page, browser

OBJECTIVES = (Objective("eval/f1", "maximize"), Objective("wall_s", "minimize", bound=90.0))
PARAMS = ["optim.lr", "strategy", "strategy.wrap"]
HOSTILE = "</script><b onload=alert(1)>\"&'<!--"
F1 = [0.61, 0.90, 0.72, 0.85, 0.66, 0.80, 0.70, 0.88]
WALL = [20.0, 80.0, 30.0, 50.0, 45.0, 40.0, 60.0, 120.0]


def study(folder: Path) -> ParetoFront:
    """Front: 0, 2, 5, 3, 1; trial 7 breaks the bound; trial 8 was pruned, trial 9 failed."""
    trials = []
    for number in range(10):
        strategy = ("ddp", "fsdp", HOSTILE)[number % 3]
        params = {"optim.lr": 10.0 ** (-6 + number / 3), "strategy": strategy}
        if strategy == "fsdp":
            params["strategy.wrap"] = "layers"
        ended = number < 8
        values = {"eval/f1": F1[number], "wall_s": WALL[number]} if ended else {}
        trials.append(
            Trial(
                number,
                "succeeded" if ended else ("pruned", "failed")[number - 8],
                params,
                values,
                str(folder / "trials" / f"{number:04d}"),
                {**values, "peak_memory_gib": 1.0 + number} if ended else {"train/loss": math.nan},
                number != 7,
                "" if ended else HOSTILE,
                1,
                100.0,
                100.0 + number,
            )
        )
    return ParetoFront(f"a {HOSTILE} study", OBJECTIVES, tuple(trials), (0, 1, 2, 3, 5), 5, 3)


def population(folder: Path) -> ParetoFront:
    """The same trials as those of two members, which take turns."""
    found = study(folder)
    members = [
        replace(trial, member=trial.number % 2, parent=trial.number - 2 if trial.number > 1 else None)
        for trial in found.trials
    ]
    return replace(found, trials=tuple(members))


def first_column(page: Page) -> list[int]:
    rows = "[...document.querySelectorAll('#trials tbody tr:not([hidden])')]"
    return [int(text) for text in page.evaluate(f"{rows}.map(r => parseInt(r.cells[0].textContent))")]


@pytest.mark.timeout(300)
def test_the_page_shows_hovers_sorts_and_needs_nothing_else(tmp_path: Path) -> None:
    file = write_report(study(tmp_path), PARAMS, tmp_path / "report")[0]
    (tmp_path / "profile").mkdir()
    with browser(tmp_path / "profile") as page:
        page.open(file)
        assert page.evaluate("document.title") == page.evaluate("document.querySelector('h1').textContent")
        assert page.evaluate("document.title") == f"a {HOSTILE} study"
        assert page.evaluate("document.querySelectorAll('#plot2 .point').length") == 8
        assert page.evaluate("document.querySelectorAll('#plot2 .point.rest, #plot2 .point.bad').length") == 3
        assert page.evaluate("document.querySelectorAll('#plot3 .point').length") == 8
        assert page.evaluate("document.querySelectorAll('#parallel .way').length") == 8
        assert page.evaluate("document.querySelectorAll('#importance .bar').length") == 3
        assert page.evaluate("document.querySelectorAll('#history .best').length") == 1

        for plot in ("#plot2", "#plot3", "#history"):
            page.mouse("move", f'{plot} [data-trial="1"]')
            tip = page.evaluate("getComputedStyle(tip).display + tip.textContent")
            assert tip.startswith("block"), plot
            assert "trial 1" in tip
            assert "eval/f10.9" in tip
            assert page.evaluate("document.querySelectorAll('#parallel .lit').length") == 1
        page.mouse("move", "h1")
        assert page.evaluate("getComputedStyle(tip).display") == "none"

        page.call(
            "Emulation.setDeviceMetricsOverride", width=400, height=800, deviceScaleFactor=1, mobile=False
        )
        page.mouse("move", '#plot2 [data-trial="1"]')  # at the right edge: the names stay in one line
        names = "[...document.querySelectorAll('#tip tr:not(:last-child) td:first-child')]"
        assert max(page.evaluate(f"{names}.map(c => c.getBoundingClientRect().height)")) < 30
        right = page.evaluate("tip.getBoundingClientRect().right")
        assert page.evaluate("tip.getBoundingClientRect().left") >= 0
        assert right <= 400
        labels = (
            "[...document.querySelectorAll('header label')].map(c => [c.offsetHeight, c.children.length])"
        )
        assert all(height < 30 and children == 1 for height, children in page.evaluate(labels))
        page.call("Emulation.clearDeviceMetricsOverride")
        page.mouse("move", "h1")

        assert first_column(page) == list(range(10))
        page.mouse("click", "#trials th:nth-child(3)")
        assert first_column(page) == [0, 4, 6, 2, 5, 3, 7, 1, 8, 9], "by F1, absent values last"
        page.mouse("click", "#trials th:nth-child(3)")
        assert first_column(page) == [1, 7, 3, 5, 2, 6, 4, 0, 8, 9]
        page.evaluate("byId('filter').value = 'pruned'; byId('filter').dispatchEvent(new Event('input'))")
        assert first_column(page) == [8]
        link = page.evaluate("document.querySelector('#trials tr:not([hidden]) a').href")
        assert link == (tmp_path / "trials" / "0008").as_uri()

        before = page.evaluate("document.querySelector('#plot3 .point').getAttribute('cx')")
        page.evaluate("view.yaw += 0.4; draw3()")
        assert page.evaluate("document.querySelector('#plot3 .point').getAttribute('cx')") != before
        assert page.requests == [file.as_uri()], "no outside resource"

        page.open(write_report(population(tmp_path), PARAMS, tmp_path / "population")[0])
        assert page.evaluate("document.querySelectorAll('#history .born').length") == 6
        head = page.evaluate("[...document.querySelectorAll('#trials th')].map(c => c.textContent)")
        assert head[:4] == ["trial", "state", "member", "from"]
        page.evaluate("byId('filter').value = 'pruned'; byId('filter').dispatchEvent(new Event('input'))")
        cells = "[...document.querySelectorAll('#trials tr:not([hidden]) td')].map(c => c.textContent)"
        assert page.evaluate(cells)[:4] == ["8", "pruned", "0", "6"]
        assert page.errors == []


def test_the_files_for_machines_say_the_same(tmp_path: Path) -> None:
    found = study(tmp_path)
    _, picture, table, data = write_report(found, PARAMS, tmp_path / "report")
    rows = list(csv.DictReader(table.open()))
    assert [row["number"] for row in rows if row["on_front"] == "True"] == ["0", "1", "2", "3", "5"]
    assert (rows[5]["knee"], rows[3]["chosen"]) == ("True", "True")
    assert float(rows[1]["eval/f1"]) == 0.9
    assert rows[8]["eval/f1"] == ""
    assert rows[9]["message"] == HOSTILE
    assert json.loads(data.read_text())["front"] == [0, 1, 2, 3, 5]
    height, width = imread(picture).shape[:2]
    assert width > height > 300


def test_a_study_of_one_objective_and_one_without_trials_have_reports_too(tmp_path: Path) -> None:
    one = ParetoFront("one", OBJECTIVES[:1], study(tmp_path).trials, (1,), 1, 1)
    none = ParetoFront("none", OBJECTIVES, (), (), None, None)
    for found in (one, none):
        files = write_report(found, PARAMS, tmp_path / found.study)
        assert all(file.stat().st_size > 0 for file in files)


def trials_of(pairs: list[tuple[object, object, float]]) -> list[Trial]:
    return [Trial(n, "succeeded", {"a": a, "b": b}, metrics={"m": m}) for n, (a, b, m) in enumerate(pairs)]


def test_importance_finds_relations_of_any_form() -> None:
    """m is a parabola of a, and b is noise: all of the variation belongs to a."""
    parabola = trials_of([(x / 10, (x * 7) % 5, (x / 10 - 2.0) ** 2) for x in range(40)])
    shares = dict(importances(parabola, ["a", "b"], "m"))
    assert shares["a"] > 0.6
    assert shares["b"] < 0.1
    steps = trials_of([("xyz"[n % 3], n, float(n % 3)) for n in range(30)])
    assert dict(importances(steps, ["a"], "m"))["a"] == pytest.approx(1.0)
    assert importances(parabola[:5], ["a"], "m") == [], "too few"
    assert dict(importances(trials_of([(1, 1, 1.0)] * 8), ["a"], "m")) == {"a": 0.0}
