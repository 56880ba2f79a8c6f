"""What Schemathesis does not know: how lines of JSON are written. Runs in its environment."""

import json
from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(_: Any, value: Any) -> bytes:
    """One line."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"
