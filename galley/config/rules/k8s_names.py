"""Names as Kubernetes reads them: what each option of `launcher=k8s` may be called. Pure.

Rules of apimachinery's `validation` package, and of image references (distribution/reference).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from galley.config.rules.launcher import job_kind
from galley.errors import Problem
from galley.schema import Recipe
from galley.schema.types import MAX_PORT

MAX_LABEL = 63  # of a label, and of the host name that a pod gets from its own
MAX_SUBDOMAIN = 253
_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_LABEL = re.compile(_LABEL)
_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_HOST = r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?"
_PATH = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"((?P<host>{_HOST}(\.{_HOST})*)(:(?P<port>[0-9]+))?/)?{_PATH}(/{_PATH})*"
    r"(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@[A-Za-z][A-Za-z0-9]*([-_+.][A-Za-z0-9]+)*:[0-9a-fA-F]{32,})?"
)
LONGEST_ATTEMPT = "-99"  # further attempts of a job are called after the first


def not_a_name(text: str) -> str | None:
    """What is wrong with the name of an object; null if nothing is."""
    if len(text) > MAX_SUBDOMAIN:
        return f"has {len(text)} characters, at most {MAX_SUBDOMAIN}"
    return None if _SUBDOMAIN.fullmatch(text) else "is not a name"


def not_a_label(text: str) -> str | None:
    """What is wrong with a name that is one part of a host name."""
    if len(text) > MAX_LABEL:
        return f"has {len(text)} characters, at most {MAX_LABEL}"
    return None if _DNS_LABEL.fullmatch(text) else "is not a name"


def not_a_resource(text: str) -> str | None:
    """What is wrong with the name of a resource that is neither CPU nor memory."""
    domain, slash, name = text.rpartition("/")
    if not slash:
        return "is not the resource of a device"
    if domain == "kubernetes.io" or domain.endswith(".kubernetes.io"):
        return "is reserved for Kubernetes itself"
    whole = not_a_name(domain) is None and len(name) <= MAX_LABEL and _QUALIFIED.fullmatch(name)
    return None if whole else "is not DOMAIN/NAME"


def not_an_image(text: str) -> str | None:
    """What is wrong with the reference of an image."""
    if "://" in text:
        return "is not an image: an image has no scheme"
    found = _IMAGE.fullmatch(text)
    if found is None:
        return "is not an image"
    port = found["port"]
    return None if port is None or 0 < int(port) <= MAX_PORT else f"port {port} is above {MAX_PORT}"


@dataclass(frozen=True)
class _Form:
    """What an option may be, and how that is said."""

    wrong: Callable[[str], str | None]
    hint: str


_NAME = _Form(not_a_name, "lowercase letters, digits, '-' and '.', a letter or digit at both ends")
_SHORT = _Form(not_a_label, f"lowercase letters, digits and '-', at most {MAX_LABEL}")
_FORMS = {
    "namespace": _SHORT,
    "queue": _SHORT,
    "claim": _NAME,
    "image_pull_secrets": _NAME,
    "service_account": _NAME,
    "secret": _NAME,
    "priority_class": _NAME,
    "scheduler": _NAME,
    "runtime": _NAME,
    "image": _Form(not_an_image, "[HOST[:PORT]/]PATH[:TAG][@DIGEST], the path in lower case"),
    "gpu_resource": _Form(not_a_resource, "such as nvidia.com/gpu, amd.com/gpu or nvidia.com/mig-1g.5gb"),
}


def k8s_name_problems(recipe: Recipe) -> Iterator[Problem]:
    """Options of `launcher.k8s` that Kubernetes, or an operator on the way, would refuse."""
    options = recipe.launcher.k8s
    for option, form in _FORMS.items():
        value = getattr(options, option)
        for text in value if isinstance(value, list) else filter(lambda text: text is not None, [value]):
            wrong = form.wrong(text)
            if wrong is not None:
                yield Problem(f"launcher.k8s.{option}", f"'{text}' {wrong}", form.hint)
    if options.name is not None:
        yield from _job_name(recipe, options.name)


def _job_name(recipe: Recipe, name: str) -> Iterator[Problem]:
    """Names of jobs become those of pods, services and hosts, which must be DNS-1035 labels."""
    where, suffix = "launcher.k8s.name", f"{LONGEST_ATTEMPT}{_pod_suffix(recipe)}"
    room = MAX_LABEL - len(suffix)
    if not _DNS_1035.fullmatch(name):
        hint = "lowercase letters, digits and '-', a letter first (DNS-1035)"
        yield Problem(where, f"'{name}' is not a name", hint)
    if len(name) > room:
        made = (
            f"up to {len(suffix)} characters follow for attempt and pod ('{suffix}'), {MAX_LABEL} are allowed"
        )
        yield Problem(where, f"'{name}' has {len(name)} characters: {made}", f"at most {room}")


def _pod_suffix(recipe: Recipe) -> str:
    """The longest that the operator puts behind the name of the job, for a pod or its service."""
    options, nodes = recipe.launcher.k8s, recipe.cluster.nodes
    if job_kind(recipe.launcher) == "trainjob":
        return f"-node-0-{nodes - 1}-abcde"
    if options.max_nodes is not None:
        return f"-worker-{options.max_nodes - 1}"
    return f"-worker-{nodes - 2}" if nodes > 2 else "-master-0"
