"""Find the job of a batch script whose submitter was killed before it could record the id.

Slurm knows a job's script by its path, and each submission of Galley has its own path.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from pathlib import Path

from galley.system import proc

_TIMEOUT_S = 60.0
_CLUSTERS = re.compile(r"^#SBATCH --clusters?=(\S+)$", re.MULTILINE)
_LOG = re.compile(r"slurm-(\d+)\b.*\.log")


def find_job(script: Path, text: str, logs: Path, known: Container[str]) -> str | None:
    """Return the last job of `script`, as `sbatch --parsable` prints it, that is not among `known` ids.

    squeue shows a job until some minutes after its end; later the name of its log tells the id.
    Raises `SubmissionError` if Slurm does not answer.
    """
    asked = _CLUSTERS.search(text)
    clusters = (f"--clusters={asked[1]}",) if asked else ()
    argv = ("squeue", *clusters, "--me", "--states=all", "--array", "--noheader", "--format=%F|%o")
    listed = read_squeue(proc.run(argv, timeout_s=_TIMEOUT_S), str(script))
    written = (match[1] for path in logs.glob("slurm-*.log") if (match := _LOG.fullmatch(path.name)))
    jobs = [job for job in (*written, *listed) if job.partition(";")[0] not in known]
    return max(jobs, key=lambda job: (int(job.partition(";")[0]), job), default=None)


def read_squeue(text: str, script: str) -> Iterator[str]:
    """Yield jobs of the script, from lines `ID|COMMAND`; with `--clusters` after lines `CLUSTER: NAME`."""
    cluster = ""
    for line in text.splitlines():
        job, separator, command = line.partition("|")
        if not separator and line.startswith("CLUSTER:"):
            cluster = f";{line.removeprefix('CLUSTER:').strip()}"
        elif command == script:
            yield f"{job.strip()}{cluster}"
