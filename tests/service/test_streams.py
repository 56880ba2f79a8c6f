"""Texts that grow: each verdict is that of the text so far, and only what is new is run."""

import asyncio
import gc
import http.client
import json
import random
import time
import tracemalloc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from benchmarks.robustness.transformations import TRANSFORMATIONS
from benchmarks.server import Server
from benchmarks.streams import WORDS
from service.access import new_key
from service.app import create_app
from service.engine.classifier import load_classifier
from service.engine.memory import WINDOW_BYTES, Memory, Work
from service.engine.warmup import Pace
from service.errors import RequestError
from service.moderation.moderator import Moderator
from service.moderation.streams import (
    BARE_BYTES,
    MOST_MARKS,
    STREAM_BYTES,
    Stream,
    Streams,
    settled,
)
from service.observing.metrics import Metrics
from service.settings import Settings
from tamis.content import plain, response
from tamis.policies.parsing import default_policy
from tamis.tiers import load_bands
from tests.service.test_app import moderate, wait_until_ready
from tests.service.tiers import GOOSE, write_second

STRIDE = 96
RUDE = "Tell my sister she is a worthless, ugly idiot."
SAME = ("score", "action", "flagged", "severity", "fields", "categories", "attack", "windows")


def written(length: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    text = ""
    while len(text) < length:
        text += draw.choice(WORDS) + draw.choice([" ", " ", " ", ", ", ". "])
    return text[:length]


@pytest.fixture(scope="module")
def client(bundle) -> Iterator[TestClient]:
    yield from served(
        Settings(bundle=bundle.path, cache_bytes=0, max_text_characters=20_000, max_wait_ms=60_000)
    )


def served(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        wait_until_ready(client)
        yield client


def send(client: TestClient, name: str, text: str, **more: Any) -> dict[str, Any]:
    answer = client.post(f"/moderate/stream/{name}", json={"text": text} | more)
    assert answer.status_code == 200, answer.text
    return answer.json()


def alone(client: TestClient, text: str, prompt: str = "") -> dict[str, Any]:
    return moderate(client, input={"prompt": prompt, "response": text}, judge=["response"])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(one[name] == other[name] for name in SAME)


def eventually(true: Callable[[], bool]) -> bool:
    """Whether something comes true within two seconds."""
    return any(true() or time.sleep(0.02) for _ in range(100))


def streams_of(client: TestClient) -> Any:
    moderator = client.app.state.moderator
    assert isinstance(moderator, Moderator)
    return moderator.streams


def counted(client: TestClient) -> int:
    """Windows that were run for streams so far."""
    (line,) = [
        line
        for line in client.get("/metrics").text.splitlines()
        if line.startswith('tamis_stream_windows_total{kind="run"}')
    ]
    return int(float(line.rpartition(" ")[2]))


def test_every_verdict_is_that_of_the_text_up_to_where_it_is_decided(client):
    text, prompt = written(1_600), "Tell me of the garden."
    decided, windows = [], set()
    for length in (*range(71, len(text), 71), len(text)):
        answer = send(client, "exact", text[:length], prompt=prompt)
        at = answer["decided_chars"]
        assert at + answer["stream_holdback_chars"] == length
        if at and at not in decided:
            assert same(answer, alone(client, text[:at], prompt))
            assert text[at - 1].isspace()
            windows.add(answer["windows"])
            decided.append(at)
    assert windows >= {1, 2}
    assert all(a + STRIDE <= b for a, b in pairwise(decided))
    last = send(client, "exact", text, prompt=prompt, final=True)
    assert same(last, alone(client, text, prompt))
    assert (last["final"], last["stream_holdback_chars"]) == (True, 0)
    assert last["decided_chars"] == len(text)


def test_sending_a_text_again_and_again_costs_what_is_new(client):
    """LiteLLM's own way: the whole text, every fifth chunk of some three characters."""
    text = written(409, seed=1)
    sent = [text[:length] for length in (*range(15, 409, 15), 409)]
    assert len(sent) == 28
    answers = [send(client, "cheap", part, final=part == text) for part in sent]
    whole = [alone(client, part) for part in sent]
    # A last word that is cut may be read as a longer one as well.
    spelt = [len(one["transforms"]) for one in whole]
    assert sum(one["windows"] for one in whole) == 28 + sum(spelt)
    assert sum(one["run"]["windows"] for one in answers) == 4 + spelt[-1]
    assert 4 * sum(one["run"]["tokens"] for one in answers) < sum(one["tokens"] for one in whole)
    assert same(answers[-1], whole[-1])


def test_the_cost_grows_with_the_text_and_not_with_its_square(client):
    costs = []
    for length in (2_000, 6_000):
        text = written(length, seed=length)
        answers = [send(client, f"n{length}", text[:n]) for n in range(100, length + 1, 100)]
        costs.append(sum(answer["run"]["tokens"] for answer in answers) / length)
    assert costs[1] < 1.3 * costs[0]


def test_the_kind_says_what_is_asked(client):
    long = f"{RUDE} {written(100)}"
    for kind, item in (("text", {"text": long}), ("prompt", {"prompt": long})):
        assert same(send(client, kind, long, kind=kind, final=True), moderate(client, input=item))
    assert send(client, "rude", f"{RUDE} {written(100)}", kind="text")["flagged"]


@pytest.mark.parametrize("name", ["base64", "letter spacing", "homoglyphs"])
def test_what_is_written_otherwise_is_read_as_it_is_alone(client, name):
    """Such a text has two views, each with its windows; what comes before is read twice, too."""
    before, prompt = written(900), "Tell me of the garden."
    text = f"{before} {TRANSFORMATIONS[name](RUDE)} {written(900, seed=1)}"
    seen, runs = set(), 0
    for length in (*range(100, len(text), 100), len(text)):
        final = length == len(text)
        answer = send(client, "spelt", text[:length], prompt=prompt, final=final)
        whole = alone(client, text[: answer["decided_chars"]], prompt)
        assert same(answer, whole)
        assert answer["transforms"] == whole["transforms"]
        seen.add(tuple(answer["transforms"]))
        runs += answer["run"]["windows"]
    assert answer["decided_chars"] == len(text)
    assert () in seen
    assert answer["transforms"]
    assert answer["windows"] > 2
    assert runs < 3 * len(range(0, len(text), 100))


def test_the_last_verdict_has_a_second_opinion_where_one_is_wanted(bundle, tmp_path):
    second = write_second(bundle, tmp_path / "second")
    for client in served(Settings(bundle=bundle.path, feedback="")):
        engine = client.app.state.moderator.serving.engine
        engine.consult(load_bands(second.path), load_classifier(second), Pace(2_000, 128))
        text = f"{GOOSE} " * 3
        early = send(client, "goose", text, kind="text")
        assert early["decided_chars"] == len(text)
        assert "second_opinion" not in early
        last = send(client, "goose", text, kind="text", final=True)
        whole = moderate(client, input={"text": text})
        assert last["second_opinion"] == whole["second_opinion"] == "given"
        assert last["model"] == whole["model"] != early["model"]
        assert same(last, whole)
        assert last["run"]["windows"] == 0


def test_little_is_held_and_nothing_is_said_of_it(client):
    for text in ("", " ", "The", RUDE):
        answer = send(client, "little", text, kind="text")
        assert (answer["action"], answer["flagged"], answer["windows"]) == ("allow", False, 0)
        assert answer["stream_holdback_chars"] == len(text)
        assert answer["run"] == {"windows": 0, "tokens": 0}
    last = send(client, "little", RUDE, kind="text", final=True)
    assert same(last, moderate(client, input={"text": RUDE}))
    empty = send(client, "empty", "", final=True)
    assert (empty["action"], empty["windows"]) == ("allow", 0)


def test_what_comes_late_or_twice_is_harmless(client):
    text = written(900)
    for length in (250, 450, 700):
        send(client, "late", text[:length])
    latest = send(client, "late", text)
    # Of what is shorter than what was judged nothing is said: it need not be the same text.
    for length in (500, 300, 50):
        early = send(client, "late", text[:length])
        assert (early["action"], early["windows"]) == ("allow", 0)
        assert (early["decided_chars"], early["stream_holdback_chars"]) == (0, length)
        assert early["run"]["windows"] == 0
        again = send(client, "late", text)
        assert same(again, latest)
        assert again["run"]["windows"] == 0
    # The last text is what counts, even where it is shorter.
    last = send(client, "late", text[:700], final=True)
    assert same(last, alone(client, text[:700]))
    assert last["decided_chars"] == 700


async def test_whoever_is_overtaken_is_answered_for_the_text_that_was_sent():
    short, long = "That was all.", "That was by no means all of it. " * 20
    overtaken = asyncio.Event()

    class Slow:
        """Judges the short text last, and decides by the text itself."""

        def check_lengths(self, _: Any) -> None:
            pass

        async def judge_growing(self, _: Any, texts: Any, *__: Any) -> Any:
            (content, _) = texts[0]
            if content.text == short:
                await overtaken.wait()
            finding = SimpleNamespace(of=content.text, ruled=None, other=None)
            return SimpleNamespace(findings=[[finding]]), [Work(1, 1, 1)]

        def decide_on(self, findings: Any, _: Any) -> Any:
            return [finding.of for finding in findings]

    streams = Streams(Slow(), Settings(), Metrics())
    state = SimpleNamespace(caller=None)
    request: Any = SimpleNamespace(state=state, receive=asyncio.Event().wait)
    policy = default_policy()
    ask = partial(streams.follow, request, "call", policy=policy)
    last = asyncio.create_task(ask(content=plain(short), final=True))
    await asyncio.sleep(0)
    await ask(content=plain(long))
    overtaken.set()
    told: Any = await last
    assert (told.verdict, told.decided, told.holdback) == ([short], len(short), 0)


async def test_a_client_who_leaves_takes_what_waits_along():
    ended: list[str] = []

    class Endless:
        def check_lengths(self, _: Any) -> None:
            pass

        async def judge_growing(self, *_: Any) -> Any:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("judging")

    async def leave() -> Any:
        return {"type": "http.disconnect"}

    streams = Streams(Endless(), Settings(), Metrics())
    request: Any = SimpleNamespace(state=SimpleNamespace(caller=None), receive=leave)
    async with asyncio.timeout(5):
        with pytest.raises(ClientDisconnect):
            await streams.follow(request, "call", plain(RUDE), default_policy(), final=True)
    assert ended == ["judging"]
    assert len(streams) == 0


def test_open_streams_are_bounded_with_those_that_are_remembered():
    settings = Settings(streams=4, stream_bytes=50_000)
    streams = Streams(Mock(), settings, Metrics())
    for name in "abcd":
        streams._put(("", name), Stream(b""))
    with ExitStack() as stack:
        first, second = (stack.enter_context(streams.opened("response", None)) for _ in range(2))
        assert (list(streams._known), streams.size) == ([("", "c"), ("", "d")], 2 * BARE_BYTES)
        streams.hold(first, response("tea " * 5_000, "Hello."))
        assert len(streams) == 2
        streams.hold(second, response("tea " * 6_700, "Hello."))
        assert len(streams) == 0
        with pytest.raises(RequestError, match="open streams are 49") as refused:
            streams.hold(first, response("tea " * 5_500, "Hello."))
        assert (refused.value.status, refused.value.code) == (429, "overloaded")
        for _ in range(2):
            stack.enter_context(streams.opened("response", None))
        streams._put(("", "e"), Stream(b""))
        streams._shrink()
        assert len(streams) == 0
        with pytest.raises(RequestError, match="4 streams are open"):
            stack.enter_context(streams.opened("response", None))
    with streams.opened("response", None) as stream:
        streams.hold(stream, response("tea " * 12_000, "Hello."))


def test_a_stream_that_finds_no_room_for_its_text_ends(client, monkeypatch):
    monkeypatch.setattr(client.app.state.moderator.settings, "stream_bytes", 10_000)
    lines = [{"text": "A calm day. "}, {"text": "tea " * 4_000}, {"text": "More."}]
    answer = client.post("/moderate/stream", content="\n".join(map(json.dumps, lines))).text
    last = answer.strip().rpartition("event: ")[2]
    assert last.startswith("error")
    assert '"code":"overloaded"' in last


def test_a_text_that_goes_on_otherwise_is_a_new_one(client):
    one, other = written(600, seed=3), written(600, seed=4)
    send(client, "turn", one)
    for text, prompt in ((other, ""), (other[:300] + one, ""), (one, "Another question?")):
        answer = send(client, "turn", text, prompt=prompt)
        assert same(answer, alone(client, text[: answer["decided_chars"]], prompt))
        assert answer["run"]["windows"] == answer["windows"]


def test_a_shorter_text_that_goes_on_otherwise_gets_no_verdict_of_another(client):
    one, other = written(600, seed=3), written(600, seed=4)
    for length in (250, 600):
        send(client, "shorter", one[:length])
    answer = send(client, "shorter", one[:300] + other[:200])
    assert (answer["decided_chars"], answer["stream_holdback_chars"]) == (0, 500)
    last = send(client, "shorter", one[:300] + other[:200], final=True)
    assert same(last, alone(client, one[:300] + other[:200]))


def test_streams_are_their_callers_own(bundle, tmp_path):
    keys, entries = zip(*(new_key(name) for name in ("ana", "ben")), strict=True)
    (tmp_path / "keys.yaml").write_text(yaml.safe_dump(list(entries)))
    for client in served(Settings(bundle=bundle.path, keys=tmp_path / "keys.yaml")):
        text = written(600)
        runs = []
        for key in (keys[0], keys[1], keys[0]):
            answer = client.post(
                "/moderate/stream/call", json={"text": text}, headers={"x-api-key": key}
            )
            runs.append(answer.json()["run"]["windows"])
        assert runs == [1, 1, 0]
        assert len(streams_of(client)) == 2
        assert client.post("/moderate/stream/call", json={"text": text}).status_code == 401


def test_streams_are_bounded_and_forgotten(bundle, monkeypatch):
    settings = Settings(bundle=bundle.path, streams=3, stream_seconds=50, feedback="")
    for client in served(settings):
        text = written(400)
        for name in "abcde":
            send(client, name, text)
        streams = streams_of(client)
        assert len(streams) == 3
        assert send(client, "e", text)["run"]["windows"] == 0
        assert send(client, "a", text)["run"]["windows"] == 1
        assert "tamis_streams 3.0" in client.get("/metrics").text
        later = SimpleNamespace(monotonic=partial(lambda now: now, time.monotonic() + 51))
        monkeypatch.setattr("service.moderation.streams.time", later)
        assert send(client, "a", text)["run"]["windows"] == 1
        assert len(streams) == 1
        send(client, "a", text, final=True)
        assert len(streams) == 0
    settings = Settings(bundle=bundle.path, stream_bytes=3 * STREAM_BYTES, feedback="")
    for client in served(settings):
        for name in "abcde":
            send(client, name, text)
        assert len(streams_of(client)) == 2
        assert streams_of(client).size <= 3 * STREAM_BYTES


def test_estimates_of_memory_are_not_too_low(client):
    streams = streams_of(client)
    text = written(20_000)
    names = [f"memory-{n}" for n in range(10)]
    gc.collect()
    tracemalloc.start()
    before, estimated = tracemalloc.get_traced_memory()[0], streams.size
    for name in names:
        for length in (300, 900, 3_000):
            send(client, name, text[:length])
    gc.collect()
    grown, estimate = tracemalloc.get_traced_memory()[0] - before, streams.size - estimated
    tracemalloc.stop()
    assert estimate >= 10 * (STREAM_BYTES + 3 * WINDOW_BYTES)
    assert 0.1 * estimate < grown < estimate


def test_the_estimate_of_a_stream_without_a_finding_is_not_too_low(client):
    """Such are those of gateways, whose texts are judged to their end each time."""
    classifier = client.app.state.moderator.serving.engine.classifier
    (window,) = classifier.encode(plain(written(300))).windows
    scored = [("a", one) for one in classifier.score([window])]
    gc.collect()
    tracemalloc.start()
    known = OrderedDict()
    for n in range(200):
        known["", f"{n:032x}"] = stream = Stream(b"")
        stream.memory.keep(scored, 300)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert stream.size == BARE_BYTES + WINDOW_BYTES
    assert 0.5 * stream.size < grown / 200 < stream.size


def test_no_text_is_remembered(client):
    send(client, "private", f"zebra-canary {written(500)}", prompt="canary")
    streams = streams_of(client)
    (stream,) = [s for key, s in streams._known.items() if key[1] == "private"]
    finding = stream.finding
    assert "canary" not in f"{stream} {finding} {vars(stream.memory)}"


def test_marks_are_bounded_and_the_first_stays():
    stream = Stream(b"")
    for n in range(1, 1_000):
        stream.moved(n, bytes([n % 256]), None)
    assert len(stream.marks) <= MOST_MARKS
    assert stream.marks[0][0] == 1
    assert stream.marks[-1][0] == 999


def test_words_are_waited_for_unless_there_are_none():
    assert settled("one two thr") == 8
    assert settled("one two\n") == 8
    assert settled("") == 0
    assert settled("word") == 4
    assert settled("one " + "x" * 200) == 204
    assert settled("\u6c34" * 100) == 100


def test_a_memory_answers_for_what_it_has_read_only(client):
    engine = client.app.state.moderator.serving.engine
    classifier = engine.classifier
    memory = Memory()
    encoded = classifier.encode(response(written(1_500), "Hi"))
    scored = [s for window in encoded.windows for s in classifier.score([window])]
    memory.keep([("a", one) for one in scored], 1_500)
    assert [memory.get(w, "a").logits.tolist() for w in encoded.windows] == [
        s.logits.tolist() for s in scored
    ]
    other = classifier.encode(response(written(1_500), "Ho"))
    assert all(memory.get(window, "a") is None for window in other.windows)
    # Another bundle says other things of the same ids.
    assert all(memory.get(window, "b") is None for window in encoded.windows)


@pytest.mark.parametrize(
    ("name", "body", "param"),
    [
        ("a b", {"text": ""}, "name"),
        ("x" * 129, {"text": ""}, "name"),
        ("a", {}, "text"),
        ("a", {"text": 5}, "text"),
        ("a", {"text": "", "final": "yes"}, "final"),
        ("a", {"text": "", "kind": "post"}, "kind"),
        ("a", {"text": "", "kind": "text", "prompt": "x"}, "prompt"),
        ("a", {"text": "", "kind": "text", "messages": []}, "messages"),
        ("a", {"text": "", "prompt": "x", "messages": []}, "prompt"),
        ("a", {"text": "", "messages": [{"content": "x"}]}, "messages[0].role"),
        ("a", {"text": "tea " * 6_000}, "text"),
        ("a", {"text": "", "policy": "none"}, "policy"),
        ("a", {"text": "", "policy": 5}, "policy"),
        ("a", {"text": "", "x": 1}, "x"),
    ],
)
def test_what_does_not_fit_is_refused(client, name, body, param):
    answer = client.post(f"/moderate/stream/{name}", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("kind", ["response", "prompt"])
def test_the_next_turn_of_a_conversation_is_judged_in_its_light(client, kind):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "By tea I mean the pond."},
        {"role": "assistant", "content": "Good, tea is the pond."},
    ]
    if kind == "response":
        turns.append({"role": "user", "content": "How deep is the tea?"})
    text = written(300)
    for length in (100, 200, 300):
        about = {"kind": kind, "messages": turns, "final": length == len(text)}
        answer = send(client, kind, text[:length], **about)
        role = "user" if kind == "prompt" else "assistant"
        last = {"role": role, "content": text[: answer["decided_chars"]]}
        whole = moderate(client, input={"messages": [*turns, last]}, judge=[kind])
        for name in ("score", "categories", "attack", "windows", "tokens"):
            assert answer[name] == whole[name]
    assert answer["decided_chars"] == len(text)
    assert answer["score"] != send(client, f"{kind}s", text, kind=kind, final=True)["score"]


def events(body: str) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in body.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def lines(*objects: Any) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in objects)


def test_pieces_in_one_request_are_judged_as_they_come(client):
    text, prompt = written(1_200), "Tell me of the garden."
    pieces = [text[n : n + 23] for n in range(0, len(text), 23)]
    body = lines({"prompt": prompt}, *({"text": piece} for piece in ["", *pieces]))
    told = events(client.post("/moderate/stream", content=body).text)
    assert {name for name, _ in told} == {"verdict"}
    assert [one["final"] for _, one in told] == [False] * (len(told) - 1) + [True]
    for _, one in told:
        assert same(one, alone(client, text[: one["decided_chars"]], prompt))
    assert told[-1][1]["decided_chars"] == len(text)
    # The TestClient sends it all at once, and still nothing is run twice.
    assert sum(one["run"]["windows"] for _, one in told) < 20


@pytest.mark.parametrize("body", [b"", b"\n\n", b"{}", b'{"text": ""}\n'])
def test_an_empty_stream_is_allowed(client, body):
    ((name, only),) = events(client.post("/moderate/stream", content=body).text)
    assert (name, only["action"], only["final"], only["windows"]) == ("verdict", "allow", True, 0)


@pytest.mark.parametrize(
    ("pieces", "code", "status"),
    [
        ([{"text": 5}], "invalid_request", 400),
        ([{"texts": "x"}], "invalid_request", 400),
        ([{"text": "tea " * 3_000}] * 2, "text_too_long", 400),
    ],
)
def test_what_goes_wrong_later_is_the_last_event(client, pieces, code, status):
    body = lines({"text": written(200)}, *pieces)
    answer = client.post("/moderate/stream", content=body)
    assert answer.status_code == 200
    told = events(answer.text)
    assert told[0][0] == "verdict"
    assert (told[-1][0], told[-1][1]["error"]["code"]) == ("error", code)
    metrics = client.get("/metrics").text
    assert 'outcome="invalid",route="/moderate/stream"' in metrics


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"kind": "post"}', b'{"policy": "none"}'])
def test_a_first_line_that_does_not_fit_is_an_ordinary_error(client, body):
    answer = client.post("/moderate/stream", content=body + b'\n{"text": "x"}\n')
    assert answer.status_code == 400
    assert "error" in answer.json()


def test_streams_are_counted(client):
    for length in (1_700, 2_000):
        send(client, "counted", written(2_000)[:length])
    send(client, "other", "x")
    metrics = client.get("/metrics").text
    for line in (
        'tamis_stream_pieces_total{result="judged"}',
        'tamis_stream_pieces_total{result="held"}',
        'tamis_stream_windows_total{kind="run"}',
        'tamis_stream_windows_total{kind="known"}',
    ):
        value = next(at for at in metrics.splitlines() if at.startswith(line))
        assert float(value.rpartition(" ")[2]) > 0
    assert 'route="/moderate/stream/{name}"' in metrics
    assert "counted" not in metrics


def test_two_hundred_streams_at_once_end_as_their_texts_would(client):
    texts = [written(150 + 2 * n, seed=n) for n in range(200)]
    finals: dict[int, dict[str, Any]] = {}

    def one(n: int) -> None:
        cut = random.Random(n).sample(range(1, len(texts[n])), 3)
        cut = cut if n % 10 == 0 else sorted(cut)  # some are out of order
        for length in cut:
            send(client, f"soak-{n}", texts[n][:length])
        if n % 7:  # some are abandoned
            finals[n] = send(client, f"soak-{n}", texts[n], final=True)

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(one, range(200)))
    for n in random.Random(0).sample(sorted(finals), 20):
        assert same(finals[n], alone(client, texts[n]))
    left = [key for key in streams_of(client)._known if key[1].startswith("soak")]
    assert len(left) == len(range(0, 200, 7))
    # A worker tells how much is left after it has told the caller.
    assert eventually(lambda: "tamis_queued_tokens 0.0" in client.get("/metrics").text)
    assert client.app.state.moderator.serving.engine.scheduler.queued_tokens == 0


def test_over_a_socket_verdicts_come_before_the_text_has_ended(bundle):
    text = written(600)
    with Server(bundle.path, stream_seconds=2, streams=1) as server, ExitStack() as stack:

        def connected() -> http.client.HTTPConnection:
            made = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            return stack.enter_context(closing(made))

        held = connected()
        begin(held, {"prompt": "Hi"}, {"text": text[:300]})
        answer = held.getresponse()
        first = answer.readline() + answer.readline()
        assert b"event: verdict" in first
        assert json.loads(first.partition(b"data: ")[2])["final"] is False
        # One stream is open, and no more may be.
        other = connected()
        begin(other)
        told = events(other_body(other))
        assert told[-1][1]["error"]["code"] == "overloaded"
        chunk(held, {"text": text[300:]})
        held.send(b"0\r\n\r\n")
        last = events(answer.read().decode())[-1][1]
        assert (last["final"], last["decided_chars"]) == (True, 600)
        held.close()

        idle = connected()
        begin(idle, {"text": "The"})
        told = events(idle.getresponse().read().decode())
        assert told[-1][1]["error"]["code"] == "stream_idle"
        # Left in the middle: its place is free again.
        gone = connected()
        begin(gone, {"text": text})
        gone.getresponse().readline()
        gone.close()
        for _ in range(100):
            last = connected()
            last.request("POST", "/moderate/stream", lines({"text": text}))
            if events(last.getresponse().read().decode())[-1][0] == "verdict":
                break
        else:
            pytest.fail("an abandoned stream stays open")


def begin(connection: http.client.HTTPConnection, *pieces: Any) -> None:
    connection.putrequest("POST", "/moderate/stream")
    connection.putheader("transfer-encoding", "chunked")
    connection.endheaders()
    for piece in pieces:
        chunk(connection, piece)


def chunk(connection: http.client.HTTPConnection, piece: Any) -> None:
    blob = lines(piece)
    connection.send(f"{len(blob):x}\r\n".encode() + blob + b"\r\n")


def other_body(connection: http.client.HTTPConnection) -> str:
    connection.send(b"0\r\n\r\n")
    return connection.getresponse().read().decode()
