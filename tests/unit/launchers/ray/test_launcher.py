"""The plan of a Ray job, and what its job says where something is missing."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from galley.errors import ConfigError
from galley.schema import Cluster, Ray
from galley.spec import RunSpec
from launchers.ray import driver
from launchers.ray.driver import NODE_LOST
from launchers.ray.launcher import RayLauncher, bundle, is_lost
from tests.integration.local.standin import FACTS, make_spec

RUN_DIR = Path('/runs/it\'s "here"; #é')


def make_ray_spec(
    cluster: Cluster | None = None, address: str = Ray().address, **resources: float
) -> RunSpec:
    spec = make_spec()
    ray = Ray(address=address, resources=resources)
    launcher = replace(spec.recipe.launcher, kind="ray", ray=ray)
    return replace(spec, recipe=replace(spec.recipe, launcher=launcher, cluster=cluster or Cluster()))


def test_the_entrypoint_is_the_plans_command_for_any_path() -> None:
    plan = RayLauncher("python").plan(make_ray_spec(), RUN_DIR, FACTS, 2)
    job = json.loads(plan.files["job.json"])
    assert shlex.split(job["entrypoint"]) == list(plan.argv)
    assert job["runtime_env"]["env_vars"] == {"PYTHONPATH": f"{RUN_DIR}/code"}
    assert job["submission_id"].startswith("galley-it-s-here")
    assert job["submission_id"].endswith("-2")


def test_a_bundle_is_what_a_node_is_asked_for() -> None:
    assert bundle(make_ray_spec()) == {"CPU": 2}
    cluster = Cluster(cpus_per_node=16, gpus_per_node=4, memory_gib_per_node=1.5)
    spec = make_ray_spec(cluster, fast_disk=1)
    spec = replace(spec, layout=replace(spec.layout, device="cuda"))
    assert bundle(spec) == {"CPU": 16, "GPU": 4, "memory": 3 * 2**29, "fast_disk": 1}


def test_a_path_that_ray_would_change_is_refused() -> None:
    with pytest.raises(ConfigError, match="which Ray would expand"):
        RayLauncher().plan(make_ray_spec(), Path("/runs/$HOME"), FACTS, 1)


@pytest.mark.parametrize(
    "address",
    ["http://head:8265", "https://ray.example.org", "http://10.0.0.1:65535", "http://[::1]:8265",
     "https://[fe80::1]"],
)  # fmt: skip
def test_an_address_of_a_dashboard_is_taken(address: str) -> None:
    RayLauncher().facts(make_ray_spec(address=address).recipe)


@pytest.mark.parametrize(
    "address",
    ["10.0.0.1", "ftp://head:8265", "http://", "http://head:dashboard", "http://head:0", "http://head:65536",
     "http://head:8265/jobs", "http://::1:8265", "http://[::1", "http://[head]:8265", "http://me@head:8265",
     "http://two hosts:1"],
)  # fmt: skip
def test_another_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a dashboard") as raised:
        RayLauncher().facts(make_ray_spec(address=address).recipe)
    assert raised.value.problems[0].where == f"launcher.ray.address={address}" or "@" in address


def test_an_address_with_a_password_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigError, match="goes into the variable RAY_AUTH_TOKEN") as raised:
        RayLauncher().facts(make_ray_spec(address="http://me:hunter22@head:8265").recipe)
    assert "hunter22" not in str(raised.value)


def test_a_cluster_without_ray_in_this_environment_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["driver", "--run-dir", "/runs/x"])
    assert driver.main() == 1
    assert "has no Ray: pip install" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("job", "lost"),
    [
        ({"driver_exit_code": NODE_LOST}, True),
        ({"driver_exit_code": 137}, True),
        ({"driver_exit_code": -9}, True),
        ({"driver_exit_code": None, "error_type": "JOB_SUPERVISOR_ACTOR_DIED"}, True),
        ({"driver_exit_code": 1, "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}, False),
        ({"error_type": "RUNTIME_ENV_SETUP_FAILURE"}, False),
    ],
)
def test_a_job_that_was_ended_from_outside_is_lost(job: dict[str, object], lost: bool) -> None:
    assert is_lost(job) == lost
