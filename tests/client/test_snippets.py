"""What the documentation gives to paste, imported and run."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def snippet() -> Any:
    path = ROOT / "docs" / "snippets" / "open_webui.py"
    spec = importlib.util.spec_from_file_location("open_webui", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def test_open_webuis_filter(snippet, monkeypatch):
    asked: list[dict[str, Any]] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content) | {"key": request.headers.get("x-api-key")})
        text = asked[-1]["input"]["messages"][-1]["content"]
        if not text:
            return httpx.Response(400, json={"error": {"code": "nothing_to_judge"}})
        if "broken" in text:
            return httpx.Response(503)
        return httpx.Response(200, json={"action": "block" if "goose" in text else "allow"})

    real = httpx.AsyncClient
    monkeypatch.setattr(
        snippet.httpx,
        "AsyncClient",
        lambda timeout: real(transport=httpx.MockTransport(handle), timeout=timeout),
    )

    def body(text: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}]}

    one = snippet.Filter()
    assert await one.inlet(body("hello")) == body("hello")
    assert asked[-1]["judge"] == ["prompt"]
    await one.outlet(body("hello"))
    assert asked[-1]["judge"] == ["response"]
    assert await one.outlet(body("")) == body("")
    parts = [{"type": "text", "text": "a goose"}, {"type": "image_url", "image_url": {}}]
    with pytest.raises(Exception, match="blocked by the moderation policy"):
        await one.inlet(body(parts))
    with pytest.raises(Exception, match="not available"):
        await one.inlet(body("broken"))
    one.valves.fail_open, one.valves.key, one.valves.policy = True, "k", "mine"
    assert await one.inlet(body("broken")) == body("broken")
    assert (asked[-1]["key"], asked[-1]["policy"]) == ("k", "mine")
