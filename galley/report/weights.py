"""Weights in safetensors files, read without torch, one tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galley.errors import CheckpointError
from galley.report.parity import WeightsDeviation
from galley.schema import Dtype

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Zero bits at the end of the fraction of an fp32 number that bf16 (7 of 23 bits) holds exactly.
_BF16_REST = (1 << 16) - 1


class TensorFiles:
    """All tensors of some safetensors files, by name, opened for reading.

    Raises `CheckpointError` that names the file that cannot be read.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Any] = {}
        for path in files:
            try:
                opened = safe_open(path, framework="np")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: cannot be read: {error}") from error
            self._files |= dict.fromkeys(_keys(opened), opened)
        self.names = sorted(self._files)

    def tensor(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = self._files[name].get_tensor(name)
        return found


def _keys(opened: Any) -> list[str]:
    keys: list[str] = opened.keys()
    return keys


def model_files(folder: Path) -> TensorFiles:
    """The weights of a model in Hugging Face format."""
    return TensorFiles(sorted(folder.glob("*.safetensors")))


def compare_weights(reference: TensorFiles, candidate: TensorFiles) -> WeightsDeviation:
    """Over all floating-point tensors. Raises `CheckpointError` where names or shapes differ."""
    if reference.names != candidate.names:
        differ = sorted({*reference.names} ^ {*candidate.names})
        raise CheckpointError(f"the models have different tensors: {', '.join(differ[:5])}")
    largest = square = square_reference = 0.0
    for name in reference.names:
        ours, theirs = reference.tensor(name), candidate.tensor(name)
        if ours.shape != theirs.shape:
            raise CheckpointError(f"the models differ: {name} is {ours.shape} and {theirs.shape}")
        if ours.dtype.kind != "f" or not ours.size:
            continue
        ours, difference = ours.astype("f8"), theirs.astype("f8") - ours
        largest = max(largest, float(abs(difference).max()))
        square += float((difference**2).sum())
        square_reference += float((ours**2).sum())
    return WeightsDeviation(largest, sqrt(square / square_reference) if square_reference else 0.0)


def weights_format(files: TensorFiles) -> Dtype:
    """The coarsest format that holds every weight exactly, whatever they are stored as."""
    held = {"bf16": True, "fp16": True}
    for name in files.names:
        tensor = files.tensor(name)
        if tensor.dtype.kind == "f":
            held["bf16"] &= bool(((tensor.astype("f4").view("u4") & _BF16_REST) == 0).all())
            held["fp16"] &= _is_fp16(tensor)
        if not any(held.values()):
            return "fp32"
    return "bf16" if held["bf16"] else "fp16"


def _is_fp16(tensor: NDArray[Any]) -> bool:
    from numpy import errstate

    with errstate(over="ignore"):
        return bool((tensor.astype("f2").astype(tensor.dtype) == tensor).all())


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]]) -> None:
    """One safetensors file, marked as Transformers expects it."""
    from safetensors.numpy import save_file

    save_file(dict(tensors), path, metadata={"format": "pt"})
