"""Write the schemas of the custom resources that k8s/ uses; run once, when their versions change.

    pip install cloudcoil-models-keda==2.16.1.0 cloudcoil-models-prometheus-operator==0.80.1.0
    python tests/k8s/schemas/generate.py

Those packages hold models made from the definitions that KEDA 2.16 and the Prometheus operator 0.80
install (both Apache-2.0). Kept here as JSON Schema, three files instead of 130,000 lines of models.
Unlike a cluster, which drops unknown fields silently, the schemas refuse them.
"""

import json
from pathlib import Path
from typing import Any

from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

SAID = ("title", "description", "default")


def strict(schema: Any) -> Any:
    """A schema without prose that allows no unknown fields."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    properties = schema.get("properties")
    out = {name: strict(part) for name, part in schema.items() if name not in (*SAID, "properties")}
    if isinstance(pattern := out.get("pattern"), str) and pattern.startswith("^(?i)"):
        out["pattern"] = f"(?i)^{pattern.removeprefix('^(?i)')}"  # Go allows what Python does not
    if properties is not None:
        out["properties"] = {name: strict(part) for name, part in properties.items()}
        out["additionalProperties"] = False
    return out


for model in (ScaledObject, PrometheusRule, ServiceMonitor):
    path = Path(__file__).with_name(f"{model.__name__}.json")
    schema = strict(model.model_json_schema(by_alias=True))
    path.write_text(json.dumps(schema, separators=(",", ":"), sort_keys=True) + "\n")
