"""The strategic merge, by the examples of Kubernetes' documentation.

https://kubernetes.io/docs/tasks/manage-kubernetes-objects/update-api-object-kubectl-patch/
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from launchers.k8s.manifest.merge import merge

TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "nginx"}},
    "spec": {
        "containers": [{"name": "patch-demo-ctr", "image": "nginx", "env": [{"name": "A", "value": "1"}]}],
        "tolerations": [{"effect": "NoSchedule", "key": "dedicated", "value": "test-team"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
        "dnsPolicy": "ClusterFirst",
    },
}


def merged(patch: dict[str, Any]) -> dict[str, Any]:
    before = copy.deepcopy((TEMPLATE, patch))
    found = merge(TEMPLATE, patch)
    assert (TEMPLATE, patch) == before, "neither is changed"
    return dict(found)


def test_containers_are_merged_by_name() -> None:
    """A container of a new name is added; one of a known name gets further fields."""
    patch = {"spec": {"containers": [{"name": "patch-demo-ctr-2", "image": "redis"}]}}
    names = [(c["name"], c["image"]) for c in merged(patch)["spec"]["containers"]]
    assert names == [("patch-demo-ctr", "nginx"), ("patch-demo-ctr-2", "redis")]
    patch = {"spec": {"containers": [{"name": "patch-demo-ctr", "env": [{"name": "B", "value": "2"}]}]}}
    (container,) = merged(patch)["spec"]["containers"]
    assert container == {
        "name": "patch-demo-ctr",
        "image": "nginx",
        "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
    }


def test_tolerations_are_replaced() -> None:
    other = [{"effect": "NoSchedule", "key": "disktype", "value": "ssd"}]
    assert merged({"spec": {"tolerations": other}})["spec"]["tolerations"] == other


@pytest.mark.parametrize(
    ("patch", "field", "value"),
    [
        ({"dnsPolicy": None}, "dnsPolicy", None),
        ({"runtimeClassName": "nvidia"}, "runtimeClassName", "nvidia"),
        ({"volumes": [{"name": "data", "$patch": "delete"}]}, "volumes", []),
        (
            {"volumes": [{"name": "data", "$patch": "replace", "nfs": {}}]},
            "volumes",
            [{"name": "data", "nfs": {}}],
        ),
        (
            {"volumes": [{"name": "data", "emptyDir": None, "hostPath": {"path": "/x"}}]},
            "volumes",
            [{"name": "data", "hostPath": {"path": "/x"}}],
        ),
    ],
)
def test_fields_are_set_and_taken_away(patch: dict[str, Any], field: str, value: Any) -> None:
    assert merged({"spec": patch})["spec"].get(field) == value


def spread(skew: int, key: str = "zone", when: str = "DoNotSchedule") -> dict[str, Any]:
    return {"topologyKey": key, "whenUnsatisfiable": when, "maxSkew": skew}


def port(number: int, name: str, protocol: str | None = None) -> dict[str, Any]:
    return {"containerPort": number, "name": name, **({"protocol": protocol} if protocol else {})}


SPREAD = [spread(1), spread(2, when="ScheduleAnyway"), spread(3, key="rack")]
PORTS = [port(53, "dns-tcp"), port(53, "dns", "UDP"), port(80, "web", "TCP")]


@pytest.mark.parametrize(
    ("field", "value", "patch", "merged"),
    [
        ("topologySpreadConstraints", SPREAD, [spread(5, key="host")], [*SPREAD, spread(5, key="host")]),
        (
            "topologySpreadConstraints",
            SPREAD,
            [spread(7, when="ScheduleAnyway")],
            [SPREAD[0], spread(7, when="ScheduleAnyway"), SPREAD[2]],
        ),
        ("topologySpreadConstraints", SPREAD, [{"topologyKey": "zone", "$patch": "delete"}], [SPREAD[2]]),
        ("topologySpreadConstraints", SPREAD, [{**spread(1), "$patch": "delete"}], SPREAD[1:]),
        ("ports", PORTS, [port(9, "new")], [*PORTS, port(9, "new")]),
        ("ports", PORTS, [port(53, "new", "UDP")], [PORTS[0], port(53, "new", "UDP"), PORTS[2]]),
        ("ports", PORTS, [port(53, "new")], [port(53, "new"), *PORTS[1:]]),
        ("ports", PORTS, [port(80, "new")], [*PORTS[:2], port(80, "new", "TCP")]),
        ("ports", [], [port(53, "a"), port(53, "b", "UDP")], [port(53, "a"), port(53, "b", "UDP")]),
    ],
)
def test_items_of_two_keys_are_told_apart(field: str, value: Any, patch: Any, merged: Any) -> None:
    """The keys are x-kubernetes-list-map-keys of Kubernetes' OpenAPI; a port without a protocol is TCP."""
    assert merge({field: value}, {field: patch}) == {field: merged}


def test_nothing_changes_nothing() -> None:
    assert merged({}) == TEMPLATE
    assert merged({"spec": {"containers": []}}) == TEMPLATE
