"""The whole command on the emulated cluster: real kubectl, real torchrun, real training in the pods."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from galley.run.seal import snapshot_sha256
from galley.rundir import RunFolder
from galley.schema import Batch
from launchers.k8s.launcher import K8sLauncher
from launchers.lifecycle.launch import launch, write_plan
from launchers.lifecycle.prepare import prepare
from launchers.lifecycle.queries import run_state
from tests.integration.conftest import Command
from tests.integration.k8s.api_server import ApiServer
from tests.integration.k8s.cluster import Cluster, wait_for
from tests.integration.k8s.conftest import use
from tests.integration.local.standin import FACTS, make_run
from tests.integration.reference import REFERENCE, TINY, losses
from tests.support import free_port, run_galley, run_process

TWO_NODES = ("launcher=k8s", "cluster.nodes=2", "cluster.procs_per_node=1")


@pytest.mark.timeout(900)
def test_two_pods_train_as_this_machine_does(
    cluster: Cluster, tmp_path: Path, galley: Command, two_ranks_here: Path
) -> None:
    """By ConfigMap: nothing but the cluster's API connects the pods with this folder."""
    folder = RunFolder(tmp_path / "here")
    done = run_galley([*REFERENCE, *TWO_NODES, f"run_dir={folder.root}", "--json"], timeout=600)
    assert done.rc == 0, done.err + "".join(log.read_text() for log in tmp_path.glob("pods/*/log"))
    assert "kubernetes: context lab, namespace team-a" in done.err
    result = json.loads(done.out.splitlines()[-1])
    assert (result["state"], result["steps"], result["world_size"]) == ("succeeded", 4, 2)
    assert losses(folder.root) == pytest.approx(losses(two_ranks_here), rel=1e-6)
    assert len(losses(folder.root)) == 4
    assert (cluster.claim / _pod_folder(cluster) / "model" / "model.safetensors").exists()
    assert galley("logs", folder.root, "--rank", "1")[1] == folder.rank_log(1, 1).read_text()


@pytest.mark.timeout(600)
def test_a_pod_reads_the_data_that_were_sent_along(cluster: Cluster, tmp_path: Path) -> None:
    """And not the folder on this machine, which a pod would not see."""
    data, rows = tmp_path / "data", ["a,b,0", "c,d,1", "e,f,0", "g,h,1"]
    data.mkdir()
    for split in ("train", "dev"):
        (data / f"{split}.csv").write_text("\n".join(["sentence1,sentence2,label", *rows]))
    words = (*REFERENCE, "eval.enabled=false", "train.max_steps=1", "batch.global_size=4")
    upload = (f"data.path={data}", "launcher.k8s.upload=true", "cluster.procs_per_node=1")
    done = run_galley([*words, "launcher=k8s", *upload, f"run_dir={tmp_path / 'here'}"], timeout=600)
    assert done.rc == 0, done.err + "".join(log.read_text() for log in tmp_path.glob("pods/*/log"))
    folder = RunFolder(cluster.claim / _pod_folder(cluster))
    record = folder.read_data()
    assert record is not None
    names = [f"{split}.csv" for split in ("dev", "train")]
    assert [*record.files] == [str(folder.code / "uploads" / "data.path" / name) for name in names]


@pytest.mark.timeout(900)
def test_an_elastic_job_goes_on_without_a_pod_that_was_lost(
    cluster: Cluster, tmp_path: Path, galley: Command
) -> None:
    folder = RunFolder(cluster.claim / "run")
    claim = ("launcher.k8s.transport=claim", f"launcher.k8s.claim_here={cluster.claim}")
    bounds = ("launcher.k8s.min_nodes=1", "launcher.k8s.max_nodes=2", "launcher.k8s.max_restarts=3")
    patience = ("launcher.k8s.last_call_s=4", "launcher.host_timeout_s=12")
    length = ("train.max_steps=20", "train.epochs=100", "checkpoint.every_steps=4", "checkpoint.keep=1")
    words = (*TINY, *TWO_NODES, *claim, *bounds, *patience, *length, "detach=true", f"run_dir={folder.root}")
    assert galley(*words)[0] == 0
    wait_for(lambda: list(folder.checkpoints.glob("step-*/manifest.json")), 280)
    ((_, last),) = cluster.jobs.values()
    last.is_lost = True
    wait_for(lambda: run_state(folder) in ("succeeded", "failed"), 280)
    result = folder.read_result()
    assert result is not None
    assert (result.state, result.steps, result.world_size) == ("succeeded", 20, 1), result
    assert result.batch == Batch(global_size=32, micro_size=16, accumulation=2)


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


def request(folder: Path, *words: str) -> tuple[str, ...]:
    return (*TINY, *TWO_NODES, "detach=true", f"run_dir={folder}", *words)


def test_a_detached_run_is_seen_cancelled_and_resumed(
    cluster: Cluster, tmp_path: Path, galley: Command
) -> None:
    cluster.start = False
    folder = tmp_path / "run"
    assert galley(*request(folder))[0] == 0
    assert json.loads(galley("status", folder, "--json")[1])["state"] == "queued"
    assert galley("cancel", folder)[:2] == (0, "cancelled\n")
    wait_for(lambda: not cluster.server.store.objects)
    assert json.loads(galley("status", folder, "--json")[1])["state"] == "cancelled"
    spec = RunFolder(folder).read_spec()
    facts = K8sLauncher().facts(spec.recipe, RunFolder(folder))
    assert launch(prepare(spec, RunFolder(folder), facts, attempt=2), detach=True) == 0
    (job,) = cluster.server.objects("pytorchjobs")
    assert job["metadata"]["name"].endswith("-2"), "resume is a job of its own"


def test_what_run_sends_is_what_plan_printed(api: ApiServer, tmp_path: Path, galley: Command) -> None:
    """And planning needs neither kubectl nor torch."""
    folder = tmp_path / "run"
    code = """
import sys
from cli.main import main
assert main(sys.argv[1:]) == 0
heavy = {"torch", "kubernetes", "transformers", "deepspeed"} & set(sys.modules)
assert not heavy, heavy
"""
    words = ["plan", "--json", *TINY, *TWO_NODES, f"run_dir={folder}"]
    (tmp_path / "git").symlink_to(shutil.which("git") or "")  # it is part of the seal
    done = run_process([sys.executable, "-P", "-c", code, *words], env={"PATH": str(tmp_path)})
    assert done.rc == 0, done.err
    printed = json.loads(done.out.splitlines()[-1])
    assert galley(*request(folder))[0] == 0
    assert (folder / "plan" / "manifest.yaml").read_text() == printed["files"]["manifest.yaml"]
    kept = json.loads((folder / "plan" / "launch.json").read_text())
    assert kept["argv"] == printed["argv"]
    assert {key[0] for key in api.store.objects} == {"configmaps", "pytorchjobs"}


def test_a_job_that_exists_is_left_alone(api: ApiServer, tmp_path: Path, galley: Command) -> None:
    body = {"apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": "mine-1"}}
    key = ("pytorchjobs", "team-a", "mine-1")
    api.store.put(key, body)
    code, _, said = galley(*request(tmp_path / "run", "launcher.k8s.name=mine"))
    assert code == 3
    assert 'pytorchjobs.kubeflow.org "mine-1" already exists (context lab, namespace team-a)' in said
    assert api.store.objects == {key: body}


def test_a_refused_job_leaves_nothing_behind(api: ApiServer, tmp_path: Path, galley: Command) -> None:
    api.store.forbidden.add(("create", "pytorchjobs"))
    code, _, said = galley(*request(tmp_path / "run"))
    assert code == 3
    assert 'User "alice" cannot create resource "pytorchjobs" in API group "kubeflow.org"' in said
    assert api.store.objects == {}


def test_a_cluster_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kubectl: str, galley: Command
) -> None:
    use(f"http://127.0.0.1:{free_port()}", tmp_path, monkeypatch)
    code, _, said = galley(*request(tmp_path / "run"))
    assert code == 3
    assert "refused" in said


def test_without_kubectl_the_same_objects_are_sent(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, galley: Command
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    code, _, said = galley(*request(tmp_path / "run"))
    assert code == 0, said
    (job,) = api.objects("pytorchjobs")
    assert not any("kubectl" in line for line in api.requests)
    assert job["spec"]["nprocPerNode"] == "1"


def test_a_wrong_request_is_refused_before_anything_is_written(
    api: ApiServer, tmp_path: Path, galley: Command
) -> None:
    words = ("launcher.k8s.name=Not_A_Name", "launcher.k8s.claim=-")
    code, _, said = galley(*request(tmp_path / "run", *words))
    assert code == 2
    assert "launcher.k8s.name=Not_A_Name" in said
    assert "launcher.k8s.claim=-" in said
    assert not (tmp_path / "run").exists()
    assert api.requests == []


def test_hostile_values_reach_the_ranks_as_they_are(
    cluster: Cluster, tmp_path: Path, galley: Command
) -> None:
    """Read back from the environment of the pod's first process."""
    hostile = "$(HOME) `id`; 'a' \"b\" $HOME 1e5 #é"
    quoted = json.dumps(hostile, ensure_ascii=False)
    assert galley(*request(tmp_path / "run", f"+launcher.env.HOSTILE={quoted}"))[0] == 0
    pods = wait_for(lambda: [pod for pods in cluster.jobs.values() for pod in pods if pod.process])
    environ = Path(f"/proc/{pods[0].process.pid}/environ")
    values = wait_for(lambda: os.fsdecode(environ.read_bytes())).split("\0")
    assert f"HOSTILE={hostile}" in values
