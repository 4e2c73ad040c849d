"""A model of the user's own: where it may come from, what it is called with, what it must give back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from galley import plugins
from galley.config.rules.recipe import recipe_problems
from galley.errors import ConfigError
from galley.schema import Batch, Model, Recipe
from tests.integration.tasks import own_net
from tests.support import make_recipe
from trainer.models.user_module import own_model

OWN = make_recipe(model={"architecture": "users_own_net:Net"})
KNOWN = {"vocab_size": 11, "num_labels": 3, "pad_token_id": 0, "max_length": 8}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of plugins with `users_own_net.py`, importable as in a worker."""
    import sys

    shutil.copy(own_net.__file__, tmp_path / "users_own_net.py")
    (tmp_path / "json.py").write_text("class Net: ...\n")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_folders", [])
    plugins.add_folders([tmp_path])
    yield tmp_path
    sys.modules.pop("users_own_net", None)


def refusal(wanted: Recipe) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        own_model(wanted, KNOWN)
    return [str(problem) for problem in caught.value.problems]


def test_it_gets_what_its_constructor_names_and_depends_on_the_seed_alone(plugin: Path) -> None:
    model = own_model(make_recipe(OWN, model={"config": {"width": 4}}), KNOWN)
    assert model.get_parameter("embedding.weight").shape == (11, 4)
    torch.manual_seed(99)
    again = own_model(make_recipe(OWN, model={"config": {"width": 4}}), KNOWN)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    batch = torch.ones(2, 5, dtype=torch.int64)
    assert model(input_ids=batch, attention_mask=batch).logits.shape == (2, 3)


def test_values_that_do_not_fit_are_named_all_at_once(plugin: Path) -> None:
    problems = refusal(make_recipe(OWN, model={"config": {"widht": 4}, "dropout": 0.1}))
    assert problems == [
        "model.config.widht: Net takes no 'widht'\n"
        "    did you mean 'width'? valid: vocab_size, num_labels, width, dropout"
    ]
    with pytest.raises(ConfigError, match="Net also needs vocab_size"):
        own_model(OWN, {"num_labels": 2})


def test_only_a_folder_that_the_user_has_named_is_read(plugin: Path, tmp_path: Path) -> None:
    (problem,) = refusal(make_recipe(model={"architecture": "json:Net"}))
    assert problem.startswith("model.architecture=json:Net: module 'json' is not in a folder of plugins")
    (problem,) = refusal(make_recipe(model={"architecture": "users_own_net:Nett"}))
    assert "did you mean 'Net'? valid: Net, Odd" in problem
    wanted = Recipe(model=Model(architecture="users_own_net:Net", tokenizer="characters"), batch=Batch(8))
    (problem,) = map(str, recipe_problems(wanted))
    assert problem == (
        "model.architecture: no folder of plugins has a module 'users_own_net'\n"
        "    set 'plugins=[DIR]' to the folder that holds users_own_net.py"
    )


def test_an_output_that_engines_cannot_look_into_is_refused(plugin: Path) -> None:
    model, batch = (
        own_model(make_recipe(model={"architecture": "users_own_net:Odd"}), KNOWN),
        torch.ones(2, 5, dtype=torch.int64),
    )
    with pytest.raises(TypeError, match=r"Odd.forward returns a set: return the logits, a NamedTuple"):
        model(input_ids=batch, attention_mask=batch)


def test_stored_weights_must_fit(plugin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    model = own_model(OWN, KNOWN)
    model.save_pretrained(str(folder), state_dict=model.state_dict())  # type: ignore[operator]
    again = own_model(make_recipe(OWN, model={"name": str(folder)}), KNOWN)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    (problem,) = refusal(make_recipe(OWN, model={"name": str(folder), "config": {"width": 4}}))
    assert "its weights do not fit Net: embedding.weight, head.weight" in problem
