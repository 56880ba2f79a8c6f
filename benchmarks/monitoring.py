"""A real Prometheus watches a real server under load, and every dashboard query is asked.

    make tools && python -m benchmarks.monitoring [--minutes 3]

Starts ``tamis serve`` with a policy on trial beside the default one, traffic of all kinds, and
Prometheus with the shipped rules. Then promtool asks what the dashboard and the autoscalers ask,
and says what came back. Fails where something that should have an answer has none.
"""

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks import load, traffic
from benchmarks.server import Server, free_port
from tamis import bundle as bundles

ROOT: Final = Path(__file__).parents[1]
COMPONENTS: Final = ROOT / "k8s" / "components"
DASHBOARD: Final = COMPONENTS / "monitoring" / "dashboard.json"
RULES: Final = COMPONENTS / "monitoring" / "rules.yaml"
# What Grafana and the adapter would put in.
VARIABLES: Final = {
    "$namespace": "tamis",
    "$job": "tamis",
    "$__rate_interval": "1m",
    "<<.GroupBy>>": "namespace, pod",
    "<<.Series>>": "tamis_queued_tokens",
    "<<.LabelMatchers>>": 'namespace="tamis"',
}
ELSEWHERE: Final = {"container_": "comes from the kubelet, and there is none here"}
RATE: Final = 150.0
STRICT: Final = "name: strict\noverall: {flag: 0.01, block: 0.3}\ncategories: {toxicity: {}}\n"
BESIDE: Final = "name: default\noverall: {}\ncategories: {harassment: {}}\nshadow: strict\n"


def concrete(query: str) -> str:
    """A query with its variables filled in."""
    for name, value in VARIABLES.items():
        query = query.replace(name, value)
    return query


def dashboard_queries() -> list[tuple[str, str]]:
    """Panel and query of everything the dashboard asks, variables filled in."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [
        (panel["title"], concrete(target["expr"]))
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]


def autoscaler_queries() -> list[tuple[str, str]]:
    """What the adapter of the HPA, and KEDA, ask."""
    adapter = yaml.safe_load((COMPONENTS / "hpa" / "prometheus-adapter.yaml").read_text())
    keda = yaml.safe_load((COMPONENTS / "keda" / "scaledobject.yaml").read_text())
    triggers = [t["metadata"] for t in keda["spec"]["triggers"] if t["type"] == "prometheus"]
    return [
        ("HPA", concrete(adapter["rules"]["custom"][0]["metricsQuery"])),
        *(("KEDA", trigger["query"]) for trigger in triggers),
    ]


def write_rules(folder: Path) -> Path:
    """The shipped rules as Prometheus reads them."""
    path = folder / "rules.yaml"
    spec = yaml.safe_load(RULES.read_text(encoding="utf-8"))["spec"]
    path.write_text(yaml.safe_dump(spec, sort_keys=False), encoding="utf-8")
    return path


def messages() -> list[load.Message]:
    """Prompts as long as real ones, some of them rude, repeated, in batches, wrong, or hurried."""
    chance = random.Random(5)
    rude = json.dumps({"input": "You are a stupid goose and nobody likes you."}).encode()
    found = []
    for text, tokens in traffic.texts(8_000, seed=5, longest=400):
        body = json.dumps({"input": text}).encode()
        found.append(load.message("/moderate", body, tokens))
        match chance.randrange(10):
            case 0:
                found.append(load.message("/moderate", rude, 12))
            case 1:
                found.append(load.message("/v1/moderations", body, tokens))
            case 2:
                batch = json.dumps({"input": [text, text, text[:40]]}).encode()
                found.append(load.message("/moderate", batch, 3 * tokens))
            case 3:
                found.append(load.message("/moderate", b'{"input": 3}', 0))
            case 4 if tokens < 100:
                said = json.dumps({"input": text, "label": "safe"}).encode()
                found.append(load.message("/feedback", said, tokens))
            case 5:
                hurry = ["x-request-timeout-ms: 1"]
                found.append(load.message("/moderate", body, tokens, hurry))
    return found


@contextmanager
def prometheus(folder: Path, target: int, port: int) -> Iterator[str]:
    """Prometheus, scraping a port every 5 s with the labels that a ServiceMonitor gives."""
    scrape = {
        "job_name": "tamis",
        "static_configs": [
            {
                "targets": [f"127.0.0.1:{target}"],
                "labels": {"namespace": "tamis", "pod": "tamis-0", "container": "tamis"},
            }
        ],
    }
    config = {
        "global": {"scrape_interval": "5s", "evaluation_interval": "5s"},
        "rule_files": [str(write_rules(folder))],
        "scrape_configs": [scrape],
    }
    path = folder / "prometheus.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [
        tool("prometheus"),
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def tool(name: str) -> str:
    """A program on the path or fetched by ``make tools``.

    Raises:
        FileNotFoundError: where it is neither.
    """
    found = shutil.which(name) or shutil.which(name, path=ROOT / ".tools" / "usr" / "bin")
    if found is None:
        raise FileNotFoundError(f"{name} is not installed; make tools fetches it")
    return found


def ask(address: str, query: str) -> list[str]:
    """What promtool gets for a query, a line each series that has a value."""
    command = [tool("promtool"), "query", "instant", address, query]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{query}: {done.stdout}{done.stderr}")
    lines = (line.partition(" @[")[0] for line in done.stdout.splitlines())
    return [line for line in lines if line and not line.endswith("=> NaN")]


def faulty_rules(address: str) -> list[str]:
    """Rules that Prometheus could not evaluate."""
    with urllib.request.urlopen(f"{address}/api/v1/rules") as answer:  # noqa: S310
        groups: list[dict[str, Any]] = json.load(answer)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    print(f"{len(rules)} rules in {len(groups)} groups are evaluated")
    return [f"{rule['name']}: {rule.get('lastError')}" for rule in rules if rule["health"] != "ok"]


def change_policies(folder: Path, seconds: float) -> None:
    """A policy changed, spoilt, and mended, over that time."""
    path = folder / "strict.yaml"
    for content in (STRICT.replace("0.01", "0.05"), "name: strict\nwrong: 1\n", STRICT):
        time.sleep(seconds / 4)
        path.write_text(content, encoding="utf-8")


def run(minutes: float) -> int:
    """Watch for that long, then ask; the number of queries without the answer they should have."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policies = folder / "policies"
        policies.mkdir()
        (policies / "default.yaml").write_text(BESIDE, encoding="utf-8")
        (policies / "strict.yaml").write_text(STRICT, encoding="utf-8")
        chosen = {
            # Little of each, so that there are misses and refusals to see.
            "cache_bytes": 2**16,
            "max_wait_ms": 200,
            "policies": policies,
            "feedback": folder / "feedback.sqlite",
            "admin_port": free_port(),
        }
        with (
            Server(bundles.default_bundle(), **chosen) as server,
            prometheus(folder, int(chosen["admin_port"]), free_port()) as address,
        ):
            changes = threading.Thread(target=change_policies, args=(policies, minutes * 60))
            changes.start()
            sent = messages()
            # Two thirds at a pace, then more than it can do.
            paced = load.open_loop(server.port, sent, RATE, minutes * 40)
            flood = load.closed(server.port, sent[::-1], clients=200, seconds=minutes * 20)
            changes.join()
            print(f"paced {paced.statuses}, p50 {paced.percentile(50):.1f} ms")
            print(f"flood {flood.statuses}, p50 {flood.percentile(50):.1f} ms")
            missing = [line for fault in faulty_rules(address) for line in [f"rule {fault}"]]
            for panel, query in (*dashboard_queries(), *autoscaler_queries()):
                series = ask(address, query)
                reason = next((why for part, why in ELSEWHERE.items() if part in query), None)
                said = f"{len(series)} series, e.g. {series[0]}" if series else reason or "NOTHING"
                print(f"{panel:<42} {said[:150]}")
                if not series and reason is None:
                    missing.append(query)
            print("\nalerts:", *ask(address, "ALERTS") or ["none"], sep="\n  ")
    for query in missing:
        print(f"no answer: {query}", file=sys.stderr)
    return len(missing)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=3)
    sys.exit(min(1, run(parser.parse_args().minutes)))
