"""What a policy wants hidden is replaced, and nothing else is."""

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from fastapi.testclient import TestClient
from starlette.requests import ClientDisconnect

from service.app import create_app
from service.engine.scheduler import DeadlineError, OverloadedError
from service.moderation import masking
from service.moderation.masking import FINDERS, Span, mask, work
from service.moderation.masks import Masks
from service.settings import Settings
from tamis.content import plain
from tamis.policies.parsing import parse_policy
from tamis.policy import NATIONAL_IDS, MaskRule, Personal, PolicyError
from tamis.verdict import Evidence
from tests.service.test_app import moderate, wait_until_ready

pytest.importorskip("phonenumbers")
pytest.importorskip("stdnum")

ALL: tuple[Personal, ...] = get_args(Personal)
RUDE = "Tell my sister she is a worthless, ugly idiot."


@pytest.fixture(scope="module")
def client(bundle) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(bundle=bundle.path, feedback=""))) as client:
        wait_until_ready(client)
        yield client


def hidden(text: str, *countries: str) -> str:
    return mask(plain(text), MaskRule(ALL, countries=countries)).text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Mail ana.b+tea@garden.example.org.", "Mail [EMAIL]."),
        ("Call +44 20 7946 0958, now", "Call [PHONE], now"),
        ("(+1 201-555-0123)", "([PHONE])"),
        ("card 4111 1111 1111 1111!", "card [CARD]!"),
        ("card 4111-1111-1111-1111", "card [CARD]"),
        ("to GB82 WEST 1234 5698 7654 32 please", "to [IBAN] please"),
        ("to DE89370400440532013000.", "to [IBAN]."),
        ("from 192.168.0.12, or 2001:db8::1.", "from [IP], or [IP]."),
        ("ip:192.168.0.12:8000", "ip:[IP]:8000"),
        ("from ::ffff:192.168.0.12", "from [IP]"),
        # Beside other numbers: its date and check value, a count, an account of another bank.
        ("4111 1111 1111 1111 12/27 123", "[CARD] 12/27 123"),
        ("2 4111 1111 1111 1111", "2 [CARD]"),
        ("4111 1111 1111 1111 5500 0000 0000 0004", "[CARD] [CARD]"),
        ("NO9386011117947 BE71096123456769", "[IBAN] [IBAN]"),
    ],
)
def test_personal_data_is_found_by_its_form(text, shown):
    assert hidden(text) == shown


@pytest.mark.parametrize("blank", ["\u00a0", "\u2009", "\u202f"])
@pytest.mark.parametrize(
    "number",
    [
        "+44 20 7946 0958",
        "(201) 555-0123",
        "4111 1111 1111 1111",
        "GB82 WEST 1234 5698 7654 32",
        "943 476 5919",
    ],
)
def test_numbers_are_found_whatever_blanks_part_them(number: str, blank: str):
    text = f"It is {number}."
    assert "[" in hidden(text, "us", "gb")
    set_apart = text.replace(number, number.replace(" ", blank))
    assert hidden(set_apart, "us", "gb") == hidden(text, "us", "gb")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "At 12:30 on 2026-11-29 we had 1,000,000 cups.",
        "Version 1.2.3.4.5, and a ratio of 3:2.",
        "card 4111 1111 1111 1112",
        "0000 0000 0000 0000",
        "GB82 WEST 1234 5698 7654 33 is not one",
        "call 020 7946 0958",  # of no country: nobody can tell
        "ana@garden, @ana, a@b.c",
        "999.999.999.999",
        "536-90-4399",
    ],
)
def test_what_only_looks_like_it_stays(text):
    assert hidden(text) == text


def test_countries_bring_their_numbers():
    assert hidden("call 020 7946 0958 now", "gb") == "call [PHONE] now"
    assert hidden("ssn 536-90-4399, order 536-90-43999", "us") == (
        "ssn [NATIONAL_ID], order 536-90-43999"
    )
    assert hidden("DNI 54362315K.", "es") == "DNI [NATIONAL_ID]."
    assert hidden("and 943 476 5919 in 12 days", "gb") == "and [NATIONAL_ID] in 12 days"
    ids = MaskRule(("national_id",), countries=("gb",))
    assert mask(plain("of 5 6 7 8 943 476 5919"), ids).text == "of 5 6 7 8 [NATIONAL_ID]"


@pytest.mark.parametrize("country", NATIONAL_IDS)
def test_every_country_has_a_check(country):
    assert masking._checks((country,))
    assert hidden("The garden has 12 birds.", country) == "The garden has 12 birds."


def test_offsets_are_of_the_text_before():
    text = "\U0001f600 a@garden.org and b@garden.org"
    found = mask(plain(text), MaskRule(("email",)))
    assert found.text == "\U0001f600 [EMAIL] and [EMAIL]"
    assert [text[s.start : s.end] for s in found.spans] == ["a@garden.org", "b@garden.org"]


def test_what_overlaps_is_hidden_together():
    content = plain("write to a@garden.org you goose", "text")
    quoted = [
        Evidence(9, 31, "", "toxicity", 0.9, "text"),
        Evidence(0, 5, "", "toxicity", 0.9, "prompt"),
    ]
    found = mask(content, MaskRule(("email",), evidence=True), quoted)
    assert found.text == "write to [TOXICITY]"
    assert found.spans == (Span(9, 31, "[TOXICITY]"),)


@pytest.mark.parametrize("kind", FINDERS)
@pytest.mark.parametrize("piece", ["1", "1 ", "a@", ":", "A1", "x.", "GB82 ", "+1(", "1a "])
def test_no_text_takes_long(kind, piece):
    text = (piece * 20_000)[:20_000]
    began = time.process_time()
    mask(plain(text), MaskRule((kind,), countries=("us", "gb")))
    assert time.process_time() - began < 2


async def test_what_takes_long_is_masked_beside_the_event_loop_one_at_a_time(monkeypatch):
    threads, now, most = set[threading.Thread](), [0], [0]

    def watched(*asked: Any) -> Any:
        threads.add(threading.current_thread())
        now[0] += 1
        most.append(now[0])
        time.sleep(0.02)
        now[0] -= 1
        return mask(*asked)

    monkeypatch.setattr("service.moderation.masks.mask", watched)
    masks, rule = Masks(1.0), MaskRule(ALL, countries=tuple(NATIONAL_IDS))

    async def ask(text: str) -> str:
        forever = asyncio.Event().wait
        ((found,),) = await masks.mask(forever, [[plain(text)]], rule, [[]])
        return found.text

    assert await ask("ana@garden.org") == "[EMAIL]"
    assert threads == {threading.main_thread()}
    threads.clear()
    # 3,999 characters of numbers held up everybody for 370 ms.
    texts = ["202 555 0123 x " * 20] * 3
    assert len(set(await asyncio.gather(*map(ask, texts)))) == 1
    assert threading.main_thread() not in threads
    assert max(most) == 1


async def test_who_leaves_does_not_wait_for_a_turn(monkeypatch):
    asked, release = [], threading.Event()

    def held(content: Any, *more: Any) -> Any:
        asked.append(content.text)
        release.wait(5)
        return mask(content, *more)

    async def leave() -> Any:
        return {"type": "http.disconnect"}

    monkeypatch.setattr("service.moderation.masks.mask", held)
    masks, rule = Masks(1.0), MaskRule(("phone",), countries=("us",))

    def ask(text: str, receive: Any) -> Any:
        return asyncio.create_task(masks.mask(receive, [[plain(text * 300)]], rule, [[]]))

    first, second = ask("1 ", asyncio.Event().wait), ask("2 ", leave)
    with pytest.raises(ClientDisconnect):
        await second
    release.set()
    await first
    assert asked == ["1 " * 300]


async def test_a_text_waits_for_no_longer_ones_and_for_no_more_than_it_has(monkeypatch):
    asked, release = [], threading.Event()

    def held(content: Any, *more: Any) -> Any:
        asked.append(content.text)
        if content.text.startswith("1"):
            release.wait(5)
        return mask(content, *more)

    monkeypatch.setattr("service.moderation.masks.mask", held)
    monkeypatch.setattr("service.moderation.masks.WAITING", 2)
    masks, rule = Masks(0.05), MaskRule(("phone",), countries=("us",))

    def ask(text: str, seconds: float | None = None) -> Any:
        until = None if seconds is None else time.perf_counter() + seconds
        item = [plain(text), plain("2 ")]
        forever = asyncio.Event().wait
        return asyncio.create_task(masks.mask(forever, [item], rule, [[]], until))

    long, second = "1 " * 6_000, "2 " * 6_000
    first = ask(long, 0.1)
    await asyncio.sleep(0)
    ((short, _),) = await ask("3 " * 300)
    assert short.text == "3 " * 300
    late, waiting, refused = ask(second, 0.01), ask(second), ask(second)
    with pytest.raises(OverloadedError):
        await refused
    with pytest.raises(DeadlineError):
        await late
    with pytest.raises(OverloadedError):
        await waiting
    # What passes while a text is masked is seen before the next one.
    await asyncio.sleep(0.1)
    release.set()
    with pytest.raises(DeadlineError):
        await first
    assert asked == [long, "3 " * 300, "2 "]
    assert await ask(second)


def test_masking_has_what_is_left_of_the_deadline(client, monkeypatch):
    given = []

    async def late(*asked: Any) -> Any:
        given.append(asked[-1])
        raise DeadlineError

    monkeypatch.setattr("service.moderation.masks.Masks.mask", late)
    body = {"input": "tea", "policy": policy(pii=["email"])}
    began = time.perf_counter()
    answer = client.post("/moderate", json=body, headers={"x-request-timeout-ms": "60000"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert began + 60 < given[0] < time.perf_counter() + 60
    client.post("/moderate", json=body)
    assert given[1] is None


def test_what_would_take_seconds_is_refused_before_it_is_judged(client):
    numbers, every = "1a 2b 3c " * 3_000, {"pii": ["national_id"], "countries": [*NATIONAL_IDS]}

    def ask(response: str, **rule: Any) -> Any:
        item = {"prompt": "tea", "response": response}
        return client.post("/moderate", json={"input": item, "policy": policy(**rule)})

    answer = ask(numbers, **every)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert (error["code"], error["param"]) == ("text_too_long", "response")
    assert "over the limit of 250000" in error["message"]
    # Prose of that length holds little to look at, and few countries are looked for sooner.
    assert work(numbers, MaskRule(("national_id",), countries=("us", "gb"))) < 250_000
    assert work("The tea was warm in 1999. " * 1_000, MaskRule(ALL, countries=("us",))) < 50_000


def policy(**rule: Any) -> dict[str, Any]:
    return {"name": "hiding", "overall": {}, "categories": {"toxicity": {}}, "mask": rule}


def test_texts_come_back_masked_where_the_policy_asks(client):
    item = {"prompt": "I am ana@garden.org.", "response": RUDE}
    answer = moderate(client, input=item, policy=policy(pii=["email"]))
    assert answer["masked"] == {
        "prompt": {
            "text": "I am [EMAIL].",
            "spans": [{"start": 5, "end": 19, "mark": "[EMAIL]"}],
        },
        "response": {"text": RUDE, "spans": []},
    }
    assert "masked" not in moderate(client, input=item)
    plain_version = moderate(client, input=item, policy=policy(pii=["email"]) | {"mask": None})
    assert {k: v for k, v in answer.items() if k not in ("masked", "policy", "id", "timings")} == {
        k: v for k, v in plain_version.items() if k not in ("policy", "id", "timings")
    }
    batch = client.post(
        "/moderate", json={"input": ["a@garden.org", "tea"], "policy": policy(pii=["email"])}
    ).json()["results"]
    assert [one["masked"]["text"]["text"] for one in batch] == ["[EMAIL]", "tea"]


def test_evidence_is_hidden_where_the_policy_asks(client):
    answer = moderate(client, input={"text": RUDE}, policy=policy(evidence=True))
    masked = answer["masked"]["text"]
    assert answer["evidence"] == []
    assert masked["spans"]
    assert "idiot" not in masked["text"]
    assert "[TOXICITY]" in masked["text"] or "[UNSAFE]" in masked["text"]
    calm = moderate(client, input={"text": "What a lovely garden."}, policy=policy(evidence=True))
    assert calm["masked"]["text"] == {"text": "What a lovely garden.", "spans": []}
    told = moderate(client, input={"text": RUDE}, policy=policy(evidence=True), explain="evidence")
    assert told["evidence"]
    assert told["masked"]["text"] == masked


def test_a_package_that_is_missing_is_named(client, monkeypatch):
    monkeypatch.setattr("service.moderation.moderator.missing", lambda _: "phonenumbers")
    answer = client.post("/moderate", json={"input": "tea", "policy": policy(pii=["phone"])})
    assert answer.status_code == 400
    assert "'phone'" in answer.json()["error"]["message"]
    assert "tamis[pii]" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({}, "needs 'pii' or 'evidence'"),
        ({"pii": ["name"]}, "'pii' must be a list of email, phone"),
        ({"pii": "email"}, "'pii' must be a list"),
        ({"pii": ["national_id"]}, "'national_id' needs 'countries'"),
        ({"pii": ["email"], "countries": ["xx"]}, "'countries' must be a list of"),
        ({"evidence": "yes"}, "'evidence' must be true or false"),
        ({"pii": ["email"], "x": 1}, "unknown field 'x'"),
    ],
)
def test_rules_that_cannot_be_meant_are_refused(rule, message):
    with pytest.raises(PolicyError, match=message):
        parse_policy(policy(**rule))


def test_masking_counts_in_the_version_and_nothing_else_changes():
    bare = {"name": "hiding", "overall": {}, "categories": {"toxicity": {}}}
    one = parse_policy(policy(pii=["email", "ip"]))
    assert one.version == parse_policy(policy(pii=["ip", "email"])).version
    assert one.version != parse_policy(bare).version
    assert parse_policy(bare | {"mask": None}).version == parse_policy(bare).version
