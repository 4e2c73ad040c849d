"""Names and paths that follow from a run: equal runs have equal names on any machine."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePosixPath

from galley.config.rules.k8s_names import MAX_LABEL
from galley.errors import ConfigError, Problem
from galley.schema import K8s
from galley.spec import RunSpec

# Room for what is added to the name of a job: `-12` for the attempt, `-worker-999` or
# `-node-0-999` with five random characters for a pod.
_LONGEST_SUFFIX = 20
_HASH = 8


def base_name(spec: RunSpec, run_dir: Path) -> str:
    """Return the name that all attempts share: the run folder's, cut to a DNS-1035 label, and a hash.

    The hash distinguishes runs whose folders have the same name. `launcher.k8s.name` is used as it is.
    """
    if spec.recipe.launcher.k8s.name is not None:
        return spec.recipe.launcher.k8s.name
    slug = re.sub(r"[^a-z0-9]+", "-", run_dir.name.lower()).strip("-")
    slug = slug if slug[:1].isalpha() else f"run-{slug}".strip("-")
    digest = hashlib.sha256(f"{spec.sha256}\0{run_dir}".encode()).hexdigest()[:_HASH]
    return f"{slug[: MAX_LABEL - _LONGEST_SUFFIX - _HASH - 1].rstrip('-')}-{digest}"


def job_name(base: str, attempt: int) -> str:
    """Return a separate name for each attempt: a job that has ended cannot be started again."""
    return f"{base}-{attempt}"


def code_name(job: str) -> str:
    """Return the name of the ConfigMap with the snapshot of the code."""
    return f"{job}-code"


def pod_run_dir(options: K8s, base: str, run_dir: Path) -> PurePosixPath:
    """Return the path of the run folder in the pods.

    Raises `ConfigError` if it should be on the claim but is not.
    """
    mount = PurePosixPath(options.mount_path)
    if options.transport == "configmap":
        return mount / base
    if options.claim_here is None:
        hint = "set it to the folder at which this machine sees the claim"
        raise ConfigError(Problem("launcher.k8s.claim_here", "is needed by transport=claim", hint))
    here = Path(options.claim_here).expanduser().resolve()
    if not run_dir.is_relative_to(here):
        hint = f"set run_dir={here}/NAME, or launcher.k8s.transport=configmap"
        raise ConfigError(Problem(f"run_dir={run_dir}", "is not on the claim", hint))
    return mount / run_dir.relative_to(here).as_posix()
