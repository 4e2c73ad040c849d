"""Where the winner of a study is written."""

from __future__ import annotations

from typing import Any

import pytest

from galley.errors import ConfigError
from hpo.promote import promote


def test_an_installation_writes_no_recipe_into_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor into the snapshot of a run, which would then be another than was sealed."""
    monkeypatch.setattr("hpo.promote.is_checkout", lambda: False)
    nothing: Any = None
    with pytest.raises(ConfigError, match=r"winner.*\n.*--config-dir DIR, or run .* `galley init DIR` makes"):
        promote(nothing, nothing, "winner", ())
