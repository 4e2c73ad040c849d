"""The code of a sealed run as one ConfigMap: what `unpack` takes apart in the pods."""

from __future__ import annotations

import base64
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from galley.errors import SubmissionError
from galley.rundir import RunFolder
from galley.seal import snapshot_files

MAX_BYTES = 1024**2  # of all values of a ConfigMap


def pack(files: Mapping[str, Path]) -> bytes:
    """Path -> file as a tar.xz. Equal contents, equal bytes: no times, owners or modes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", format=tarfile.PAX_FORMAT) as archive:
        for name, path in sorted(files.items()):
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def code_config_map(folder: RunFolder, metadata: dict[str, Any]) -> dict[str, Any]:
    """Raises `SubmissionError` where the code does not fit."""
    packed = pack(snapshot_files(folder))
    if len(packed) > MAX_BYTES:
        raise SubmissionError(
            f"the code takes {len(packed)} bytes when compressed, a ConfigMap holds {MAX_BYTES}: "
            "keep the run on the claim (launcher.k8s.transport=claim), or make `plugins` smaller"
        )
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata,
        "binaryData": {"code.tar.xz": base64.b64encode(packed).decode()},
    }
