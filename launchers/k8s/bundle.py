"""The code of a sealed run as one ConfigMap, which `unpack` unpacks in the pods."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from galley.config.rank_paths import UPLOADS, uploads
from galley.counting import counted
from galley.errors import Problem, SubmissionError
from galley.run.seal import code_files, snapshot_files
from galley.rundir import RunFolder
from galley.schema import Recipe
from launchers.k8s.validation.checks import MAX_CONFIG_MAP

MAX_BYTES = MAX_CONFIG_MAP
PROGRAM_BYTES = 448 * 1024  # room for Galley itself, which takes less
_ADDED = (f"{UPLOADS}/", "plugins/")  # what a user adds to the snapshot
_MAX_PLAIN_BYTES = 64 * 1024**2  # beyond this size, compressing takes longer than it is worth


def pack(files: Mapping[str, Path]) -> bytes:
    """Return the files by path as a tar.xz. Equal contents give equal bytes: no times, owners or modes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(files.items()):
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def size_problems(recipe: Recipe) -> Iterator[Problem]:
    """Yield a problem if uploads and plugins do not fit into a ConfigMap beside Galley itself."""
    added = {name: path for name, path in code_files(recipe).items() if name.startswith(_ADDED)}
    if not added or recipe.launcher.k8s.transport != "configmap":
        return
    plain, room = sum(path.stat().st_size for path in added.values()), MAX_BYTES - PROGRAM_BYTES
    size = plain if plain > _MAX_PLAIN_BYTES else len(pack(added))
    if size > room:
        names = ", ".join([*uploads(recipe), *(["plugins"] if recipe.plugins else [])])
        what = (
            f"{names}: {counted(len(added), 'file')} take{'s' if len(added) == 1 else ''}"
            f" {size / 1024:.0f} KiB when compressed, {room / 1024:.0f} fit"
        )
        hint = "copy them to the claim, or keep the run on it: launcher.k8s.transport=claim"
        yield Problem("launcher.k8s.upload" if uploads(recipe) else "plugins", what, hint)


def code_config_map(folder: RunFolder, metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the ConfigMap of the code. Raises `SubmissionError` if the code does not fit."""
    packed = pack(snapshot_files(folder))
    if len(packed) > MAX_BYTES:
        raise SubmissionError(
            f"the code takes {len(packed)} bytes when compressed, a ConfigMap holds {MAX_BYTES}: "
            "keep the run on the claim (launcher.k8s.transport=claim), or make plugins and uploads smaller"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "binaryData": {"code.tar.xz": base64.b64encode(packed).decode()},
    }
