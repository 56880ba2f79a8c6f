import asyncio
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from service.engine.reasoner import reasoner as engine
from service.engine.reasoner.decoder import Decoder
from service.engine.reasoner.queue import Explainer
from service.engine.reasoner.reasoner import GivenUpError, LateError, Reasoner, TooLongError, go_on
from service.engine.scheduler import DeadlineError, OverloadedError
from tamis import content
from tamis.bundle import BundleError
from tamis.reasoner import bundle as bundles
from tamis.reasoner import protocol
from tamis.reasoner.bundle import ReasonerBundle
from tamis.reasoner.protocol import Format, Piece, guidelines
from tamis.reasoner.quotes import Source
from tests.service.observed import until

POLICY = guidelines(
    {"garden crime": "Steals apples.", "garden noise": None, "rude geese": "Honks."}
)
OTHER = guidelines({"tea": "Spills it."})
TEXT = content.prompt("May I take the apples home?")
FORM = Format()


@pytest.fixture(scope="module")
def bundle(tiny_reasoner: Path) -> ReasonerBundle:
    return bundles.load(tiny_reasoner)


@pytest.fixture
def reasoner(bundle: ReasonerBundle) -> Reasoner:
    return Reasoner(bundle, threads=1, cache_bytes=1 << 26)


def test_a_restored_prefix_gives_the_very_logits_of_a_fresh_one(bundle: ReasonerBundle):
    fresh = Decoder(bundle.graph, bundle.positions, 1)
    text = list(range(5, 90))
    fresh.read(text[:50])
    kept = fresh.keep()
    expected = fresh.read(text[50:])
    other = Decoder(bundle.graph, bundle.positions, 1)
    other.read(list(range(200, 300)))  # what was there before does not matter
    other.restore(kept)
    assert other.tokens == 50
    np.testing.assert_array_equal(other.read(text[50:]), expected)
    other.rewind(60)
    np.testing.assert_allclose(other.read(text[60:]), expected, atol=1e-4)
    # Of its own tokens alone.
    assert kept.nbytes * len(text) == other.keep().nbytes * 50


def test_a_decoder_refuses_what_does_not_fit(bundle: ReasonerBundle):
    decoder = Decoder(bundle.graph, 32, 1)
    with pytest.raises(ValueError, match="33 tokens, 32 fit"):
        decoder.read([5] * 33)
    with pytest.raises(ValueError, match="cannot go"):
        decoder.rewind(1)


def test_a_policy_is_read_once(reasoner: Reasoner):
    first = reasoner.judge(POLICY, TEXT, go_on)
    again = reasoner.judge(POLICY, TEXT, go_on)
    assert first.cached == 0
    prefix, case = reasoner.count(POLICY, TEXT)
    assert again.cached == prefix
    assert again.tokens == prefix + case
    assert (again.unsafe, again.categories) == (first.unsafe, first.categories)
    reasoner.judge(OTHER, TEXT, go_on)
    assert len(reasoner.prefixes) == 2
    assert reasoner.judge(POLICY, TEXT, go_on).unsafe == first.unsafe


def test_the_memory_of_prefixes_is_bounded(bundle: ReasonerBundle):
    unbounded = Reasoner(bundle, threads=1, cache_bytes=1 << 26)
    unbounded.judge(POLICY, TEXT, go_on)
    room = unbounded.prefixes.size
    reasoner = Reasoner(bundle, threads=1, cache_bytes=room)
    for policy in (POLICY, OTHER, POLICY):
        assert reasoner.judge(policy, TEXT, go_on).cached == 0
        assert reasoner.prefixes.size <= room
    assert reasoner.judge(POLICY, TEXT, go_on).cached > 0


def test_probabilities_are_read_off_the_model(reasoner: Reasoner, bundle: ReasonerBundle):
    """Against a plain reading of each whole answer, token by token."""
    reading = reasoner.judge(POLICY, TEXT, go_on)
    decoder = Decoder(bundle.graph, bundle.positions, 1)
    question = reasoner._encode((*protocol.prefix(POLICY, FORM), *protocol.case(TEXT)))
    opening = reasoner._encode([Piece("\\safety{")])
    logits = decoder.read([*question, *opening])[0]
    safe, unsafe = (reasoner._encode([Piece(label)])[0] for label in ("safe", "unsafe"))
    odds = float(logits[unsafe] - logits[safe])
    assert reading.unsafe == pytest.approx(1 / (1 + np.exp(-odds)), abs=1e-3)
    # "garden crime" and "garden noise" begin alike: two places to branch at.
    stem = reasoner._encode([Piece("unsafe"), Piece("}\\category{")])
    at = [*question, *opening, *stem]

    def share(path: str, branches: str) -> dict[str, float]:
        decoder.rewind(0)
        row = decoder.read([*at, *reasoner._encode([Piece(path)])])[0] if path else None
        if row is None:
            row = decoder.read(at)[0]
        found = {b: row[reasoner._encode([Piece(b)])[0]] for b in branches}
        total = sum(np.exp(v) for v in found.values())
        return {b: float(np.exp(v) / total) for b, v in found.items()}

    first, second = share("", "gr"), share("garden ", "cn")
    expected = {
        "garden crime": first["g"] * second["c"],
        "garden noise": first["g"] * second["n"],
        "rude geese": first["r"],
    }
    assert reading.categories == pytest.approx(expected, abs=2e-3)
    assert sum(reading.categories.values()) == pytest.approx(1)


def test_a_random_model_writes_no_verdict_and_none_is_guessed(reasoner: Reasoner):
    at, found = reasoner.explain(POLICY, [TEXT], go_on, 16)
    assert (at, found.status, found.fault) == (0, "malformed", "layout")
    assert found.reason is None
    assert found.written == 0


@pytest.fixture
def obedient(reasoner: Reasoner, monkeypatch: pytest.MonkeyPatch) -> Reasoner:
    """A model that would have written whatever is in its way."""
    monkeypatch.setattr(engine, "_follow", lambda *_: True)
    judge = reasoner.judge

    def judged(*args, **kwargs):
        return replace(judge(*args, **kwargs), fault=None)

    monkeypatch.setattr(reasoner, "judge", judged)
    return reasoner


def speak(reasoner: Reasoner, monkeypatch: pytest.MonkeyPatch, said: str) -> list[int]:
    """Let the model write a text behind its next verdict, and then what it likes."""
    ids = [*reasoner._encode([Piece(said)]), reasoner._controls[protocol.END]]
    read = reasoner.decoder.read
    runs: list[int] = []
    bridge = reasoner._encode([Piece("}"), Piece("\n")])

    def scripted(tokens, wanted=(-1,)):
        logits = read(tokens, wanted).copy()
        if len(tokens) == 1 or list(tokens)[-2:] == bridge:
            logits[-1, ids[min(len(runs), len(ids) - 1)]] = 1e6
            runs.append(tokens[-1])
        return logits

    monkeypatch.setattr(reasoner.decoder, "read", scripted)
    return runs


def test_a_reason_is_decoded_to_the_end_of_the_turn(obedient, monkeypatch):
    runs = speak(obedient, monkeypatch, "It honks.")
    grown: list[str] = []
    _, found = obedient.explain(POLICY, [TEXT], go_on, 40, grown.append)
    assert (found.status, found.reason, found.written) == ("ok", "It honks.", 9)
    assert "".join(grown) == "It honks."
    assert len(runs) == 10  # the newline and nine letters
    assert found.reading.category in {*(name for name, _ in POLICY), None}


def test_a_reason_ends_at_its_limit(obedient, monkeypatch):
    speak(obedient, monkeypatch, "x" * 99)
    _, found = obedient.explain(POLICY, [TEXT], go_on, 12)
    assert (found.status, found.reason, found.written) == ("unfinished", None, 12)


@pytest.mark.parametrize(("said", "fault"), [(" . ", "no_reason"), ("so \\safety{safe}", "layout")])
def test_a_malformed_reason_is_none(obedient, monkeypatch, said, fault):
    speak(obedient, monkeypatch, said)
    _, found = obedient.explain(POLICY, [TEXT], go_on, 40)
    assert (found.status, found.reason, found.fault) == ("malformed", None, fault)


def test_a_slip_in_a_quote_is_not_written(obedient, monkeypatch):
    speak(obedient, monkeypatch, "It says “the pples home” twice.")
    grown: list[str] = []
    _, found = obedient.explain(POLICY, [TEXT], go_on, 80, grown.append)
    assert found.status == "ok"
    assert found.reason == "".join(grown)
    assert found.reason.startswith("It says “the apples”")
    assert Source.of(TEXT).bears(found.reason)


def test_a_quote_that_stands_is_written_as_it_is(obedient, monkeypatch):
    said = "It asks to “take the apples home”, “May I”."
    speak(obedient, monkeypatch, said)
    grown: list[str] = []
    _, found = obedient.explain(POLICY, [TEXT], go_on, 80, grown.append)
    assert (found.status, found.reason, "".join(grown)) == ("ok", said, said)


def test_a_character_of_several_tokens_is_quoted_whole(obedient, monkeypatch):
    text = content.prompt("Der süße Apfel?")
    speak(obedient, monkeypatch, "Er sagt “Der süsse Apfel”.")
    _, found = obedient.explain(POLICY, [text], go_on, 80)
    assert found.status == "ok"
    assert "Der süße" in found.reason
    assert Source.of(text).bears(found.reason)


def test_what_is_misquoted_all_the_same_is_no_reason(obedient, monkeypatch):
    speak(obedient, monkeypatch, "It says “pears”.")
    monkeypatch.setattr(Source, "lets", lambda *_: True)
    _, found = obedient.explain(POLICY, [TEXT], go_on, 40)
    assert (found.status, found.reason, found.fault) == ("malformed", None, "quotation")


def test_time_that_is_over_leaves_the_verdict(obedient, monkeypatch):
    runs = speak(obedient, monkeypatch, "x" * 99)

    def pause() -> None:
        if len(runs) > 5:
            raise LateError

    _, found = obedient.explain(POLICY, [TEXT], pause, 40)
    assert (found.status, found.reason) == ("late", None)
    assert 0 < found.written < 10


def test_the_likeliest_unsafe_content_is_explained(reasoner: Reasoner):
    contents = [content.prompt(t) for t in ("tea", "a honking goose at night", "cake", "apples")]
    unsafe = [reasoner.judge(POLICY, c, go_on).unsafe for c in contents]
    best, found = reasoner.explain(POLICY, contents, go_on, 8)
    assert best == int(np.argmax(unsafe))
    assert found.reading.unsafe == max(unsafe)


def test_a_text_that_does_not_fit_is_refused_not_cut(reasoner: Reasoner):
    prefix, _ = reasoner.count(POLICY, TEXT)
    long = content.prompt("x" * reasoner.bundle.positions)
    with pytest.raises(TooLongError) as caught:
        reasoner.judge(POLICY, long, go_on)
    fitting = content.prompt("x" * (caught.value.limit - (caught.value.tokens - len(long.text))))
    assert reasoner.judge(POLICY, fitting, go_on).tokens == prefix + caught.value.limit


def test_another_order_of_answers_is_not_served(bundle: ReasonerBundle):
    with pytest.raises(BundleError, match="reason-first"):
        Reasoner(replace(bundle, form=Format("reason-first")), 1, 0)


@pytest.fixture
def explainer(bundle: ReasonerBundle):
    made = Explainer(lambda: Reasoner(bundle, 1, 1 << 26), max_waiting=1, seconds=30)
    yield made
    made.close()


async def test_a_caller_that_leaves_ends_the_work(explainer: Explainer):
    began, ended = threading.Event(), threading.Event()

    def work(reasoner, pause):
        began.set()
        try:
            while True:
                pause()
        except GivenUpError:
            ended.set()
            raise

    task = asyncio.create_task(explainer.run(work))
    await asyncio.to_thread(began.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(ended.wait, 10)
    reading, _ = await explainer.run(lambda r, pause: r.judge(POLICY, TEXT, pause))
    assert reading.tokens


async def test_time_and_room_are_bounded(explainer: Explainer):
    def endless(reasoner, pause):
        while True:
            pause()

    with pytest.raises(DeadlineError):
        await explainer.run(endless, seconds=0.01)
    tasks = [asyncio.create_task(explainer.run(endless, seconds=5)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(OverloadedError):
        await explainer.run(endless)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_who_leaves_the_queue_makes_room_in_it(explainer: Explainer):
    begun, free = threading.Event(), threading.Event()

    def long(*_):
        begun.set()
        free.wait(10)
        return 1

    running = asyncio.create_task(explainer.run(long))
    await asyncio.to_thread(begun.wait, 10)
    for leave in ("cancelled", "late"):
        gone = asyncio.create_task(
            explainer.run(lambda *_: 2, seconds=0.01 if leave == "late" else None)
        )
        await asyncio.sleep(0)
        assert explainer.waiting == 2
        if leave == "cancelled":
            gone.cancel()
        with pytest.raises((asyncio.CancelledError, DeadlineError)):
            await gone
        assert explainer.waiting == 1
    last = asyncio.create_task(explainer.run(lambda *_: 3))
    await asyncio.sleep(0)
    free.set()
    assert [(await task)[0] for task in (running, last)] == [1, 3]
    await asyncio.to_thread(until, lambda: not explainer.waiting)


async def test_an_idle_reasoner_holds_nothing_of_its_last_work(explainer: Explainer):
    def work(*_):
        return 1

    gone = weakref.ref(work)
    await explainer.run(work)
    del work
    await asyncio.to_thread(until, lambda: gone() is None)


class Panic(BaseException):
    """As PyO3 raises it where a library written in Rust panics."""


@pytest.mark.parametrize(
    ("raised", "told"), [(ZeroDivisionError(), ZeroDivisionError), (Panic("a text"), RuntimeError)]
)
async def test_what_fails_is_told_and_the_thread_lives_on(explainer: Explainer, raised, told):
    def broken(reasoner, pause):
        raise raised

    with pytest.raises(told) as caught:
        await explainer.run(broken, seconds=5)
    assert "a text" not in str(caught.value)
    assert (await explainer.run(lambda *_: 5, seconds=5))[0] == 5
    await asyncio.to_thread(until, lambda: not explainer.waiting)


async def test_reasoning_waits_while_the_classifier_works(bundle: ReasonerBundle):
    busy = threading.Event()
    busy.set()
    made = Explainer(lambda: Reasoner(bundle, 1, 0), max_waiting=4, seconds=30, busy=busy.is_set)
    began = time.perf_counter()
    await made.run(lambda _, pause: [pause() for _ in range(3)])
    # Put off at every pause, but never put out.
    assert time.perf_counter() - began >= 3 * 0.05
    made.close()


def test_a_reasoner_that_cannot_be_loaded_says_why():
    def broken() -> Reasoner:
        raise BundleError("no graph")

    with pytest.raises(BundleError, match="no graph"):
        Explainer(broken, max_waiting=1, seconds=1)
