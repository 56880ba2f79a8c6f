"""What each dialect answers to what is not its ordinary day: the table in ``docs/integrations.md``.

    python -m tests.service.answers

asks running applications and writes what they said into the page; a test compares the two.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import yaml
from fastapi.testclient import TestClient

from service.access import new_key
from service.app import create_app
from service.dialects.perspective import ANALYZE
from service.engine.scheduler import OverloadedError, Scheduler
from service.moderation.serving import Serving
from service.settings import Settings
from tests.service.test_app import wait_until_ready
from tests.service.test_streams import events
from tests.service.wire import KIND, WIRES, Wire, user

PAGE: Final = Path(__file__).parents[2] / "docs" / "integrations.md"
BEGIN: Final = "<!-- answers: python -m tests.service.answers -->\n"
END: Final = "<!-- /answers -->\n"
LONG: Final = "x" * 1_000_000

BESIDE: Final = {
    "agentgateway, answers": replace(
        WIRES["agentgateway"],
        path="/response",
        body=lambda t: {"body": {"choices": [{"message": {"role": "assistant", "content": t}}]}},
    ),
    "detectors, chat": Wire(
        "/api/v1/text/chat", lambda t: {"messages": user(t)}, lambda _, a: a == [], "messages"
    ),
    "detectors, answers": Wire(
        "/api/v1/text/generation",
        lambda t: {"prompt": KIND, "generated_text": t},
        lambda _, a: a == [],
        "generated_text",
    ),
    "perspective": Wire(
        ANALYZE,
        lambda t: {"comment": {"text": t}, "requestedAttributes": {"TOXICITY": {}}},
        lambda *_: True,
        "comment.text",
    ),
    "streams, in one request": Wire(
        "/moderate/stream", lambda t: {"kind": "text", "text": t}, lambda *_: True, "text"
    ),
}
ROWS: Final = WIRES | BESIDE
# Where a contract has a place for categories, one that is not there; else a policy, by header.
UNKNOWN: Final[dict[str, dict[str, Any]]] = {
    "native": {"policy": {"name": "p", "categories": {"hats": {}}}},
    "azure": {"categories": ["Hats"]},
    "perspective": {"requestedAttributes": {"HATS": {}}},
}


def asked(client: TestClient, wire: Wire, text: Any, more: Any = None, **headers: str) -> str:
    """The answer in short: the status, and whether the text passes, or the error's code."""
    body = wire.body(text) | (more or {})
    answer = client.post(wire.path, json=body, headers=headers)
    if wire.path == "/moderate/stream" and answer.status_code == 200:
        name, data = events(answer.text)[-1]
        if name == "error":
            return f"200, then `{data['error']['code']}`"
        return "stops" if data["flagged"] else "passes"
    if answer.status_code == 200:
        said = answer.json() if answer.content else None
        return "passes" if wire.passes(200, said) else "stops"
    said = answer.json()
    error = said.get("error", said)
    # Google's and FMS's code is the status again.
    code = error.get("status") or error["code"]
    return (
        f"{answer.status_code}" if code == answer.status_code else f"{answer.status_code} `{code}`"
    )


def full(*_: Any) -> None:
    """No room."""
    raise OverloadedError("capacity", 2.5)


def unread(*_: Any) -> None:
    """A bundle that does not come."""
    raise OSError


Ask = Callable[[TestClient, str, Wire], str]
READY: Final[dict[str, Ask]] = {
    "empty text": lambda client, _, wire: asked(client, wire, ""),
    "1 MB of text": lambda client, _, wire: asked(client, wire, LONG),
    "no text, but an object": lambda client, _, wire: asked(client, wire, {"x": 5}),
    "unknown category or policy": lambda client, name, wire: (
        asked(client, wire, KIND, UNKNOWN[name])
        if name in UNKNOWN
        else asked(client, wire, KIND, None, **{"x-tamis-policy": "nope"})
    ),
}


@contextmanager
def running(settings: Settings, ready: bool = True) -> Iterator[TestClient]:
    """An application, asked in this process."""
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        if ready:
            wait_until_ready(client)
        yield client


def table(bundle: Path, folder: Path) -> list[str]:
    """The table's lines, as running applications answer; ``folder`` is for a file of keys."""
    usual = {"bundle": bundle, "feedback": "", "reasoner": None}
    found: dict[str, list[str]] = {name: [] for name in ROWS}
    columns = [*READY, "no room", "no key", "loading"]
    with running(Settings(**usual)) as client:
        for name, wire in ROWS.items():
            found[name] += [ask(client, name, wire) for ask in READY.values()]
        with patch.object(Scheduler, "check", full):
            for name, wire in ROWS.items():
                found[name].append(asked(client, wire, KIND))
    (folder / "keys.yml").write_text(yaml.safe_dump([new_key("somebody")[1]]))
    with ExitStack() as stack:
        keyed = stack.enter_context(running(Settings(**usual, keys=folder / "keys.yml")))
        stack.enter_context(patch.object(Serving, "_load", unread))
        loading = stack.enter_context(running(Settings(**usual), ready=False))
        for name, wire in ROWS.items():
            found[name] += [asked(client, wire, KIND) for client in (keyed, loading)]
    paths = {name: wire.path.partition("?")[0] for name, wire in ROWS.items()}
    paths["streams"] = "/moderate/stream/{name}"
    return [
        f"| | {' | '.join(columns)} |\n",
        f"|{'---|' * (len(columns) + 1)}\n",
        *(f"| `{paths[name]}` | {' | '.join(cells)} |\n" for name, cells in found.items()),
    ]


def page_with(page: str, lines: list[str]) -> str:
    """The page with these lines in the table's place."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "".join(lines) + END + rest.partition(END)[2]


def main() -> None:
    """Write the page."""
    with tempfile.TemporaryDirectory() as folder:
        lines = table(PAGE.parents[1] / "models" / "tamis-22m", Path(folder))
    PAGE.write_text(page_with(PAGE.read_text(), lines))


if __name__ == "__main__":
    main()
