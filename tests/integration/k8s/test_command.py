"""The whole command on the emulated cluster: real kubectl, real torchrun, real training in the pods."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from galley.rundir import RunFolder
from galley.seal import snapshot_sha256
from launchers.k8s.launcher import K8sLauncher
from launchers.run import write_plan
from tests.integration.k8s.api_server import ApiServer
from tests.integration.k8s.cluster import Cluster, wait_for
from tests.integration.k8s.conftest import free_port, use
from tests.integration.local.standin import FACTS, make_run
from tests.support import Finished, run_galley, run_process

TINY = (
    "recipe=quickstart",
    "data.max_samples=64",
    "data.max_length=16",
    "train.max_steps=4",
    "train.log_every_steps=1",
    "eval.enabled=false",
    "cluster.threads_per_proc=1",
)
TWO_NODES = ("launcher=k8s", "cluster.nodes=2", "cluster.procs_per_node=1")


def losses(folder: RunFolder) -> list[float]:
    return [row["loss"] for row in folder.read_metrics() if "loss" in row]


@pytest.mark.timeout(600)
def test_two_pods_train_as_this_machine_does(cluster: Cluster, tmp_path: Path) -> None:
    """By ConfigMap: nothing but the cluster's API connects the pods with this folder."""
    local, folder = RunFolder(tmp_path / "local"), RunFolder(tmp_path / "here")
    done = run_galley([*TINY, "cluster.procs_per_node=2", f"run_dir={local.root}"], timeout=240)
    assert done.rc == 0, done.err
    done = run_galley([*TINY, *TWO_NODES, f"run_dir={folder.root}", "--json"], timeout=240)
    assert done.rc == 0, done.err + "".join(log.read_text() for log in tmp_path.glob("pods/*/log"))
    assert "kubernetes: context lab, namespace team-a" in done.err
    result = json.loads(done.out.splitlines()[-1])
    assert (result["state"], result["steps"], result["world_size"]) == ("succeeded", 4, 2)
    assert losses(folder) == pytest.approx(losses(local), rel=1e-6)
    assert len(losses(folder)) == 4
    assert (cluster.claim / _pod_folder(cluster) / "model" / "model.safetensors").exists()
    log = run_galley(["logs", folder.root, "--rank", "1"])
    assert (log.rc, log.out) == (0, folder.rank_log(1, 1).read_text())


@pytest.mark.parametrize(("behavior", "state"), [("succeed", "succeeded"), ("raise_on_one_rank", "failed")])
def test_a_train_job_runs(cluster: Cluster, tmp_path: Path, behavior: str, state: str) -> None:
    """Two pods with stand-ins for ranks; results and errors come back by the pods' logs."""
    folder = make_run(tmp_path / "run", behavior, STANDIN_RANK="1")
    spec = folder.read_spec()
    launcher = replace(spec.recipe.launcher, kind="trainjob")
    layout = replace(spec.layout, nodes=2, procs_per_node=1)
    code = replace(spec.code, sha256=snapshot_sha256(folder))
    spec = replace(spec, recipe=replace(spec.recipe, launcher=launcher), layout=layout, code=code)
    folder.write_spec(spec)
    plan = K8sLauncher().plan(spec, folder.root, FACTS, attempt=1)
    write_plan(plan, folder)
    handle = K8sLauncher().submit(plan, folder)
    wait_for(lambda: K8sLauncher().poll(handle, folder) == state, 60)
    if state == "succeeded":
        assert len(list(folder.read_metrics())) == 8
        result = folder.read_result()
        assert result is not None
        assert result.metrics == {"eval/f1": 0.8, "train/loss": 0.1667}
    else:
        assert [error.rank for error in folder.read_rank_errors(1)] == [1]


def _pod_folder(cluster: Cluster) -> str:
    (only,) = [path for path in cluster.claim.iterdir() if (path / "run.json").exists()]
    return only.name


def submit(folder: Path, *words: str, env: dict[str, str | None] | None = None) -> Finished:
    return run_galley([*TINY, *TWO_NODES, "detach=true", f"run_dir={folder}", *words], env=env)


def state_of(folder: Path) -> str:
    return str(json.loads(run_galley(["status", folder, "--json"]).out)["state"])


def test_a_detached_run_is_seen_and_cancelled_from_elsewhere(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start = False
    folder = tmp_path / "run"
    assert submit(folder).rc == 0
    assert state_of(folder) == "queued"
    done = run_galley(["cancel", folder])
    assert (done.rc, done.out.strip()) == (0, "cancelled"), done.err
    wait_for(lambda: not cluster.server.store.objects)
    assert state_of(folder) == "cancelled"
    assert submit_again(folder).rc == 0, "resume is a job of its own"
    (job,) = cluster.server.objects("pytorchjobs")
    assert job["metadata"]["name"].endswith("-2")


def submit_again(folder: Path) -> Finished:
    """`resume`, left alone as soon as the job is there."""
    code = f"""
import sys
from launchers import run
from launchers.k8s.launcher import K8sLauncher
from galley.rundir import RunFolder
from pathlib import Path
folder = RunFolder(Path({str(folder)!r}))
spec = folder.read_spec()
facts = K8sLauncher().facts(spec.recipe, folder)
sys.exit(run.launch(spec, folder, facts, attempt=2, detach=True))
"""
    return run_process([sys.executable, "-P", "-c", code])


def test_what_run_sends_is_what_plan_printed(api: ApiServer, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    words = [*TINY, *TWO_NODES, f"run_dir={folder}"]
    printed = json.loads(run_galley(["plan", "--json", *words]).out.splitlines()[-1])
    assert submit(folder).rc == 0
    assert (folder / "plan" / "manifest.yaml").read_text() == printed["files"]["manifest.yaml"]
    kept = json.loads((folder / "plan" / "launch.json").read_text())
    assert kept["argv"] == printed["argv"]
    assert {key[0] for key in api.store.objects} == {"configmaps", "pytorchjobs"}


def test_a_job_that_exists_is_left_alone(api: ApiServer, tmp_path: Path) -> None:
    words = ("launcher.k8s.name=mine",)
    assert submit(tmp_path / "first", *words).rc == 0
    before = json.dumps(api.objects("pytorchjobs"))
    refused = submit(tmp_path / "second", *words)
    assert refused.rc == 3
    assert 'pytorchjobs.kubeflow.org "mine-1" already exists (context lab, namespace team-a)' in refused.err
    assert json.dumps(api.objects("pytorchjobs")) == before
    assert len(api.objects("configmaps")) == 2


def test_a_refused_job_leaves_nothing_behind(api: ApiServer, tmp_path: Path) -> None:
    api.store.forbidden.add(("create", "pytorchjobs"))
    refused = submit(tmp_path / "run")
    assert refused.rc == 3
    assert 'User "alice" cannot create resource "pytorchjobs" in API group "kubeflow.org"' in refused.err
    assert api.store.objects == {}


def test_a_cluster_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kubectl: str
) -> None:
    use(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)
    refused = submit(tmp_path / "run")
    assert refused.rc == 3
    assert "refused" in refused.err


def test_without_kubectl_the_same_objects_are_sent(api: ApiServer, tmp_path: Path) -> None:
    bare = tmp_path / "bin"
    bare.mkdir()
    assert submit(tmp_path / "run", env={"PATH": str(bare)}).rc == 0
    (job,) = api.objects("pytorchjobs")
    assert not any("kubectl" in request for request in api.requests)
    assert job["spec"]["nprocPerNode"] == "1"


def test_planning_needs_neither_kubectl_nor_torch(tmp_path: Path) -> None:
    code = """
import sys
from galley.cli import main
assert main(sys.argv[1:]) == 0
heavy = {"torch", "kubernetes", "transformers", "deepspeed"} & set(sys.modules)
assert not heavy, heavy
"""
    words = ["plan", "--json", *TINY, *TWO_NODES]
    done = run_process([sys.executable, "-P", "-c", code, *words], env={"PATH": str(tmp_path)})
    assert done.rc == 0, done.err
    assert "PyTorchJob" in json.loads(done.out.splitlines()[-1])["files"]["manifest.yaml"]


def test_a_wrong_request_is_refused_before_anything_is_written(api: ApiServer, tmp_path: Path) -> None:
    refused = submit(tmp_path / "run", "launcher.k8s.name=Not_A_Name", "launcher.k8s.claim=-")
    assert refused.rc == 2
    assert "PyTorchJob metadata.name" in refused.err
    assert "persistentVolumeClaim.claimName" in refused.err
    assert not (tmp_path / "run").exists()
    assert api.requests == []


def test_hostile_values_reach_the_ranks_as_they_are(cluster: Cluster, tmp_path: Path) -> None:
    """Read back from the environment of the pod's first process."""
    hostile = "$(HOME) `id`; 'a' \"b\" $HOME 1e5 #é"
    assert (
        submit(
            tmp_path / "run", "--json", f"+launcher.env.HOSTILE={json.dumps(hostile, ensure_ascii=False)}"
        ).rc
        == 0
    )
    pods = wait_for(lambda: [pod for pods in cluster.jobs.values() for pod in pods if pod.process])
    environ = Path(f"/proc/{pods[0].process.pid}/environ")
    values = wait_for(lambda: os.fsdecode(environ.read_bytes())).split("\0")
    assert f"HOSTILE={hostile}" in values
