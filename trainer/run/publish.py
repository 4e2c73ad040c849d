"""Upload model/ to the Hugging Face hub, after everything else is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from galley.schema import Hub
from trainer.compatibility import hub_failures
from trainer.models.hub import is_offline

# The message of the upload's commit; the hub ignores files that it has already.
MESSAGE = "Trained by Galley"


def push_model(model: Path, hub: Hub, endpoint: str | None = None) -> str:
    """Upload the folder; return why it was not uploaded and what to do, empty if it was.

    If the hub is away, the run has succeeded nonetheless: its finished model is on disk.
    """
    if is_offline():
        return _not_pushed(hub, model, "the hub cannot be reached")
    from huggingface_hub import HfApi

    api: Any = HfApi(endpoint=endpoint)
    try:
        api.create_repo(str(hub.push), private=hub.private, exist_ok=True)
        api.upload_folder(repo_id=str(hub.push), folder_path=model, commit_message=MESSAGE)
    except hub_failures() as error:
        lines = (line.strip() for line in str(error).splitlines())
        return _not_pushed(hub, model, next(filter(None, lines), type(error).__name__))
    return ""


def _not_pushed(hub: Hub, model: Path, reason: str) -> str:
    return f"the model was not pushed to {hub.push}: {reason}; later: hf upload {hub.push} {model}"
