"""Whatever rules, dashboard and autoscalers name is in what the service really says."""

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import monitoring
from service.app import create_app
from service.dialects.registry import DIALECTS
from service.moderation.moderator import REFUSALS
from service.observing.metrics import outcome
from service.settings import Settings
from service.web.middleware import ROUTES
from tests.k8s.rendered import K8S, one, render, rules

# What Prometheus adds to every series: from the target, and from the service monitor.
TARGET = {"namespace", "job", "pod", "instance", "service", "endpoint", "container"}
# Not of this service: Prometheus's own, and the kubelet's.
FOREIGN = {
    "up": set(),
    "ALERTS": {"alertname", "alertstate"},
    "container_cpu_cfs_periods_total": set(),
    "container_cpu_cfs_throttled_periods_total": set(),
}
STATUSES = (200, 400, 401, 413, 429, 499, 500, 503, 504)
# Values that a short, healthy run does not come to.
POSSIBLE: dict[str, set[str]] = {
    "outcome": {outcome(status) for status in STATUSES},
    "route": set(ROUTES),
    "reason": {"capacity", "deadline", "too_short", "reasoner", *REFUSALS.values()},
    "action": {"allow", "flag", "block"},
    "shadow_action": {"allow", "flag", "block"},
    "result": {"hit", "joined", "miss", "applied", "refused", "judged", "held"},
}
Vocabulary = dict[str, dict[str, set[str]]]


@pytest.fixture(scope="module")
def said(bundle, tmp_path_factory) -> Vocabulary:
    """Names of series, with their labels and the values of those, after some traffic."""
    policies = tmp_path_factory.mktemp("policies")
    (policies / "default.yaml").write_text(monitoring.BESIDE)
    (policies / "strict.yaml").write_text(monitoring.STRICT)
    settings = Settings(
        bundle=bundle.path,
        policies=policies,
        feedback=str(tmp_path_factory.mktemp("feedback") / "feedback.sqlite"),
        reload_seconds=0,
    )
    with TestClient(create_app(settings)) as client:
        for _ in range(200):
            if client.get("/health/ready").status_code == 200:
                break
            time.sleep(0.05)
        for text in (
            "What is a good soup?",
            "Tell my sister she is a worthless, ugly idiot.",
        ):
            assert client.post("/moderate", json={"input": text}).status_code == 200
            assert client.post("/v1/moderations", json={"input": text}).status_code == 200
        correction = {"input": "What is a good soup?", "label": "safe"}
        assert client.post("/feedback", json=correction).status_code == 201
        hurry = {"x-request-timeout-ms": "1"}
        long = {"input": "calm gardens and tea " * 500}
        assert client.post("/moderate", json=long, headers=hurry).status_code in {400, 429}
        text = client.get("/metrics").text
    found: Vocabulary = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


def selectors(node: Any) -> Iterator[promql.VectorSelector]:
    if isinstance(node, promql.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (part := getattr(node, name, None)) is not None:
            yield from selectors(part)
    for part in getattr(node, "args", ()):
        yield from selectors(part)


def groupings(node: Any) -> set[str]:
    """Labels that an expression groups by."""
    found = set()
    modifier = getattr(node, "modifier", None)
    if isinstance(node, promql.AggregateExpr) and modifier is not None:
        found |= set(modifier.labels)
    for name in ("expr", "lhs", "rhs"):
        if (part := getattr(node, name, None)) is not None:
            found |= groupings(part)
    for part in getattr(node, "args", ()):
        found |= groupings(part)
    return found


def recorded() -> dict[str, set[str]]:
    """Recording rules, with the labels that their names say they have."""
    return {
        rule["record"]: set(rule["record"].partition(":")[0].split("_"))
        for group in rules()["groups"]
        for rule in group["rules"]
        if "record" in rule
    }


def questions() -> list[tuple[str, str]]:
    named = [
        (rule.get("record") or rule["alert"], rule["expr"])
        for group in rules()["groups"]
        for rule in group["rules"]
    ]
    return named + monitoring.dashboard_queries() + monitoring.autoscaler_queries()


@pytest.mark.parametrize(("where", "query"), questions())
def test_every_question_can_be_answered(said, where, query):
    tree = promql.parse(query)
    own = recorded()
    names = set()
    for selector in selectors(tree):
        name = selector.name
        names.add(name)
        if name in FOREIGN or name in own:
            labels = TARGET | FOREIGN.get(name, set()) | own.get(name, set())
            assert {matcher.name for matcher in selector.matchers.matchers} <= labels
            continue
        assert name in said, f"the service has no {name}"
        for matcher in selector.matchers.matchers:
            if matcher.name in TARGET:
                continue
            assert matcher.name in said[name], f"{name} has no label {matcher.name}"
            possible = said[name][matcher.name] | POSSIBLE.get(matcher.name, set())
            for value in matcher.value.split("|"):
                found = any(re.fullmatch(value, one) for one in possible)
                assert found, f"{name} has no {matcher.name}={value}"
    known = {label for name in names for label in said.get(name, own.get(name, ()))} | TARGET
    assert groupings(tree) <= known
    assert names


def test_every_metric_of_the_service_is_on_the_dashboard_or_in_a_rule(said):
    asked = {
        re.sub(r"_(bucket|sum|count)$", "", selector.name)
        for _, query in questions()
        for selector in selectors(promql.parse(query))
    }
    offered = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in said
        if name.startswith("tamis_") and not name.endswith("_created")
    }
    assert offered - asked == set()


def test_recording_rules_say_what_they_are_of():
    for name, labels in recorded().items():
        assert re.fullmatch(r"[a-z_]+:tamis_[a-z_]+:[a-z0-9_]+", name)
        assert labels <= TARGET | {"stage", "policy", "shadow"}


def test_autoscalers_ask_for_a_metric_of_the_pods(said):
    hpa = one(render(K8S / "overlays" / "monitoring"), "HorizontalPodAutoscaler")
    names = {m["pods"]["metric"]["name"] for m in hpa["spec"]["metrics"] if m["type"] == "Pods"}
    assert names == {"tamis_queued_tokens"} <= set(said)


def test_the_dashboard_is_portable():
    dashboard = json.loads(monitoring.DASHBOARD.read_text(encoding="utf-8"))
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables == ["datasource", "namespace", "job"]
    own = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert len(own) > 20
    sources = {panel["datasource"]["uid"] for panel in own}
    sources |= {target["datasource"]["uid"] for panel in own for target in panel["targets"]}
    assert sources == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    filled = {
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in dashboard["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    }
    areas = sum(p["gridPos"]["w"] * p["gridPos"]["h"] for p in dashboard["panels"])
    assert len(filled) == areas  # none lies on another
    assert max(x for x, _ in filled) < 24
    for panel in own:
        for target in panel["targets"]:
            assert "$namespace" in target["expr"], panel["title"]
    manifests = render(K8S / "overlays" / "monitoring")
    (shipped,) = [m for m in manifests if m["metadata"]["name"] == "tamis-dashboard"]
    assert json.loads(shipped["data"]["tamis.json"]) == dashboard
    assert shipped["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_objectives_and_charts_are_of_every_route_that_judges_and_of_no_other():
    judging = {path for dialect in DIALECTS for path in dialect.judging}
    folder = K8S / "components" / "monitoring"
    script = K8S.parent / "service" / "playground" / "assets" / "metrics.js"
    lines = script.read_text().split("new RegExp(")[1].split(");")[0]
    patterns = {"".join(re.findall(r'"(.*?)"', lines)).removeprefix("^").removesuffix("$")}
    for file in (folder / "rules.yaml", folder / "dashboard.json"):
        found = set(re.findall(r'route=~\\?"([^"\\]+)', file.read_text()))
        assert len(found) == 1
        patterns |= found
    for pattern in patterns:
        assert {route for route in ROUTES if re.fullmatch(pattern, route)} == judging
