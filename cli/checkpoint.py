"""`checkpoint ls RUN | verify RUN_OR_CHECKPOINT | convert CHECKPOINT OUT`."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.options import Options
from galley.errors import CheckpointError, ConfigError, Problem, valid_values
from galley.report.weights import TensorFiles, write_tensors
from galley.rundir import RunFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

ACTIONS = {
    "ls": "checkpoint ls RUN",
    "verify": "checkpoint verify RUN_OR_CHECKPOINT",
    "convert": "checkpoint convert CHECKPOINT OUT [--optimizer]",
}
WEIGHTS = ("param", "buffer")
# PEFT names a model's only adapter so.
_PEFT_MARK = ".default."


def checkpoint(words: Sequence[str], options: Options) -> int:
    """List, check or convert checkpoints. Nothing that exists is ever written to."""
    action, *rest = words or [""]
    if action not in ACTIONS:
        what = "is not an action" if action else "needs an action"
        raise ConfigError(Problem(f"checkpoint {action}".strip(), what, valid_values(action, ACTIONS)))
    if len(rest) != (2 if action == "convert" else 1):
        raise ConfigError(Problem(f"checkpoint {action}", "has other arguments", ACTIONS[action]))
    if action == "ls":
        return _list(find_checkpoints(rest[0], options), options)
    if action == "verify":
        return _verify(find_checkpoints(rest[0], options), options)
    return _convert(rest[0], Path(rest[1]).expanduser(), options)


def find_checkpoints(word: str, options: Options) -> list[Path]:
    """The checkpoint that `word` is, or all of the run that it means, oldest first."""
    from launchers.lifecycle.queries import find_run
    from trainer.checkpoints.manifest import list_checkpoints

    path = Path(word).expanduser()
    if path.is_dir() and re.fullmatch(r"step-\d+", path.resolve().name):
        return [path.resolve()]
    return list_checkpoints(find_run(word, options.root).checkpoints)


def _list(folders: Sequence[Path], options: Options) -> int:
    rows = [_row(folder) for folder in folders]
    if options.json:
        print(json.dumps(rows))
        return 0
    for row in rows:
        size = (
            f"{row['bytes'] / 2**20:>9.1f} MiB  {row['ranks']} ranks" if row["complete"] else "    incomplete"
        )
        print(f"{row['checkpoint']}  {size}")
    if not rows:
        print("no checkpoints: checkpoint.every_steps=N saves one every N steps")
    return 0


def _row(folder: Path) -> dict[str, Any]:
    """By its manifest; the files themselves are not read."""
    from trainer.checkpoints.manifest import read_manifest

    row: dict[str, Any] = {
        "checkpoint": folder.name,
        "path": str(folder),
        "step": int(folder.name.removeprefix("step-")),
    }
    try:
        manifest = read_manifest(folder)
    except CheckpointError:
        return row | {"complete": False, "ranks": None, "bytes": None}
    size = sum(file.size for file in manifest.files.values())
    return row | {"complete": True, "ranks": manifest.world_size, "bytes": size}


def _verify(folders: Sequence[Path], options: Options) -> int:
    """Reads every byte. Exit code 4 where a file is not as it was saved."""
    from trainer.checkpoints.manifest import verify

    if not folders:
        raise ConfigError(Problem("checkpoint verify", "the run has no checkpoints"))
    found = dict[str, str | None]()
    for folder in folders:
        try:
            verify(folder)
            found[folder.name] = None
        except CheckpointError as error:
            found[folder.name] = str(error).removeprefix(f"{folder.name}: ")
    if options.json:
        print(json.dumps({"checkpoints": found}))
    else:
        for name, problem in found.items():
            print(f"{name}  {problem or 'as saved'}")
    return 4 if any(found.values()) else 0


def _convert(word: str, out: Path, options: Options) -> int:
    """A folder in Hugging Face format: fp32 weights, and with `--optimizer` the moments beside them.

    Raises `CheckpointError` that names the file where the checkpoint is not as it was saved.
    """
    from trainer.checkpoints.manifest import verify

    source = _one(word, options)
    if out.exists():
        raise ConfigError(Problem(str(out), "exists", "choose another folder: nothing is overwritten"))
    manifest = verify(source)
    files = TensorFiles([source / name for name in manifest.files if name.endswith(".safetensors")])
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    weights = _named(files, WEIGHTS, keep_kind=False)
    adapters = manifest.frozen_sha256 and any(".lora_" in name for name in weights)
    if adapters:
        weights = {_peft_name(name): tensor for name, tensor in weights.items() if _PEFT_MARK in name}
    write_tensors(partial / f"{'adapter_model' if adapters else 'model'}.safetensors", weights)
    if options.optimizer:
        write_tensors(partial / "optimizer.safetensors", _named(files, _moments(files), keep_kind=True))
    copied = _copy_description(source, partial)
    partial.replace(out)
    if not copied:
        print(f"{out} has weights only: the run has not written its configuration yet", file=sys.stderr)
    names = sorted(path.name for path in out.iterdir())
    print(json.dumps({"out": str(out), "files": names}) if options.json else out)
    return 0


def _one(word: str, options: Options) -> Path:
    folders = find_checkpoints(word, options)
    if len(folders) != 1:
        names = ", ".join(str(folder) for folder in folders) or "the run has none"
        raise ConfigError(Problem(word, "does not mean one checkpoint", f"name its folder: {names}"))
    return folders[0]


def _named(files: TensorFiles, kinds: Sequence[str], keep_kind: bool) -> dict[str, NDArray[Any]]:
    """Tensors of these kinds; a checkpoint keeps them as `KIND/NAME`."""
    parts = {name: name.partition("/") for name in files.names}
    return {
        name if keep_kind else rest: files.tensor(name)
        for name, (kind, _, rest) in parts.items()
        if kind in kinds
    }


def _moments(files: TensorFiles) -> list[str]:
    """Kinds of the optimizer's state, whichever it is."""
    return sorted({name.partition("/")[0] for name in files.names}.difference(WEIGHTS))


def _peft_name(name: str) -> str:
    """The name in PEFT's files of a parameter in the model: without the adapter's own name."""
    return name.replace(f".modules_to_save{_PEFT_MARK}", ".").replace(_PEFT_MARK, ".")


def _copy_description(source: Path, target: Path) -> bool:
    """Configuration and tokenizer, which a run writes beside its final weights; not the card of those."""
    model = RunFolder(source.parent.parent).model
    if not any((model / name).is_file() for name in ("config.json", "adapter_config.json")):
        return False
    for path in model.iterdir():
        weights = path.suffix == ".safetensors" or path.name.endswith(".index.json")
        if path.is_file() and not weights and path.name != "README.md":
            shutil.copy(path, target / path.name)
    return True
