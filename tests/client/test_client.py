"""The clients against a real application, and against servers that fail in every way."""

import asyncio
import gzip
import json
import pickle
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.routing import Mount

from benchmarks.server import Server
from service.app import create_app
from service.settings import Settings
from tamis.client import (
    ApiError,
    AsyncClient,
    Client,
    LateError,
    Moderation,
    ModerationMiddleware,
    UnreachableError,
)
from tamis.verdict import Action, Severity

RUDE = "Tell my sister she is a worthless, ugly idiot."
URL = "http://tamis"
VERDICT: dict[str, Any] = {
    "id": "mod-1",
    "flagged": False,
    "action": "allow",
    "score": 0.1,
    "threshold": None,
    "severity": "safe",
    "fields": {},
    "categories": {},
    "attack": None,
    "evidence": [],
    "windows": 1,
    "tokens": 1,
    "model": "m@1",
    "policy": "p@1",
    "something_new": {"x": 1},
}
Handler = Callable[[httpx.Request], httpx.Response]


@pytest.fixture(scope="module")
def client(bundle, tmp_path_factory) -> Iterator[Client]:
    place = str(tmp_path_factory.mktemp("feedback") / "feedback.sqlite")
    with (
        Server(bundle.path, feedback=place) as server,
        Client(f"http://127.0.0.1:{server.port}") as client,
    ):
        yield client


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """How long a client waited; it takes no time here."""
    found: list[float] = []
    monkeypatch.setattr(time, "sleep", found.append)
    return found


def answering(
    *answers: httpx.Response | Exception, **more: Any
) -> tuple[Client, list[httpx.Request]]:
    asked: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        answer = answers[min(len(asked), len(answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client(URL, http=httpx.Client(transport=httpx.MockTransport(handle)), **more), asked


def ok() -> httpx.Response:
    return httpx.Response(200, json=VERDICT)


def busy(status: int = 429, **headers: str) -> httpx.Response:
    error = {"message": "the service is at capacity", "code": "overloaded", "param": None}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"error": error}, headers=named)


def test_a_verdict_is_typed(client):
    found = client.moderate({"prompt": RUDE, "response": "Hello!"}, explain="evidence")
    assert isinstance(found, Moderation)
    assert (found.action, found.blocked, found.severity) == (Action.BLOCK, True, Severity.UNSAFE)
    assert found.categories["toxicity"].flagged
    assert list(found.fields) == ["prompt", "response"]
    assert found.fields["prompt"].action is Action.BLOCK
    assert found.fields["prompt"].transforms == ()
    coded = client.moderate({"prompt": "Hello!", "response": RUDE.encode().hex()})
    assert [field.transforms for field in coded.fields.values()] == [(), ("hex",)]
    assert {RUDE[e.start : e.end] == e.text for e in found.evidence if e.field == "prompt"} == {
        True
    }
    assert found.raw["model"] == found.model
    assert "idiot" not in repr(client.moderate(RUDE))


def test_items_sides_and_policies(client):
    strict = {"name": "strict", "overall": {"flag": 0.000001}}
    one, two = client.moderate_many([{"text": "hello"}, {"document": "hello"}], policy=strict)
    assert one.flagged
    assert not two.categories
    found = client.moderate({"prompt": RUDE, "response": "Hello!"}, judge=["response"])
    assert list(found.fields) == ["response"]
    assert client.feedback(RUDE, "safe", reviewer="a").startswith("fb-")


def test_a_refusal_says_what_is_at_fault_and_is_not_tried_again(client):
    with pytest.raises(ApiError) as caught:
        client.moderate({"prompt": 5})  # type: ignore[typeddict-item]
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "invalid_request", "input.prompt")
    assert error.request_id
    failing, asked = answering(httpx.Response(500, text="<html>"))
    with pytest.raises(ApiError, match="500 : Internal Server Error"):
        failing.moderate("x")
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("answer", "low", "high"),
    [
        (busy(retry_after_ms="250", retry_after="9"), 0.25, 0.25),
        (busy(503, retry_after="2"), 2, 2),
        (busy(retry_after="Thu, 01 Jan 1970 00:00:00 GMT"), 0, 0),
        (busy(retry_after="soon"), 0.05, 0.1),
        (busy(retry_after="Thu, 01 Jan 1970 00:00:00 +99999999999999"), 0.05, 0.1),
        (busy(504), 0.05, 0.1),
        (httpx.ConnectError("refused"), 0.05, 0.1),
        (httpx.ReadTimeout("slow"), 0.05, 0.1),
    ],
)
def test_it_waits_as_long_as_it_is_told(answer, low, high, waits):
    client, asked = answering(answer, ok())
    assert client.moderate("x").action is Action.ALLOW
    assert len(asked) == 2
    assert len(waits) == 1
    assert low <= waits[0] <= high


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "<html>Sign in</html>"},
        {"json": {"status": "ok"}},
        {"json": []},
        {"json": VERDICT | {"categories": []}},
        {"json": VERDICT | {"action": "waltz"}},
        {"content": b"no gzip", "headers": {"content-encoding": "gzip"}},
    ],
    ids=["page", "another", "list", "mistyped", "unheard", "garbled"],
)
def test_what_is_no_verdict_is_an_error_of_the_clients_own(answer, waits):
    # Made anew: httpx decodes what it is given.
    handle = httpx.MockTransport(lambda _: httpx.Response(200, **answer))
    client = Client(URL, http=httpx.Client(transport=handle))
    with pytest.raises(UnreachableError):
        client.moderate("hello")
    with pytest.raises(UnreachableError):
        client.moderate_many(["hello"])


@pytest.mark.parametrize("item", [["hi"], [], 5, None])
def test_what_is_no_item_is_not_sent(item):
    client, asked = answering(ok())
    with pytest.raises(TypeError, match="a text or a mapping"):
        client.moderate(item)
    assert asked == []


def test_a_refusal_can_be_told_to_another_process():
    refused = ApiError(413, "it is too long", "text_too_long", "input", "r-1")
    told = pickle.loads(pickle.dumps(refused))
    assert str(told) == str(refused) == "413 text_too_long: it is too long"
    assert vars(told) == vars(refused)


@pytest.mark.parametrize("items", ["hello", {"prompt": "hello"}])
def test_one_item_is_no_list_of_them(items):
    client, asked = answering(ok())
    with pytest.raises(TypeError, match="a list of them"):
        client.moderate_many(items)
    assert asked == []


def test_a_key_is_sent_as_it_is_meant_and_never_quoted():
    asked: list[httpx.Request] = []
    for key in ("key-1", "key-1\n", "", None):
        http = httpx.Client(transport=httpx.MockTransport(lambda r: asked.append(r) or ok()))
        Client(URL, key, http=http).moderate("hi")
    sent = [request.headers.get("authorization") for request in asked]
    assert sent == ["Bearer key-1", "Bearer key-1", None, None]
    for key in ("key-1\nkey-2", "cl\u00e9-key"):
        with pytest.raises(ValueError, match="printable ASCII") as refused:
            AsyncClient(URL, key)
        assert "key-" not in str(refused.value)


def test_tries_come_to_an_end(waits):
    client, asked = answering(busy())
    with pytest.raises(ApiError) as caught:
        client.moderate("x")
    assert (caught.value.code, len(asked)) == ("overloaded", 3)
    client, asked = answering(httpx.ConnectError("refused"), retries=1)
    with pytest.raises(UnreachableError, match="ConnectError: refused"):
        client.moderate("x")
    assert len(asked) == 2
    client, asked = answering(busy(), retries=0)
    with pytest.raises(ApiError):
        client.moderate("x")
    assert len(asked) == 1


def test_nobody_waits_an_hour(waits):
    client, asked = answering(busy(retry_after="3600"), ok())
    with pytest.raises(ApiError):
        client.moderate("x")
    assert (len(asked), waits) == (1, [])


def test_a_deadline_is_told_and_kept(waits):
    client, asked = answering(ok(), key="tamis_x")
    client.moderate("x", deadline=0.5)
    assert 400 < int(asked[0].headers["x-request-timeout-ms"]) <= 500
    assert asked[0].headers["authorization"] == "Bearer tamis_x"
    assert asked[0].extensions["timeout"]["read"] < 0.7
    # To come back later than the deadline is in vain.
    client, asked = answering(busy(retry_after_ms="900"), ok())
    with pytest.raises(LateError, match=r"another try in 0\.9 s"):
        client.moderate("x", deadline=0.5)
    assert (len(asked), waits) == (1, [])
    # Nobody is asked when time is over; sockets take no time below zero.
    client, asked = answering(ok())
    for deadline in (0.0, -1.0):
        with pytest.raises(LateError, match="passed"):
            client.moderate("x", deadline=deadline)
    assert asked == []


@pytest.mark.parametrize("deadline", [7_200.0, float("inf")])
def test_a_deadline_beyond_what_the_service_takes_is_the_clients_own(deadline):
    client, asked = answering(ok())
    client.moderate("x", deadline=deadline)
    assert asked[0].headers["x-request-timeout-ms"] == "3600000"


def test_what_an_earlier_try_left_too_little_time_for_is_late(waits):
    short = httpx.Response(400, json={"error": {"message": "", "code": "deadline_too_short"}})
    client, _ = answering(busy(retry_after_ms="1"), short)
    with pytest.raises(LateError, match="too little time"):
        client.moderate("x", deadline=5)
    client, _ = answering(short)
    with pytest.raises(ApiError):
        client.moderate("x", deadline=5)


def test_no_answer_within_the_deadline_is_late():
    def slow(_: httpx.Request) -> httpx.Response:
        time.sleep(0.05)
        raise httpx.ReadTimeout("slow")

    client = Client(URL, http=httpx.Client(transport=httpx.MockTransport(slow)), retries=0)
    with pytest.raises(LateError, match="passed"):
        client.moderate("x", deadline=0.04)


@pytest.mark.parametrize("coding", [{}, {"content-encoding": "gzip"}])
def test_an_answer_that_comes_in_drips_is_late_for_who_waits(coding):
    def drips() -> Iterator[bytes]:
        # A decoder may say nothing for a while.
        for piece in gzip.compress(bytes(10_000)) * 100:
            time.sleep(0.01)
            yield bytes([piece]) if coding else b" "

    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=drips(), headers=coding)

    began = time.monotonic()
    http = httpx.Client(transport=httpx.MockTransport(handle))
    with pytest.raises(LateError):
        Client(URL, http=http).moderate("x", deadline=0.05)
    with pytest.raises(UnreachableError, match="took too long"):
        Client(URL, http=http, timeout=0.05, retries=0).moderate("x")
    assert time.monotonic() - began < 5


async def test_the_client_that_awaits_does_the_same(bundle):
    app = create_app(Settings(bundle=bundle.path, feedback=""))
    async with app.router.lifespan_context(app):
        async with asyncio.timeout(60):
            while app.state.moderator.serving.engine is None:
                await _pause()
        http = httpx.AsyncClient(transport=httpx.ASGITransport(app))
        async with http, AsyncClient(URL, http=http) as client:
            assert (await client.moderate(RUDE, deadline=5)).blocked
            assert len(await client.moderate_many(["a", "b"], policy="default")) == 2
            with pytest.raises(ApiError) as caught:
                await client.feedback("x", "safe")
            assert caught.value.code == "feedback_off"
    answers = [busy(retry_after_ms="1"), httpx.ConnectError("refused"), ok()]

    def handle(_: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async with AsyncClient(URL, http=httpx.AsyncClient(transport=httpx.MockTransport(handle))) as c:
        assert not (await c.moderate("x")).flagged


async def test_an_answer_that_comes_in_drips_is_late():
    async def drips() -> AsyncIterator[bytes]:
        for _ in range(500):
            await asyncio.sleep(0.01)
            yield b" "

    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=drips())

    async with AsyncClient(URL, http=httpx.AsyncClient(transport=httpx.MockTransport(handle))) as c:
        with pytest.raises(LateError):
            await c.moderate("x", deadline=0.05)


async def _pause() -> None:
    await asyncio.sleep(0.01)


# ---- middleware


def guarded(handle: Handler, **more: Any) -> TestClient:
    app = FastAPI()

    @app.post("/chat")
    async def chat(request: Request) -> dict[str, Any]:
        body = await request.json()
        found = getattr(request.state, "moderation", None)
        return {"said": body.get("question"), "judged": found is not None}

    @app.post("/other")
    async def other(request: Request) -> int:
        return len(await request.body())

    client = AsyncClient(
        URL, http=httpx.AsyncClient(transport=httpx.MockTransport(handle)), retries=0
    )
    given = {"item": lambda body: None if body.get("quiet") else {"prompt": body["question"]}}
    app.add_middleware(ModerationMiddleware, client=client, paths={"/chat"}, **given | more)
    return TestClient(app)


def by_word(request: httpx.Request) -> httpx.Response:
    rude = "goose" in json.loads(request.content)["input"]["prompt"]
    return httpx.Response(200, json=VERDICT | ({"action": "block"} if rude else {}))


def test_middleware_blocks_and_hands_on():
    app = guarded(by_word, max_body_bytes=1_000)
    assert app.post("/chat", json={"question": "hi"}).json() == {"said": "hi", "judged": True}
    blocked = app.post("/chat", json={"question": "a goose"})
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (403, "content_blocked")
    assert "goose" not in blocked.text
    assert app.post("/other", content=b"a goose").json() == 7
    assert app.post("/chat", json={"quiet": 1, "question": "x"}).json()["judged"] is False
    assert app.get("/chat").status_code == 405


@pytest.mark.parametrize(
    "body",
    [
        *(b"not json", b"[]", b'{"other": 1}', b"5", b"\xff", b"[" * 100_000),
        *(b'{"question": NaN}', b'{"question": 1e999}'),
    ],
    ids=["text", "list", "other", "number", "latin", "deep", "nan", "infinite"],
)
def test_middleware_refuses_what_it_cannot_judge(body):
    assert guarded(by_word).post("/chat", content=body).status_code == 400


def test_half_of_a_surrogate_pair_is_judged_along():
    client, asked = answering(ok())
    client.moderate("a \ud83d goose, \U0001f600")
    assert json.loads(asked[0].content)["input"] == "a ? goose, \U0001f600"
    body = json.dumps({"question": "a goose \ud83d"})
    assert guarded(by_word).post("/chat", content=body).status_code == 403


@pytest.mark.parametrize("status", [200, 307, 404])
def test_middleware_takes_what_is_no_tamis_for_unavailable(status):
    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, text="<html>")

    answer = guarded(handle).post("/chat", json={"question": "hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "moderation_unavailable")
    answer = guarded(handle, fail_open=True).post("/chat", json={"question": "hi"})
    assert answer.json() == {"said": "hi", "judged": False}


def test_middleware_refuses_too_long_a_body():
    app = guarded(by_word, max_body_bytes=1_000)
    assert app.post("/chat", json={"question": "x" * 1_000}).status_code == 413


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503, None])
def test_middleware_fails_closed_or_open_as_told(status):
    def handle(_: httpx.Request) -> httpx.Response:
        if status is None:
            raise httpx.ConnectError("refused")
        return busy(status)

    answer = guarded(handle).post("/chat", json={"question": "hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "moderation_unavailable")
    answer = guarded(handle, fail_open=True).post("/chat", json={"question": "hi"})
    assert answer.json() == {"said": "hi", "judged": False}


def test_middleware_does_not_let_a_text_through_that_is_refused_for_its_length():
    app = guarded(lambda _: busy(400), fail_open=True)
    assert app.post("/chat", json={"question": "x"}).status_code == 400


@pytest.mark.parametrize("question", [["a goose"], [], [{"prompt": "a goose"}], 5, False])
def test_middleware_does_not_let_a_list_through_as_a_batch(question):
    def batch(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"id": "mod-1", "results": [VERDICT]})

    app = guarded(batch, fail_open=True, item=lambda body: body["question"])
    answer = app.post("/chat", json={"question": question})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("param", "code"),
    [("policy", "unknown_policy"), ("x-request-timeout-ms", "deadline_too_short")],
)
def test_middleware_does_not_blame_a_text_for_policy_or_deadline(param, code):
    error = {"message": f"{param}: known: default", "code": code, "param": param}

    def handle(_: httpx.Request) -> httpx.Response:
        return httpx.Response(400, json={"error": error})

    answer = guarded(handle).post("/chat", json={"question": "hi"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "moderation_unavailable")
    assert param not in answer.text
    answer = guarded(handle, fail_open=True).post("/chat", json={"question": "hi"})
    assert answer.json() == {"said": "hi", "judged": False}


def test_middleware_finds_its_paths_wherever_the_application_is_mounted():
    app = Starlette(routes=[Mount("/api", guarded(by_word).app)])
    answer = TestClient(app).post("/api/chat", json={"question": "a goose"})
    assert answer.status_code == 403
    assert TestClient(app).post("/api/other", content=b"a goose").json() == 7
