"""Bodies that were written to cost: what is done before a text has its turn takes no time."""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.dialects import llamaguard, perspective
from service.dialects.chat import Message
from service.dialects.rewriting import shown_evidence
from service.errors import RequestError
from tamis.content import Content, plain
from tamis.verdict import Evidence
from tests.service.test_gateways import client, post

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


def test_too_long_a_stream_is_refused_by_the_name_of_its_field(client):
    body = {"kind": "response", "text": "x " * 140_000, "final": True}
    answer = client.post("/moderate/stream/long", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "text"
    assert post(client, "/moderate/stream/long", body | {"text": "Hello."})["action"] == "allow"
