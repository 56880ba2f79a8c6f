"""What the tests of k8s/ share: manifests as a cluster gets them, and tools where there are."""

import functools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import monitoring

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("cpu", "gpu", "monitoring", "keda")
Manifest = dict[str, Any]


def tool(name: str) -> str:
    """A program on the path or fetched by ``make tools``; skips where it is missing."""
    try:
        return monitoring.tool(name)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@functools.cache
def render(folder: Path) -> tuple[Manifest, ...]:
    """The manifests of a kustomization."""
    command = [tool("kubectl"), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def one(manifests: tuple[Manifest, ...], kind: str) -> Manifest:
    """The only manifest of a kind."""
    (found,) = [m for m in manifests if m["kind"] == kind]
    return found


def rules() -> Manifest:
    """The rule groups as Prometheus reads them."""
    path = K8S / "components" / "monitoring" / "rules.yaml"
    spec: Manifest = yaml.safe_load(path.read_text(encoding="utf-8"))["spec"]
    return spec
