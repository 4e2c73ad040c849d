"""Weights compared and classified from files, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from galley.errors import CheckpointError
from galley.report.weights import TensorFiles, compare_weights, model_files, weights_format, write_tensors


def saved(path: Path, **tensors: object) -> TensorFiles:
    save_file({name: np.asarray(value) for name, value in tensors.items()}, path)
    return TensorFiles([path])


def test_deviation_is_over_all_tensors_and_leaves_counters_out(tmp_path: Path) -> None:
    a = saved(tmp_path / "a", x=np.float32([3.0, 0.0]), y=np.float32([[4.0]]), n=np.int64([1]))
    b = saved(tmp_path / "b", x=np.float32([3.0, 0.25]), y=np.float32([[4.0]]), n=np.int64([9]))
    found = compare_weights(a, b)
    assert (found.largest, found.rms) == (0.25, 0.05)


def test_sharded_files_are_one_model(tmp_path: Path) -> None:
    write_tensors(tmp_path / "model-1.safetensors", {"x": np.ones(2, "f4")})
    write_tensors(tmp_path / "model-2.safetensors", {"y": np.zeros(1, "f4")})
    assert model_files(tmp_path).names == ["x", "y"]


def test_other_names_and_shapes_are_refused_by_name(tmp_path: Path) -> None:
    one, other = saved(tmp_path / "a", x=np.ones(2, "f4")), saved(tmp_path / "b", z=np.ones(2, "f4"))
    with pytest.raises(CheckpointError, match="x, z"):
        compare_weights(one, other)
    with pytest.raises(CheckpointError, match=r"x is \(2,\) and \(3,\)"):
        compare_weights(one, saved(tmp_path / "c", x=np.ones(3, "f4")))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match=r"bad\.safetensors: cannot be read"):
        model_files(tmp_path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 0.1], "fp32"), ([1.0, -0.3359375, 3e38 / 3], "fp32"), ([1.0, 0.3359375, 2.0**100], "bf16"),
     ([1.0, 1.0009765625], "fp16")],
)  # fmt: skip
def test_the_coarsest_format_that_holds_every_weight(
    tmp_path: Path, values: list[float], expected: str
) -> None:
    assert weights_format(saved(tmp_path / "a", x=np.float32(values))) == expected
