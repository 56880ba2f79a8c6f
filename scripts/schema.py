"""Ask a running service what its OpenAPI document allows and forbids: ``make schema``.

    python -m scripts.schema [--cases 10000] [--seed 1]

Schemathesis, in an environment of its own in ``.contract/``, makes requests from the document,
valid and not, and checks each answer against it: no 5xx, no status, content type or body that the
document does not have. The reasoner is a tiny one with random weights, so that its routes answer,
too. Fails where a check does, or where fewer cases were run than asked for.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import httpx

from benchmarks.server import Server
from export import reasoner
from scripts.contract import Real, prepare
from tamis.bundle import default_bundle
from tests.reasoners import write_base

TOOL: Final = Real("", ("schemathesis==4.32.5",))
HOOKS: Final = Path(__file__).with_name("schema_hooks.py")
CHECKS: Final = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_schema_conformance,response_headers_conformance"
)


def main() -> int:
    """Run it; 0 where all is well."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000, help="requests at least")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tool = prepare("schemathesis", TOOL).with_name("schemathesis")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_base(folder / "base")
        reasoner.build(
            folder / "reasoner", str(folder / "base"), name="tiny", positions=2048, progress=False
        )
        # Requests are made one after the other: what is slow here is not to look like a fault.
        patient = {"max_wait_ms": 60_000, "reasoner_seconds": 60, "stream_seconds": 5}
        server = Server(
            default_bundle(),
            feedback=folder / "feedback.sqlite",
            blocklists=folder / "blocklists",
            reasoner=folder / "reasoner",
            **patient,
        )
        with server:
            url = f"http://127.0.0.1:{server.port}"
            paths = httpx.get(f"{url}/openapi.json").json()["paths"]
            operations = sum(map(len, paths.values()))
            report = folder / "report.json"
            command = [
                *(str(tool), "run", f"{url}/openapi.json", "--checks", CHECKS),
                *("--phases", "examples,coverage,fuzzing", "--mode", "all"),
                *("--max-examples", str(math.ceil(args.cases / operations))),
                *("--seed", str(args.seed), "--continue-on-failure", "--request-timeout", "60"),
                *("--suppress-health-check", "all", "--warnings", "off"),
                *("--report", "json", "--report-json-path", str(report)),
            ]
            hooks = {"PYTHONPATH": str(HOOKS.parent), "SCHEMATHESIS_HOOKS": HOOKS.stem}
            status = subprocess.run(command, env=os.environ | hooks, check=False).returncode
        run = json.loads(report.read_text())["test_cases"]["generated"]
    print(f"{run:,} cases")
    return status or int(run < args.cases)


if __name__ == "__main__":
    sys.exit(main())
