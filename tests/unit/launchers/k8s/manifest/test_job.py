from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml

from galley.errors import ConfigError
from galley.spec import ClusterFacts, RunSpec, to_json
from launchers.k8s.launcher import MANIFEST
from launchers.k8s.manifest.job import UNPACK
from tests.support import REPO
from tests.unit.launchers.k8s.runs import RUN_DIR, job_of, make_spec, objects, plan, pod_of

GOLDEN = REPO / "tests" / "golden" / "k8s"
EVERYTHING: dict[str, Any] = {
    "namespace": "team-a",
    "context": "lab",
    "image": "registry.example.org/galley:cuda",
    "image_pull_secrets": ["registry"],
    "claim": "runs",
    "shm_gib": 8,
    "node_selector": {"node-type": "gnr"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "service_account": "trainer",
    "priority_class": "research",
    "queue": "team-a-queue",
    "gang": "volcano",
    "keep_s": 86400,
}
NODE = {"gpus_per_node": 2, "cpus_per_node": 16, "memory_gib_per_node": 128, "time_limit_min": 90}


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_golden(kind: str) -> None:
    """The whole manifest, but for the sealed run and the program that unpacks it: those are data."""
    golden = (GOLDEN / f"{kind}.yaml").read_text()
    assert without_data(full_spec(kind)) == golden


def full_spec(kind: str) -> RunSpec:
    env = {"MODE": "a 'b' $c", "RATE": "1e5"}
    return make_spec({**EVERYTHING, "kind": kind}, NODE, device="cuda", env=env)


def without_data(spec: RunSpec) -> str:
    text = plan(spec).files[MANIFEST]
    labels = objects(spec)[-1]["metadata"]["labels"]
    for data, mark in ((to_json(spec), "RUN"), (UNPACK.read_text(), "UNPACK")):
        block = textwrap.indent(data, "    ")
        assert block in text, f"{mark} is in the manifest as it was sealed"
        text = text.replace(block, f"    {mark}\n")
    names = {spec.sha256: "SHA256", spec.sha256[:12]: "RUN", labels["app.kubernetes.io/instance"]: "NAME"}
    for found, mark in names.items():
        text = text.replace(found, mark)
    return text


def test_equal_arguments_equal_bytes() -> None:
    assert plan(make_spec()) == plan(make_spec())


def test_argv_names_the_files_and_the_place() -> None:
    argv = plan(make_spec({"namespace": "team-a", "context": "lab"})).argv
    files = [str(RUN_DIR / "plan" / name) for name in ("code.json", "manifest.yaml")]
    assert argv == (
        "kubectl",
        "create",
        "-f",
        files[0],
        "-f",
        files[1],
        "--context=lab",
        "--namespace=team-a",
    )


def test_kubectl_reads_file_names_as_csv() -> None:
    argv = plan(make_spec(), run_dir=Path('/runs/a, "b"')).argv
    assert argv[3] == '"/runs/a, ""b""/plan/code.json"'


def test_two_nodes_are_a_master_and_a_worker() -> None:
    replicas = job_of(make_spec())["spec"]["pytorchReplicaSpecs"]
    assert {role: replica["replicas"] for role, replica in replicas.items()} == {"Master": 1, "Worker": 1}
    assert "Worker" not in job_of(make_spec(nodes=1))["spec"]["pytorchReplicaSpecs"]


def test_elastic_workers() -> None:
    job = job_of(make_spec({"min_nodes": 1, "max_nodes": 4, "max_restarts": 10}, nodes=3))
    assert job["spec"]["elasticPolicy"] == {
        "rdzvBackend": "c10d", "minReplicas": 1, "maxReplicas": 4, "maxRestarts": 10
    }  # fmt: skip
    hasty = job_of(make_spec({"max_nodes": 4, "last_call_s": 5}, nodes=3))
    assert hasty["spec"]["elasticPolicy"]["rdzvConf"] == [{"key": "last_call_timeout", "value": "5"}]
    replicas = job["spec"]["pytorchReplicaSpecs"]
    assert (list(replicas), replicas["Worker"]["replicas"]) == (["Worker"], 3)
    command = pod_of(job)["containers"][0]["command"]
    assert "--nnodes=1:4" in command
    assert "--max-restarts=10" in command
    assert "--elastic" in command


def test_the_kind_may_be_the_launchers_own() -> None:
    for kind, found in (("pytorchjob", "PyTorchJob"), ("trainjob", "TrainJob")):
        spec = make_spec()
        spec = type(spec)(**{**vars(spec), "recipe": _with_kind(spec.recipe, kind)})
        assert job_of(spec)["kind"] == found


def _with_kind(recipe: Any, kind: str) -> Any:
    launcher = type(recipe.launcher)(**{**vars(recipe.launcher), "kind": kind})
    return type(recipe)(**{**vars(recipe), "launcher": launcher})


def test_a_train_job_brings_its_runtime_or_names_one() -> None:
    kinds = [body["kind"] for body in objects(make_spec({"kind": "trainjob"}))]
    assert kinds == ["ConfigMap", "ClusterTrainingRuntime", "TrainJob"]
    named = objects(make_spec({"kind": "trainjob", "runtime": "torch-distributed"}))
    assert [body["kind"] for body in named] == ["ConfigMap", "TrainJob"]
    assert named[1]["spec"]["runtimeRef"]["name"] == "torch-distributed"


@pytest.mark.parametrize("kind", ["pytorchjob", "trainjob"])
def test_secrets_are_references(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_value")
    found = plan(make_spec({"kind": kind, "secret": "keys"}, forward_env=["HF_TOKEN"]))
    job = yaml.safe_load_all(found.files[MANIFEST])
    env = _env(list(job)[-1])
    reference = {"name": "keys", "key": "HF_TOKEN", "optional": True}
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}} in env
    assert "hf_value" not in to_json(found)


def _env(job: dict[str, Any]) -> list[dict[str, Any]]:
    if job["kind"] == "TrainJob":
        return list(job["spec"]["trainer"]["env"])
    return list(pod_of(job)["containers"][0]["env"])


@pytest.mark.parametrize("value", ["2", "true", "1e5", "0o17", "no", "", "~", "a\nb\n", "tab\t", " x ", "é"])
def test_every_value_stays_text(value: str) -> None:
    env = _env(job_of(make_spec(env={"X": value})))
    assert next(variable for variable in env if variable["name"] == "X")["value"] == value


def test_dollars_are_not_references() -> None:
    env = _env(job_of(make_spec(env={"X": "$(HOME) $$ $HOME"})))
    assert {"name": "X", "value": "$$(HOME) $$$$ $$HOME"} in env


def test_requests_are_limits_and_gpus_are_counted() -> None:
    spec = make_spec({"gpu_resource": "amd.com/gpu"}, NODE, device="cuda")
    resources = pod_of(job_of(spec))["containers"][0]["resources"]
    assert resources["limits"] == {"cpu": "16", "memory": "128Gi", "amd.com/gpu": "2"}
    assert resources["requests"] == resources["limits"]
    bare = pod_of(job_of(make_spec()))["containers"][0]["resources"]
    assert bare["limits"] == {"cpu": "4"}


def test_pods_are_not_root() -> None:
    pod = pod_of(job_of(make_spec({"run_as_user": 2000})))
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 2000
    security = pod["containers"][0]["securityContext"]
    assert security == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_shm_is_memory_and_the_run_is_on_the_claim() -> None:
    pod = pod_of(job_of(make_spec({"claim": "runs", "mount_path": "/data", "shm_gib": 0.5})))
    volumes = {volume.pop("name"): volume for volume in pod["volumes"]}
    assert volumes["shm"] == {"emptyDir": {"medium": "Memory", "sizeLimit": "512Mi"}}
    assert volumes["run"] == {"persistentVolumeClaim": {"claimName": "runs"}}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts == {"run": "/data", "source": "/etc/galley", "shm": "/dev/shm"}  # noqa: S108


def test_without_a_claim_nothing_is_kept() -> None:
    pod = pod_of(job_of(make_spec({"claim": None})))
    assert {"name": "run", "emptyDir": {}} in pod["volumes"]


def test_transport_by_claim_sends_no_code() -> None:
    spec = make_spec({"transport": "claim", "claim_here": "/runs"})
    found = plan(spec)
    assert [word for word in found.argv if word.endswith(".yaml")] == [
        str(RUN_DIR / "plan" / "manifest.yaml")
    ]
    pod = pod_of(objects(spec)[-1])
    command = pod["containers"][0]["command"]
    assert command[command.index("--run-dir") + 1] == f"/galley/{RUN_DIR.name}"
    assert "--send-files" not in command


def test_another_attempt_is_another_job_in_the_same_folder() -> None:
    first, second = job_of(make_spec()), job_of(make_spec(), attempt=2)
    assert first["metadata"]["name"].removesuffix("-1") == second["metadata"]["name"].removesuffix("-2")
    assert {"name": "GALLEY_RESUME", "value": "1"} in _env(second)
    folders = {pod_of(job)["containers"][0]["command"][4] for job in (first, second)}
    assert len(folders) == 1


@pytest.mark.parametrize("name", ["UPPER_case", "x" * 200, "9 lives", "é", "--", "a.b.c"])
def test_any_folder_gives_a_name(name: str) -> None:
    job = job_of(make_spec(), attempt=12, run_dir=Path("/runs") / name)
    assert len(job["metadata"]["name"] + "-worker-999") <= 63


def test_folders_of_the_same_name_are_different_jobs() -> None:
    names = {job_of(make_spec(), run_dir=Path(f"/{user}/run"))["metadata"]["name"] for user in ("ann", "bob")}
    assert len(names) == 2


def test_the_grace_follows_from_the_measured_save() -> None:
    def grace(spec: Any, save_s: float = 0.0) -> int:
        facts = ClusterFacts("a node", 0, 0.0, 4, 0.0, save_s=save_s)
        return int(pod_of(job_of(spec, facts=facts))["terminationGracePeriodSeconds"])

    assert grace(make_spec()) == 30
    assert grace(make_spec(), save_s=100.2) == 201
    assert grace(make_spec(grace_s=45.5)) == 46
    assert grace(make_spec({"termination_grace_s": 5}), save_s=100) == 5


def test_gangs_and_queues() -> None:
    job = job_of(make_spec({"gang": "coscheduling", "queue": "q", "priority_class": "high"}))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"
    policy = job["spec"]["runPolicy"]
    assert policy["schedulingPolicy"] == {
        "minAvailable": 2, "scheduleTimeoutSeconds": 600, "priorityClass": "high"
    }  # fmt: skip
    assert policy["cleanPodPolicy"] == "Running"
    assert pod_of(job)["schedulerName"] == "scheduler-plugins-scheduler"
    groups: dict[str, Any] = {"volcano": {}, "coscheduling": {"scheduleTimeoutSeconds": 9}}
    for gang, group in groups.items():
        timeout = {"gang_timeout_s": 9} if group else {}
        runtime = objects(make_spec({"kind": "trainjob", "gang": gang, **timeout}))[1]
        assert runtime["spec"]["podGroupPolicy"] == {gang: group}


@pytest.mark.parametrize(
    ("k8s", "key"),
    [
        ({"min_nodes": 2}, "launcher.k8s.min_nodes"),
        ({"kind": "trainjob", "max_nodes": 4}, "launcher.k8s.max_nodes"),
        ({"kind": "trainjob", "runtime": "r", "gang": "volcano"}, "launcher.k8s.gang"),
        ({"kind": "trainjob", "runtime": "r", "priority_class": "p"}, "launcher.k8s.priority_class"),
        ({"transport": "claim"}, "launcher.k8s.claim_here"),
        ({"transport": "claim", "claim": None, "claim_here": "/runs"}, "launcher.k8s.transport"),
        ({"transport": "claim", "claim_here": "/elsewhere"}, f"run_dir={RUN_DIR}"),
        ({"claim_here": "/runs"}, "launcher.k8s.claim_here"),
        ({"claim": None, "max_nodes": 3}, "launcher.k8s.max_nodes"),
        ({"name": "Not_A_Name"}, "launcher.k8s.name"),
        ({"name": "x" * 52}, "launcher.k8s.name"),
        ({"min_nodes": 5, "max_nodes": 4}, "PyTorchJob spec.elasticPolicy.minReplicas"),
        ({"max_nodes": 1}, "PyTorchJob spec.pytorchReplicaSpecs.Worker.replicas"),
        ({"tolerations": [{"key": "a", "operator": "Has"}]}, "tolerations[0].operator"),
        ({"tolerations": [{"key": "a", "operatr": "Exists"}]}, "tolerations[0].operatr"),
        ({"node_selector": {"a b": "c"}}, "nodeSelector.a b"),
        ({"image": "<image name>:<tag>"}, "launcher.k8s.image"),
        ({"mount_path": "data"}, "volumeMounts[0].mountPath"),
        ({"secret": "no secret"}, "launcher.k8s.secret"),
    ],
)
def test_what_cannot_run_is_refused_by_the_plan(k8s: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as error:
        plan(make_spec(k8s))
    assert any(key in problem.where for problem in error.value.problems), error.value


def test_variables_of_the_operator_are_refused() -> None:
    with pytest.raises(ConfigError, match="PET_NNODES is set by the operator"):
        plan(make_spec({"kind": "trainjob"}, env={"PET_NNODES": "3"}))


@pytest.mark.parametrize("k8s", [{"max_nodes": 4}, {"max_restarts": 2}])
def test_ranks_that_may_start_again_go_on_from_their_checkpoint(k8s: dict[str, Any]) -> None:
    """Also when pods come and go, which restarts all ranks without a failure."""
    values = {entry["name"]: entry.get("value") for entry in _env(job_of(make_spec(k8s)))}
    assert values["GALLEY_RESUME"] == "1"
    assert (values.get("GALLEY_ELASTIC") == "1") == ("max_nodes" in k8s)
