"""promtool's word on the rules, and every alert made to fire, and not to."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.k8s.rendered import ROOT, rules, tool

LONG = 8 * 60
Series = dict[str, str]


def labels(pod: str = "a", /, **more: str) -> str:
    found = {"namespace": "tamis", "job": "tamis", "pod": pod, "instance": f"{pod}:9090"} | more
    return ",".join(f'{name}="{value}"' for name, value in found.items())


def always(metric: str, value: float, pod: str = "a", /, **more: str) -> Series:
    return {f"{metric}{{{labels(pod, **more)}}}": f"{value}x{LONG}"}


def rising(metric: str, a_minute: float, pod: str = "a", /, **more: str) -> Series:
    return {f"{metric}{{{labels(pod, **more)}}}": f"0+{a_minute}x{LONG}"}


def requests(fast: float = 0, slow: float = 0, **outcomes: float) -> Series:
    """Requests a minute: answered within 200 ms, answered later, and of other outcomes."""
    route, found = "/moderate", {}
    name = "tamis_request_duration_seconds"
    if fast or slow:
        ok = {"route": route, "outcome": "ok"}
        found |= rising(f"{name}_bucket", fast, le="0.2", **ok)
        found |= rising(f"{name}_bucket", fast + slow, le="+Inf", **ok)
        found |= rising(f"{name}_count", fast + slow, **ok)
    for outcome, count in outcomes.items():
        found |= rising(f"{name}_count", count, route=route, outcome=outcome)
    return found


def was_slow() -> Series:
    """20 % slow for an hour, and then none."""
    ok = labels(route="/moderate", outcome="ok")
    return {
        f'tamis_request_duration_seconds_bucket{{{ok},le="0.2"}}': "0+80x60 4900+100x60",
        f"tamis_request_duration_seconds_count{{{ok}}}": "0+100x120",
    }


def pod(name: str = "a", provider: str = "CPUExecutionProvider", bundle: str = "f1") -> Series:
    """What a pod in good health says of itself."""
    return {
        **always("up", 1, name),
        **always("tamis_ready", 1, name),
        **always("tamis_load_failed", 0, name, reason="provider"),
        **always("tamis_runtime_info", 1, name, provider=provider, threads="2", workers="2"),
        **always("tamis_tier_info", 1, name, tier="fast", name="tamis-22m", fingerprint=bundle),
        **always("tamis_policy_info", 1, name, policy="default", version="v1"),
        **always("tamis_config_last_reload_successful", 1, name),
        **always("tamis_queued_tokens", 300, name),
        **rising("tamis_run_windows_count", 600, name),
    }


def without(series: Series, *names: str) -> Series:
    return {n: v for n, v in series.items() if not n.startswith(tuple(f"{x}{{" for x in names))}


def throttled(share: float) -> Series:
    named = {"container": "tamis"}
    return rising("container_cpu_cfs_periods_total", 600, **named) | rising(
        "container_cpu_cfs_throttled_periods_total", 600 * share, **named
    )


def shadow(agree: float, differ: float) -> Series:
    pair = {"policy": "default", "shadow": "strict", "action": "allow"}
    name = "tamis_shadow_verdicts_total"
    return rising(name, agree, shadow_action="allow", **pair) | rising(
        name, differ, shadow_action="flag", **pair
    )


def accurate(bundle: str, name: str = "a") -> Series:
    """A pod's bundle for second opinions."""
    told = {"tier": "accurate", "name": "tamis-110m", "fingerprint": bundle}
    return always("tamis_tier_info", 1, name, **told)


def opinions(given: float, **missed: float) -> Series:
    """Second opinions a minute: given, and missing for some reason."""
    found: Series = {}
    for result, count in {"given": given, **missed}.items():
        found |= rising("tamis_second_opinions_total", count, result=result)
    return found


GOOD = pod() | requests(fast=600)
SLOW = {"TamisLatencyBudgetFast", "TamisLatencyBudgetSlow"}
FAILED = {"TamisErrorBudgetFast", "TamisErrorBudgetSlow"}
MODEL = "tamis_run_windows_count"
# What is the matter: series, minutes after which to look, alerts that fire, and no others.
CASES: dict[str, tuple[Series, int, set[str]]] = {
    "nothing, for hours": (GOOD | pod("b"), LONG, set()),
    "nobody asks": (pod(), 60, set()),
    "0.5 % slow": (pod() | requests(fast=995, slow=5), LONG, set()),
    "2 % slow": (pod() | requests(fast=98, slow=2), 70, {"TamisLatencyBudgetSlow"}),
    "5 % slow": (pod() | requests(fast=95, slow=5), 70, {"TamisLatencyBudgetSlow"}),
    "10 % slow": (pod() | requests(fast=90, slow=10), 70, SLOW),
    "20 % slow": (pod() | requests(fast=80, slow=20), 70, SLOW),
    "all slow": (pod() | requests(slow=100), 70, SLOW),
    "slow for an hour, but over": (
        pod() | was_slow(),
        100,
        {"TamisLatencyBudgetSlow"},
    ),
    "0.05 % failed": (pod() | requests(fast=9995, error=5), LONG, set()),
    "0.4 % failed": (pod() | requests(fast=996, late=4), 70, {"TamisErrorBudgetSlow"}),
    "2 % failed": (pod() | requests(fast=98, unavailable=2), 70, FAILED),
    "all failed, from the start": (pod() | requests(error=100), 70, FAILED),
    "invalid and gone are no failures": (pod() | requests(90, invalid=5, gone=5), 70, set()),
    "no target": ({}, 5, {"TamisDown"}),
    "the only pod does not answer": (always("up", 0), 10, {"TamisDown", "TamisPodDown"}),
    "one of two does not answer": (GOOD | always("up", 0, "b"), 10, {"TamisPodDown"}),
    "another job is down": (GOOD | {'up{job="other"}': "0x60"}, 10, set()),
    "none is ready, for 3 minutes": (
        GOOD | always("tamis_ready", 0),
        3,
        {"TamisNoneReady"},
    ),
    "one is not ready": (GOOD | pod("b") | always("tamis_ready", 0, "b"), 10, {"TamisPodNotReady"}),
    "one is not ready any more": (
        GOOD | pod("b") | {f"tamis_ready{{{labels('b')}}}": "1x4 0x60"},
        11,
        {"TamisPodNotReady"},
    ),
    "one was not ready for 3 minutes": (
        GOOD | pod("b") | {f"tamis_ready{{{labels('b')}}}": "1x4 0x2 1x60"},
        11,
        set(),
    ),
    "one is restarted before it is ready, again and again": (
        GOOD
        | pod("b")
        | always("tamis_load_failed", 0, "b", reason="provider")
        | {
            f"tamis_ready{{{labels('b')}}}": " ".join(["0", "0", "_", "_", "_", "_"] * 5),
            f"tamis_load_failed{{{labels('b', reason='provider')}}}": " ".join(
                ["1", "1", "_", "_", "_", "_"] * 5
            ),
        },
        25,
        {"TamisProviderMismatch", "TamisPodNotReady"},
    ),
    "one leaves": (
        GOOD | pod("b") | {f"tamis_ready{{{labels('b')}}}": "1x5 0x3 _x20"},
        10,
        set(),
    ),
    "a provider was not got": (
        GOOD
        | pod("b")
        | always("tamis_load_failed", 1, "b", reason="provider")
        | always("tamis_ready", 0, "b"),
        10,
        {"TamisProviderMismatch", "TamisPodNotReady"},
    ),
    "a bundle was not loaded": (
        GOOD
        | pod("b")
        | always("tamis_ready", 0, "b")
        | always("tamis_load_failed", 1, "b", reason="bundle"),
        10,
        {"TamisPodNotReady"},
    ),
    "pods on different providers": (
        GOOD | pod("b", provider="CUDAExecutionProvider"),
        10,
        {"TamisProviderMismatch"},
    ),
    "two bundles, for 20 minutes": (GOOD | pod("b", bundle="f2"), 20, set()),
    "two bundles, for 40 minutes": (GOOD | pod("b", bundle="f2"), 40, {"TamisMixedBundles"}),
    "queued, and nothing runs": (
        without(GOOD, MODEL) | always(MODEL, 500),
        10,
        {"TamisAdmissionStalled"},
    ),
    "nothing queued, and nothing runs": (
        without(GOOD, MODEL) | always(MODEL, 500) | always("tamis_queued_tokens", 0),
        10,
        set(),
    ),
    "10 % refused for want of room": (
        pod() | requests(90, overloaded=10) | rising("tamis_refused_total", 10, reason="capacity"),
        15,
        {"TamisOverloaded"},
    ),
    "10 % refused for a caller's own rate": (
        pod() | requests(90, overloaded=10) | rising("tamis_refused_total", 10, reason="rate"),
        15,
        set(),
    ),
    "the accurate bundle of one pod is another": (
        GOOD | accurate("f3") | pod("b") | accurate("f4", "b"),
        40,
        {"TamisMixedBundles"},
    ),
    "a pod still makes its accurate bundle": (GOOD | accurate("f3") | pod("b"), 40, set()),
    "one second opinion in five is missing": (
        GOOD | opinions(80, not_ready=15, deadline=5),
        60,
        {"TamisSecondOpinionsMissing"},
    ),
    "one second opinion in twenty is missing": (GOOD | opinions(95, deadline=5), 60, set()),
    "nobody needs a second opinion": (GOOD | opinions(0, not_ready=0), 60, set()),
    "throttled in 40 % of periods": (GOOD | throttled(0.4), 30, {"TamisThrottled"}),
    "throttled in 10 % of periods": (GOOD | throttled(0.1), 30, set()),
    "a worker ended": (
        GOOD | {f"tamis_worker_restarts_total{{{labels()}}}": "0x5 1x30"},
        10,
        set(),
    ),
    "workers end every minute": (
        GOOD | rising("tamis_worker_restarts_total", 1),
        15,
        {"TamisWorkersEnd"},
    ),
    "a policy file is refused": (
        GOOD | always("tamis_config_last_reload_successful", 0),
        5,
        {"TamisConfigurationRefused"},
    ),
    "pods disagree on a policy": (
        GOOD
        | without(pod("b"), "tamis_policy_info")
        | always("tamis_policy_info", 1, "b", policy="default", version="v2"),
        30,
        {"TamisConfigurationDiffers"},
    ),
    "an old version is not in force": (
        GOOD | always("tamis_policy_info", 0, policy="default", version="v0"),
        30,
        set(),
    ),
    "audit records are dropped": (
        GOOD | rising("tamis_audit_records_total", 1, result="dropped"),
        15,
        {"TamisAuditFailing"},
    ),
    "the audit log's database is away": (
        GOOD | rising("tamis_audit_errors_total", 1),
        15,
        {"TamisAuditFailing"},
    ),
    "audit records are written": (
        GOOD | rising("tamis_audit_records_total", 100, result="written"),
        15,
        set(),
    ),
    "a shadow disagrees on 10 %": (GOOD | shadow(90, 10), 150, {"TamisShadowDisagrees"}),
    "a shadow disagrees on all": (GOOD | shadow(0, 10), 150, {"TamisShadowDisagrees"}),
    "a shadow disagrees on 1 %": (GOOD | shadow(99, 1), 150, set()),
}


def alerts() -> list[dict[str, object]]:
    return [rule for group in rules()["groups"] for rule in group["rules"] if "alert" in rule]


@pytest.fixture
def rule_file(tmp_path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(rules(), sort_keys=False))
    return path


def promtool(*args: str | Path) -> str:
    done = subprocess.run([tool("promtool"), *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_finds_no_fault(rule_file):
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", rule_file)


def test_every_alert_fires_when_it_should_and_else_does_not(rule_file, tmp_path):
    tests = [
        {
            "name": name,
            "interval": "1m",
            "input_series": [{"series": s, "values": v} for s, v in series.items()],
            "promql_expr_test": [
                {
                    "expr": 'count by (alertname) (ALERTS{alertstate="firing"})',
                    "eval_time": f"{minutes}m",
                    "exp_samples": [
                        {"labels": f'{{alertname="{alert}"}}', "value": 1}
                        for alert in sorted(expected)
                    ],
                }
            ],
        }
        for name, (series, minutes, expected) in CASES.items()
    ]
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [rule_file.name], "tests": tests}))
    assert "SUCCESS" in promtool("test", "rules", path)


def test_every_alert_has_a_case_in_which_it_fires():
    assert set.union(*(expected for *_, expected in CASES.values())) == {
        a["alert"] for a in alerts()
    }


def test_what_an_alert_says_can_be_read(rule_file, tmp_path):
    series = pod() | requests(fast=80, slow=20)
    said = {
        "summary": "Slow verdicts: the error budget of 30 days burns fast",
        "description": "20% of the requests to tamis in tamis took over 200 ms; "
        "the objective is 1 %.",
        "runbook": "docs/kubernetes.md#tamislatencybudgetfast",
    }
    case = {
        "interval": "1m",
        "input_series": [{"series": s, "values": v} for s, v in series.items()],
        "alert_rule_test": [
            {
                "eval_time": "70m",
                "alertname": "TamisLatencyBudgetFast",
                "exp_alerts": [
                    {
                        "exp_labels": {
                            "severity": "critical",
                            "namespace": "tamis",
                            "job": "tamis",
                        },
                        "exp_annotations": said,
                    }
                ],
            }
        ],
    }
    path = tmp_path / "case.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [rule_file.name], "tests": [case]}))
    promtool("test", "rules", path)


def test_every_alert_has_a_runbook_and_a_severity():
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    headings = {h.lower() for h in re.findall(r"^#+ (Tamis\w+)$", text, re.MULTILINE)}
    for alert in alerts():
        notes = alert["annotations"]
        assert set(notes) == {"summary", "description", "runbook"}
        assert notes["runbook"] == f"docs/kubernetes.md#{alert['alert'].lower()}"
        assert alert["alert"].lower() in headings
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    assert headings == {alert["alert"].lower() for alert in alerts()}
