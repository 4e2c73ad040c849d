"""`diff RUN_A RUN_B` and `verify RUN`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from galley.drift import find_drift
from galley.errors import ConfigError, Problem
from galley.verbs import Options


def diff(words: Sequence[str], options: Options) -> int:
    """Print every key of the two sealed runs that differs."""
    from launchers.runs import find_run

    if len(words) != 2:
        raise ConfigError(Problem("diff", "takes two runs", "diff RUN_A RUN_B (see `list`)"))
    first, second = (flatten(asdict(find_run(word, options.root).read_spec())) for word in words)
    changed = {key: (first.get(key), second.get(key)) for key in sorted({*first, *second})}
    changed = {key: pair for key, pair in changed.items() if pair[0] != pair[1]}
    if options.json:
        print(json.dumps(changed))
        return 0
    for key, (before, after) in changed.items():
        print(f"{key}: {json.dumps(before)} -> {json.dumps(after)}")
    if not changed:
        print("the runs are the same")
    return 0


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    parts = [flatten(child, f"{prefix}.{name}" if prefix else name) for name, child in value.items()]
    return {key: leaf for part in parts for key, leaf in part.items()}


def verify(words: Sequence[str], options: Options) -> int:
    """Say what is no longer as it was when the run was sealed. Exit code 4 when something drifted."""
    from launchers.runs import find_run

    if len(words) != 1:
        raise ConfigError(Problem("verify", "takes one run", "verify RUN (see `list`)"))
    folder = find_run(words[0], options.root)
    drift = find_drift(folder)
    if options.json:
        print(json.dumps({"drift": drift}))
    else:
        read = folder.read_data()
        data = "its data have not been read yet" if read is None else f"data {read.fingerprint[:12]}"
        print("\n".join(drift) if drift else f"no drift: code, config and packages are as sealed; {data}")
    return 4 if drift else 0
