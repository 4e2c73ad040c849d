"""What every rank of a plan is given by each cluster: its environment and its command line.

A plan is read as its cluster reads it: torchrun's options by torchrun's own parser, Slurm's scripts by
bash, a manifest by the emulated operators. What the programs then add for each rank is here.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

from galley.schema import Torchrun
from galley.spec import ClusterFacts, LaunchPlan, MpiFacts, MpiFlavor, RunSpec
from launchers.k8s.launcher import MANIFEST, K8sLauncher
from launchers.k8s.manifest.yaml_text import from_yaml
from launchers.k8s.node import agent_environment
from launchers.lifecycle.launch import write_plan
from launchers.local.launcher import LocalLauncher
from launchers.mpi.launcher import MpiLauncher
from launchers.ray.driver import node_command
from launchers.ray.launcher import RayLauncher
from launchers.slurm.launcher import SlurmLauncher
from tests.integration.k8s.cluster import Pod, expand, pytorch_pods, train_pods
from tests.unit.launchers.slurm.bench import Bench

RUN_DIR = Path("/runs/a run")
PORT = 29512
FACTS = ClusterFacts("node0", 0, 0.0, 4, 8.0)
# A stand-in for the interpreter notes what it was given, by node.
NOTE = 'printf "%s\\0" "$@" >"$BENCH/$SLURMD_NODENAME.argv"\nenv -0 >"$BENCH/$SLURMD_NODENAME.environ"\n'
SRUN = 'for node in ${4#--nodelist=}; do\n  SLURMD_NODENAME=$node bash "$RUN_DIR/plan/node.sh"\ndone\n'


@dataclass(frozen=True)
class Given:
    """One rank, as it starts.

    Attributes:
        command: of the rank.
        met_on: the node that `MASTER_ADDR` is; null for a lone rank.
    """

    environ: Mapping[str, str]
    command: Sequence[str]
    met_on: int | None


def names(nodes: int) -> list[str]:
    return [f"node{number}" for number in range(nodes)]


def agents(
    argv: Sequence[str], environ: Mapping[str, str], node: int, hosts: Sequence[str]
) -> Iterator[Given]:
    """The ranks that the command of one node starts: those of torchrun's agent, or a lone one."""
    if "torch.distributed.run" not in argv:
        yield Given(environ, argv, None)
        return
    from torch.distributed.run import config_from_args, get_args_parser

    with mock.patch.dict(os.environ, environ, clear=True):
        words = argv[list(argv).index("torch.distributed.run") + 1 :]
        config, program, arguments = config_from_args(get_args_parser().parse_args(words))
    assert isinstance(program, str)
    assert config.min_nodes == config.max_nodes == len(hosts)
    if len(hosts) == 1:
        host, port = hosts[0], "0"
    else:
        host, _, port = config.rdzv_endpoint.rpartition(":")
    if config.rdzv_backend == "static":
        node = config.rdzv_configs["rank"]
    elif len(hosts) > 1:
        assert config.rdzv_configs["is_host"] == str(int(node == 0)), "one node holds the rendezvous"
        assert config.local_addr is not None or node > 0, "the address of the first rank is not guessed"
        host = host if node else str(config.local_addr)
    size = config.nproc_per_node
    for local_rank in range(size):
        places = {"RANK": node * size + local_rank, "LOCAL_RANK": local_rank, "GROUP_RANK": node}
        sizes = {"WORLD_SIZE": size * len(hosts), "LOCAL_WORLD_SIZE": size}
        set_by_agent = {name: str(value) for name, value in (places | sizes).items()}
        meeting = {"MASTER_ADDR": host, "MASTER_PORT": port}
        yield Given({**environ, **set_by_agent, **meeting}, [program, *arguments], hosts.index(host))


def local(spec: RunSpec, attempt: int, backend: str) -> list[Given]:
    hosts = names(spec.layout.nodes)
    torchrun = Torchrun(f"node0:{PORT}", backend)
    launcher = replace(spec.recipe.launcher, torchrun=torchrun)
    spec = replace(spec, recipe=replace(spec.recipe, launcher=launcher))
    found: list[Given] = []
    for node, host in enumerate(hosts):
        facts = replace(FACTS, node=node, address=host)
        plan = LocalLauncher("python").plan(spec, RUN_DIR, facts, attempt)
        found += agents(plan.argv, plan.env, node, hosts)
    return found


def mpi(spec: RunSpec, attempt: int, flavor: MpiFlavor) -> list[Given]:
    hosts = names(spec.layout.nodes)
    launcher = replace(spec.recipe.launcher, mpi=replace(spec.recipe.launcher.mpi, hosts=hosts))
    spec = replace(spec, recipe=replace(spec.recipe, launcher=launcher))
    facts = replace(FACTS, mpi=MpiFacts(flavor, "mpirun", ""), hosts=tuple(hosts))
    plan = MpiLauncher("python").plan(spec, RUN_DIR, facts, attempt)
    sets, passed = (_open_mpi if flavor == "openmpi" else _hydra)(plan)
    listed = re.findall(r"^(\w+)[ :](?:slots=)?(\d+)$", plan.files["hostfile"], re.MULTILINE)
    assert [host for host, _ in listed] == hosts
    command = plan.argv[plan.argv.index("python") :]
    environ = {name: value for name, value in plan.env.items() if name in passed}
    met_on = hosts.index(environ["MASTER_ADDR"])
    found = []
    for _, slots in listed:
        for local_rank in range(int(slots)):
            values = (len(found), spec.layout.world_size, local_rank, int(slots))
            place = {name: str(value) for name, value in zip(sets, values, strict=True)}
            lone = spec.layout.world_size == 1
            found.append(Given({**environ, **place}, command, None if lone else met_on))
    return found


def _open_mpi(plan: LaunchPlan) -> tuple[Sequence[str], set[str]]:
    """(rank, size, local rank, local size) as it names them; the variables that it passes on."""
    passed = {word for flag, word in zip(plan.argv, plan.argv[1:], strict=False) if flag == "-x"}
    return [f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")], passed


def _hydra(plan: LaunchPlan) -> tuple[Sequence[str], set[str]]:
    assert "-genvall" in plan.argv
    return ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"), set(plan.env)


def slurm(spec: RunSpec, attempt: int) -> list[Given]:
    hosts = [f"node{number + 1}.example" for number in range(spec.layout.nodes)]  # as `Bench` calls them
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), spec, attempt)
        bench.program("python", NOTE)
        plan = SlurmLauncher(str(bench.root / "bin" / "python")).plan(spec, bench.folder.root, FACTS, attempt)
        write_plan(plan, bench.folder)
        (bench.root / "nodes").write_text("".join(f"node{n + 1}\n" for n in range(spec.layout.nodes)))
        bench.program("srun", f"IFS=,\n{SRUN}" + bench.leave_result("succeeded", attempt))
        code, said = bench.run(RUN_DIR=str(bench.folder.root))
        assert code == 0, said
        found: list[Given] = []
        for node, host in enumerate(hosts):
            name = host.removesuffix(".example")
            python = str(bench.root / "bin" / "python")
            argv = [python, *_noted(bench.root / f"{name}.argv")]
            environ = dict(row.split("=", 1) for row in _noted(bench.root / f"{name}.environ"))
            found += agents(argv, environ, node, hosts)
    return found


def _noted(path: Path) -> list[str]:
    return path.read_bytes().decode().split("\0")[:-1]


def k8s(spec: RunSpec, attempt: int, kind: str) -> list[Given]:
    launcher = replace(spec.recipe.launcher, k8s=replace(spec.recipe.launcher.k8s, kind=kind))
    spec = replace(spec, recipe=replace(spec.recipe, launcher=launcher))
    plan = K8sLauncher().plan(spec, RUN_DIR, FACTS, attempt)
    _, *runtimes, job = from_yaml(plan.files[MANIFEST])
    pods = train_pods(job, runtimes[0], PORT) if runtimes else pytorch_pods(job, PORT)
    found: list[Given] = []
    for node, pod in enumerate(pods):
        argv, environ = _container(pod)
        ours, theirs = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
        assert spec.sha256 in ours, "what is unpacked is this run"
        settings, command = theirs[: theirs.index("--")], theirs[theirs.index("--") + 1 :]
        nodes = int(settings[settings.index("--nodes") + 1])
        hosts = ["127.0.0.1", *names(nodes)[1:]]
        found += agents(command, agent_environment(environ, nodes), node, hosts)
    return found


def _container(pod: Pod) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a pod's process."""
    container = pod.spec["containers"][0]
    environ: dict[str, str] = {}
    for variable in container["env"]:
        if "value" in variable:
            environ[variable["name"]] = expand(variable["value"], environ)
    environ |= pod.set_by_operator
    return [expand(word, environ) for word in container["command"]], environ


def ray(spec: RunSpec, attempt: int) -> list[Given]:
    """The actors have the environment of the plan, and the node's own."""
    hosts = names(spec.layout.nodes)
    plan = RayLauncher("python").plan(spec, RUN_DIR, FACTS, attempt)
    found: list[Given] = []
    for node, host in enumerate(hosts):
        command = node_command(json.loads(plan.files["nodes.json"]), node, f"node0:{PORT}", host)
        found += agents(command, plan.env, node, hosts)
    return found


CLUSTERS = {
    "local": lambda spec, attempt: local(spec, attempt, "c10d"),
    "local-static": lambda spec, attempt: local(spec, attempt, "static"),
    "openmpi": lambda spec, attempt: mpi(spec, attempt, "openmpi"),
    "mpich": lambda spec, attempt: mpi(spec, attempt, "mpich"),
    "intel": lambda spec, attempt: mpi(spec, attempt, "intel"),
    "slurm": slurm,
    "ray": ray,
    "pytorchjob": lambda spec, attempt: k8s(spec, attempt, "pytorchjob"),
    "trainjob": lambda spec, attempt: k8s(spec, attempt, "trainjob"),
}
