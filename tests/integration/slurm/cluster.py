"""A Slurm cluster of four nodes on this host: the real daemons, on ports of their own.

The daemons are children of the test process and die with it.
"""

from __future__ import annotations

import getpass
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from galley.system.pdeathsig import bound_to_me
from tests.support import Finished, free_ports, run_process

NODES = ("node1", "node2", "node3", "node4")
CPUS, GPUS = 8, 4
GPU_DEVICES = "/dev/null,/dev/zero,/dev/full,/dev/random"  # slurmd asks that they exist, no more
CONFIG = """\
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock,cred_expire=5
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0,defer_batch=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
InactiveLimit=0
KillWait=2
MinJobAge=300
MessageTimeout=10
SlurmctldTimeout=10
SlurmdTimeout=10
TCPTimeout=2
Waittime=0
JobRequeue=1
RequeueExit=99
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
NodeName=DEFAULT CPUs={cpus} CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory=4000 Gres=gpu:{gpus}
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports[0]} Feature=old State=UNKNOWN
NodeName=node[3-4] NodeHostname={host} NodeAddr=127.0.0.1 Port={node_ports[1]} Feature=new,big State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
MailProg=/bin/true
"""


class SlurmCluster:
    """The running daemons. `environment` makes any command of Slurm talk to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._children: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.root / "slurm.conf")}

    def start(self) -> None:
        ports = free_ports(1 + len(NODES))
        (self.root / "state").mkdir()
        config = CONFIG.format(
            host=socket.gethostname(), user=getpass.getuser(), root=self.root, ports=ports,
            node_ports=[",".join(map(str, ports[1:3])), ",".join(map(str, ports[3:]))], cpus=CPUS, gpus=GPUS,
        )  # fmt: skip
        (self.root / "slurm.conf").write_text(config)
        (self.root / "gres.conf").write_text(f"NodeName=node[1-4] Name=gpu File={GPU_DEVICES}\n")
        self._start_munge()
        self._start("slurmctld", "-D", "-i")
        for node in NODES:
            self._start("slurmd", "-D", "-N", node)
        wait_until(lambda: self.run("sinfo", "-h", "-N", "-o", "%t").out.split() == ["idle"] * len(NODES), 20)

    def _start_munge(self) -> None:
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        names = {"key-file": key.name, "socket": "munge.sock", "pid-file": "munged.pid"}
        names |= {"log-file": "munged.log", "seed-file": "munged.seed"}
        options = [f"--{option}={self.root / name}" for option, name in names.items()]
        self._start("munged", "--foreground", "--force", *options)
        wait_until((self.root / "munge.sock").exists, 10)

    def _start(self, *argv: str) -> None:
        with (self.root / f"{argv[0]}.{argv[-1].rpartition('/')[2]}.out").open("wb") as output:
            child = subprocess.Popen(
                argv, env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, preexec_fn=bound_to_me(signal.SIGTERM), start_new_session=True,
            )  # fmt: skip
        self._children.append(child)

    def stop(self) -> None:
        """End all jobs, then the daemons: with a job that is being cleaned up, slurmd would wait."""
        self.run("scancel", "--user", getpass.getuser())
        wait_until(lambda: not self.run("squeue", "-h").out, 20)
        for child in reversed(self._children):
            child.kill()
            child.wait()

    def run(self, *argv: str) -> Finished:
        """A command of Slurm."""
        return run_process(argv, env=self.environment, timeout=30)

    def check(self, *argv: str) -> str:
        done = self.run(*argv)
        assert done.rc == 0, done
        return done.out

    def describe(self, job: str) -> dict[str, str]:
        """The fields of `scontrol show job`; no field of a job of ours before NodeList has a space."""
        words = self.check("scontrol", "show", "job", "--oneliner", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def state(self, job: str) -> str:
        return self.describe(job)["JobState"]

    def wait_for(self, job: str, states: Sequence[str], timeout: float = 60) -> dict[str, str]:
        wait_until(lambda: self.state(job) in states, timeout)
        return self.describe(job)


def wait_until(condition: Callable[[], object], timeout: float) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s"
        time.sleep(0.1)
