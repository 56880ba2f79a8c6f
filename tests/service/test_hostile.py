"""Bodies that were written to cost: what is done before a text has its turn takes no time."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from service.dialects import decisions, halves, llamaguard, perspective
from service.dialects.calls import Calls
from service.dialects.chat import ChatRequest, Message
from service.dialects.rewriting import shown_evidence
from service.dialects.values import check_values
from service.errors import RequestError
from service.observing.answered import Digest, Judgement
from service.observing.audit.record import verdict_records
from tamis.content import EARLIER, Asked, Content, plain
from tamis.policies.parsing import default_policy
from tamis.verdict import Action, Evidence, Finding, Provenance, Severity, Verdict
from tests.service.test_gateways import client, post
from tests.service.wire import KIND, RUDE, WIRES

__all__ = ["client"]

LONG = 200_000


@contextmanager
def at_once(seconds: float = 2.0) -> Iterator[None]:
    """Generous: what these guard against took minutes to hours."""
    began = time.perf_counter()
    yield
    assert time.perf_counter() - began < seconds


@pytest.mark.parametrize(
    "text",
    [
        "!" * LONG + "x",
        "a!" * (LONG // 2),
        '!"' * (LONG // 2) + "x",
        "!" + '"' * LONG + "x",
        ". " * (LONG // 2),
        "\n" * LONG,
    ],
    ids=["marks", "each", "quoted", "quotes", "sentences", "lines"],
)
def test_sentences_are_found_in_one_pass(text: str):
    with at_once():
        assert len(perspective.sentences(text)) <= perspective.MOST_SPANS


AS_IT_WAS = re.compile(r".+?(?:[.!?…]+[\"')\]”’]*(?=\s)|\n|$)", re.DOTALL)


PIECE = st.from_regex(r"""[ab]{1,2}[!?.…]{0,3}["')]{0,2}[ \n]{0,2}""", fullmatch=True)


@given(st.lists(PIECE, max_size=6).map("".join))
def test_sentences_are_those_of_the_plain_pattern(text: str):
    cut = [match.span() for match in AS_IT_WAS.finditer(text)]
    wanted = [text[start:stop].strip() for start, stop in cut if text[start:stop].strip()]
    assert [text[start:stop] for start, stop in perspective.sentences(text)] == wanted


@pytest.mark.parametrize(
    "text",
    [
        llamaguard.BEGIN + " " * LONG,
        llamaguard.BEGIN * 10_000,
        (llamaguard.BEGIN + llamaguard.END) * 5_000,
        llamaguard.BEGIN + llamaguard.END + "User" * 50_000,
    ],
    ids=["blank", "begun", "ended", "instructed"],
)
def test_a_guards_prompt_is_taken_apart_in_one_pass(text: str):
    with at_once():
        llamaguard.contents_of([Message(role="user", content=text)])


@pytest.mark.parametrize(
    "turn",
    [b'{"role":"user","content":"a"}', b'{"role":"user","content":""}'],
    ids=["said", "nothing"],
)
def test_turns_that_nobody_answers_are_read_in_one_pass(turn: bytes):
    body = b'{"messages":[' + b",".join([turn] * 10_000) + b"]}"
    with at_once():
        asked = halves.validated(TypeAdapter(ChatRequest), body).asked
    assert asked[-1].context is None or len(asked[-1].context) <= EARLIER


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"[" + b'"\\"{",' * 300_000 + b'""]', 300_001),
        (b'{"messages":[' + b"{}," * 1_000_000 + b"{}]}", 4_000_009),
        (b'["' + b'\\"' * 2_000_000 + b"\\", 1),
        (b'["' + b'{\\"a\\": 1}' * 200_000 + b'"]', 1),
    ],
    ids=["texts", "messages", "quotes", "json"],
)
def test_a_body_of_too_many_values_is_refused_before_they_are_built(body: bytes, found: int):
    refused = pytest.raises(RequestError, match=f"{found} values .* limit of 131072")
    with at_once(1.0), refused if found > 1 else nullcontext():
        check_values(body)


def test_levels_that_look_alike_are_told_apart_in_one_pass():
    shown = [f"a{chr(1 + n // 16)}{chr(1 + n % 16)}" for n in range(255)]
    levels = [decisions.Level(label=label) for label in shown]
    score = decisions.Score(type="score", instructions="?", levels=levels)
    with at_once():
        found = [decisions.asked_of(score, n) for n in range(100)]
    assert [name for name, _ in found[0].policy] == ["a", *(f"a ({n})" for n in range(2, 256))]


def test_calls_are_kept_without_a_look_at_all_the_others():
    calls = Calls()
    with at_once():
        for n in range(20_000):
            calls.keep((None, f"{n}"), Asked("x"))
    assert len(calls) == 20_000


def test_an_item_of_many_contents_is_recorded_in_one_pass():
    contents = [Content("attack", f"{n}", "asked", f"[{n}]") for n in range(10_000)]
    findings = [Finding("attack", 0.0, {}, 0.0, 1, 1) for _ in contents]
    policy, who = default_policy(), Provenance("m", "b", "p", "v")
    allowed = Verdict(
        False, Action.ALLOW, 0.0, None, {}, None, (), 0, 0, who, Severity.SAFE, fields={}
    )
    bundle: Any = SimpleNamespace(name="m", fingerprint="b")
    timings: Any = None
    judgement = Judgement(
        0.0, bundle, policy, False, False, timings, Digest(), [contents], [findings], [allowed]
    )
    answered: Any = SimpleNamespace(
        request_id="1", trace=SimpleNamespace(trace_id="2"), caller=None, route="/moderate"
    )
    with at_once():
        (record,) = verdict_records(answered, judgement)
    assert {one["context"]["sha256"] for one in record["contents"]} == {Digest()("asked")}


class Found:
    """As much of a verdict as is looked at."""

    def __init__(self, *evidence: Evidence) -> None:
        self.evidence = evidence


def insult(start: int, end: int, field: str = "m") -> Evidence:
    return Evidence(start, end, "x" * (end - start), "toxicity", 0.9, field)


def places(found: Any, whole: str, *parts: str) -> set[tuple[str, int, int]]:
    shown = [plain(part, f"[{n}]") for n, part in enumerate(parts)]
    told = shown_evidence(found, [Content("prompt", whole, None, "m")], shown)
    return {(one.field, one.start, one.end) for one in told}


def test_evidence_is_told_of_each_part_that_it_stands_in():
    whole = "one\ntwo two\nthree"
    over = Found(insult(2, 9))
    assert places(over, whole, "one", "two two", "three", "two") == {("[0]", 2, 3), ("[1]", 0, 5)}
    assert places(over, whole, "one\ntwo two", "two two\nthree") == {("[0]", 2, 9), ("[1]", 0, 5)}
    assert places(over, whole, whole, "") == {("[0]", 2, 9)}
    assert places(Found(insult(0, 1)), "a\nb\na", "a", "a", "b") == {("[0]", 0, 1), ("[1]", 0, 1)}
    assert places(Found(), whole, whole) == set()


def test_a_part_that_comes_a_thousand_times_is_looked_for_once():
    whole = "\n".join(["a"] * 50_000)
    with at_once():
        found = places(
            Found(*(insult(n, n + 1) for n in range(0, 2_000, 2))), whole, *(["a"] * 500)
        )
    assert len(found) == 500
    other = [f"a\n{n}" for n in range(2_000)]
    with at_once(), pytest.raises(RequestError, match="too many to mask evidence in"):
        places(Found(*(insult(n, n + 1) for n in range(0, 2_000, 2))), whole, *other)


HALF = "\ud83d"
LONE = r'"\ud83d" "\\\ude00" "\ud83d\ud83d\ude00" "\uD83D\\uDE00" "\ud83d\u0041"'
MENDED = r'"\ufffd" "\\\ufffd" "\ufffd\ud83d\ude00" "\ufffd\\uDE00" "\ufffd\u0041"'


def test_halves_of_pairs_are_told_from_whole_ones():
    assert halves.mended(LONE.encode()) == MENDED.encode()
    for whole in (rb'"\ud83d\ude00 \\ud83d"', rb'"\ud8', b'"a\\\\', b'"x"'):
        assert halves.mended(whole) == whole


LETTER = st.sampled_from(["a", "u", "d8", "\\", '"', HALF, "\ude00", "\U0001f600"])


@given(st.lists(LETTER, max_size=9).map("".join))
def test_halves_are_read_as_utf_16_reads_them(text: str):
    read = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert json.loads(halves.mended(json.dumps(text).encode())) == read


@pytest.mark.parametrize(
    "body",
    [rb"\ud83d" * LONG, rb"a\ud83d" * LONG, rb"\ud83d" + b"\\" * LONG, rb"\ud83d" + b"a" * LONG],
    ids=["halves", "between", "backslashes", "plain"],
)
def test_halves_are_found_in_one_pass(body: bytes):
    with at_once():
        halves.mended(body)


@pytest.mark.parametrize("name", WIRES)
def test_half_of_a_pair_lets_nothing_through_unread(client, name: str):
    """Gateways that fail open take an error for leave."""
    wire = WIRES[name]
    body = json.dumps(wire.body(f"{RUDE}{HALF}"))
    answer = client.post(wire.path, content=body)
    assert answer.status_code in (200, 403), answer.text
    assert not wire.passes(answer.status_code, answer.json())


def test_half_of_a_pair_ends_no_stream(client):
    pieces = [{"text": f"{KIND} {HALF}"}, {"text": f"\ude00 {RUDE}"}]
    body = "\n".join(map(json.dumps, pieces))
    answer = client.post("/moderate/stream", content=body).text
    assert answer.startswith("event: verdict")
    assert "event: error" not in answer


def test_too_long_a_stream_is_refused_by_the_name_of_its_field(client):
    body = {"kind": "response", "text": "x " * 140_000, "final": True}
    answer = client.post("/moderate/stream/long", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "text"
    assert post(client, "/moderate/stream/long", body | {"text": "Hello."})["action"] == "allow"
