"""What can be known before the start about publishing a model and counting its emissions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from galley.errors import Problem
from galley.schema import Recipe

# The hub's own rule (huggingface_hub 2.4, `validate_repo_id`).
_NAME = r"(?![.\-])[\w.\-]{1,96}(?<![.\-])"
_REPO_ID = re.compile(rf"({_NAME}/)?{_NAME}", re.ASCII)
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.\-]*")


def is_repo_id(name: str) -> bool:
    """Whether the hub takes it for the name of a repository."""
    return bool(_REPO_ID.fullmatch(name)) and "--" not in name and ".." not in name and name[-4:] != ".git"


def hub_problems(recipe: Recipe) -> Iterator[Problem]:
    hub = recipe.hub
    if hub.push is not None and not is_repo_id(hub.push):
        hint = "NAME or OWNER/NAME: letters, digits, '-', '_', '.', at most 96 each; no '--' or '..'"
        yield Problem("hub.push", f"'{hub.push}' is not the name of a repository", hint)
    if hub.push is not None and not recipe.checkpoint.model:
        hint = "checkpoint.model=true, or hub.push=null"
        yield Problem("hub.push", "there is no model/ to push with checkpoint.model=false", hint)
    if hub.license is not None and not _LICENSE.fullmatch(hub.license):
        hint = "an identifier of the hub, for example apache-2.0, mit, other"
        yield Problem("hub.license", f"'{hub.license}' is not an identifier of a license", hint)


def energy_problems(recipe: Recipe) -> Iterator[Problem]:
    train = recipe.train
    if train.country is not None and not train.energy:
        yield Problem("train.country", "nothing is measured without train.energy", "train.energy=true")
    if train.region is not None and train.country not in ("USA", "CAN"):
        hint = "train.country=USA or CAN, or train.region=null"
        yield Problem("train.region", "CodeCarbon knows regions of the USA and Canada only", hint)
