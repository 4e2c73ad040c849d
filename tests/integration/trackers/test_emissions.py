"""A run that states its country: CodeCarbon's file, its figures in the result, and the model card."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from galley.schema import Hub
from tests.integration.train.tiny import run_ranks, tiny_recipe, tiny_spec, train


def test_emissions_follow_from_the_energy_mix_of_the_country(tmp_path: Path) -> None:
    recipe = tiny_recipe("ddp", hub=Hub("me/tiny"))
    asked = replace(recipe, train=replace(recipe.train, energy=True, country="DEU"))
    folder = train(tmp_path / "run", tiny_spec(asked, 2), HF_HUB_OFFLINE="1")
    result = folder.read_result()
    assert result is not None
    (row,) = csv.DictReader((folder.root / "emissions.csv").open())
    assert row["country_iso_code"] == "DEU"
    assert result.metrics["co2_eq_kg"] == pytest.approx(float(row["emissions"]), rel=1e-6)
    # Ember's figure for Germany, in CodeCarbon's data as grams of CO2 per kWh.
    assert 0.2 < result.metrics["co2_eq_kg"] / result.metrics["energy_kwh"] < 0.6
    data = ModelCard.load(folder.model / "README.md").data.to_dict()
    assert data["co2_eq_emissions"]["emissions"] == pytest.approx(1000 * float(row["emissions"]), abs=1e-6)
    assert result.state == "succeeded"
    assert "not pushed to me/tiny: the hub cannot be reached" in result.message


def test_an_unknown_country_ends_the_run_before_it_trains(tmp_path: Path) -> None:
    recipe = tiny_recipe("single")
    asked = replace(recipe, train=replace(recipe.train, energy=True, country="DEX"))
    assert run_ranks(tmp_path / "run", tiny_spec(asked, 1)) == [2]
    log = (tmp_path / "run/logs/attempt-1/rank-0.log").read_text()
    assert "train.country=DEX: CodeCarbon knows no such country" in log
    assert "did you mean MEX, DEU?" in log
