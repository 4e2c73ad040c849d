from __future__ import annotations

import time
from pathlib import Path

import pytest

from galley.system.machine import has_bf16, memory_gib, physical_cores, probe, visible_gpus

TABLE = "0, GPU-aaaa1111, 81559\n1, GPU-bbbb2222, 40960\n2, GPU-aabb3333, 81559\n"


def make_sys(root: Path, siblings: dict[int, str], file: str = "core_cpus_list") -> Path:
    for cpu, text in siblings.items():
        topology = root / f"devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / file).write_text(text + "\n")
    return root


def write_cgroup(root: Path, name: str, text: str) -> None:
    file = root / "fs/cgroup" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text + "\n")


@pytest.mark.parametrize("file", ["core_cpus_list", "thread_siblings_list"])
def test_threads_of_one_core_are_one_core(tmp_path: Path, file: str) -> None:
    root = make_sys(tmp_path, {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}, file)
    assert physical_cores(root, {0, 1, 4, 5}) == 2


def test_cores_of_two_sockets_are_told_apart_although_their_core_ids_are_equal(tmp_path: Path) -> None:
    root = make_sys(tmp_path, {0: "0", 1: "1"})
    for cpu in (0, 1):
        (root / f"devices/system/cpu/cpu{cpu}/topology/core_id").write_text("0\n")
    assert physical_cores(root, {0, 1}) == 2


def test_only_the_cpus_of_the_affinity_count(tmp_path: Path) -> None:
    root = make_sys(tmp_path, {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"})
    assert physical_cores(root, {0, 1}) == 1
    assert physical_cores(root, {1, 2}) == 2


def test_without_topology_every_cpu_is_a_core(tmp_path: Path) -> None:
    assert physical_cores(tmp_path, {0, 1, 2}) == 3


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 4), ("200000 100000", 2), ("250000 100000", 2), ("50000 100000", 1)]
)
def test_a_cgroup_quota_limits_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    root = make_sys(tmp_path, {cpu: str(cpu) for cpu in range(4)})
    write_cgroup(root, "cpu.max", quota)
    assert physical_cores(root, {0, 1, 2, 3}) == cores


@pytest.mark.parametrize(
    ("limit", "expected"), [("max", 16.0), (str(4 * 2**30), 4.0), (str(99 * 2**30), 16.0)]
)
def test_memory_is_the_less_of_machine_and_cgroup(tmp_path: Path, limit: str, expected: float) -> None:
    write_cgroup(tmp_path, "memory.max", limit)
    assert memory_gib(tmp_path, 16 * 2**30) == expected


def test_memory_without_a_cgroup(tmp_path: Path) -> None:
    assert memory_gib(tmp_path, 16 * 2**30) == 16.0


@pytest.mark.parametrize(
    ("chosen", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("1", [1]),
        ("2,0", [2, 0]),
        ("0, 1", [0, 1]),
        ("0,9,1", [0]),
        ("GPU-bbbb2222", [1]),
        ("GPU-aaaa", [0]),
        ("GPU-aa", []),
        ("NoDevFiles", []),
    ],
)
def test_visible_gpus_are_those_that_cuda_shows(chosen: str | None, indices: list[int]) -> None:
    env = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    memory = ["81559", "40960", "81559"]
    assert visible_gpus(TABLE, env) == [memory[index] for index in indices]


@pytest.mark.parametrize(
    ("capability", "expected"),
    [("7.5", False), ("8.0", True), ("9.0", True), ("12.0", True), ("[N/A]", False)],
)
def test_bf16_came_with_ampere(capability: str, expected: bool) -> None:
    assert has_bf16(capability) == expected


def test_a_message_in_place_of_a_table_is_no_gpu() -> None:
    assert visible_gpus("No devices were found\n", {}) == []


def make_nvidia_smi(folder: Path, body: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{body}\n")
    tool.chmod(0o755)


@pytest.fixture(autouse=True)
def probed_afresh() -> None:
    probe.cache_clear()


def test_the_tool_on_the_path_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = "0, GPU-aaaa1111, 9.0\n1, GPU-bbbb2222, 7.0\n2, GPU-aabb3333, 8.6\n"
    body = f"case $1 in *compute_cap*) cat <<'.'\n{capabilities}.\n;; *) cat <<'.'\n{TABLE}.\n;; esac"
    make_nvidia_smi(tmp_path, body)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    facts = probe()
    assert (facts.gpus, facts.gpu_memory_gib, facts.bf16) == (3, 40.0, False)
    probe.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,2")
    assert probe().bf16


def test_a_driver_that_knows_neither_memory_nor_capability(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "case $1 in *compute_cap*) exit 2 ;; *) echo '0, GPU-a, [N/A]' ;; esac"
    make_nvidia_smi(tmp_path, body)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    facts = probe()
    assert (facts.gpus, facts.gpu_memory_gib, facts.bf16) == (1, 0.0, False)


def test_a_tool_without_a_driver_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_nvidia_smi(tmp_path, "echo 'could not communicate with the NVIDIA driver' >&2; exit 9")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert probe().gpus == 0


def test_probing_a_machine_without_gpus_takes_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    times = []
    for _ in range(5):
        started = time.perf_counter()
        probe.cache_clear()
        facts = probe()
        times.append(time.perf_counter() - started)
    assert min(times) < 0.01
    assert facts.physical_cores >= 1
    assert facts.memory_gib > 0
