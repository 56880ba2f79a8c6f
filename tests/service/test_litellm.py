"""LiteLLM's generic guardrail: what is judged, masked, held back, and read once."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from service.dialects.calls import ENTRY, TURN, Calls
from service.moderation.masking import holdback, mask
from tamis.content import Asked, plain
from tamis.policy import MaskRule
from tests.service.test_gateways import BOTH, CHAT, EARLIER_TURNS, call, client, judged, post
from tests.service.test_streams import counted, streams_of, written
from tests.service.wire import ATTACK, KIND, LITELLM, RUDE, user

__all__ = ["client", "judged"]


def test_litellm_input_judges_the_user_and_the_tools(client, judged):
    messages = [
        {"role": "system", "content": RUDE},
        {"role": "user", "content": [{"type": "text", "text": KIND}, {"type": "image_url"}]},
        {"role": "assistant", "content": RUDE, "tool_calls": [call()]},
        {"role": "tool", "content": ATTACK},
    ]
    body = {
        "input_type": "request",
        "texts": [RUDE, KIND, RUDE],
        "structured_messages": messages,
        "request_data": {"user_api_key_hash": "x"},
        "litellm_version": "1.110.2",
        "images": None,
        "tools": None,
        "model": "echo",
    }
    answer = post(client, LITELLM, body)
    assert answer["action"] == "BLOCKED"
    assert answer["blocked_reason"].startswith("Blocked by the moderation policy: attack ")
    assert [(c.question, c.text, c.context) for c in judged] == [
        ("prompt", KIND, None),
        ("attack", '{"page": "a"}', KIND),
        ("attack", ATTACK, KIND),
    ]


def test_litellm_output_judges_the_answer_alone_in_the_light_of_its_request(client, judged):
    request = {"input_type": "request", "texts": [RUDE], "litellm_call_id": "call"}
    assert post(client, LITELLM, request | {"structured_messages": user(RUDE)})["action"] != "NONE"
    del judged[:]
    answer = {"input_type": "response", "texts": ["I cannot help with that."]}
    post(
        client, LITELLM, answer | {"litellm_call_id": "call", "tool_calls": [call(arguments="[1]")]}
    )
    assert [(c.question, c.text, c.context) for c in judged] == [
        ("response", "I cannot help with that.", RUDE),
        ("attack", "[1]", RUDE),
    ]
    del judged[:]
    assert post(client, LITELLM, answer | {"litellm_call_id": "another"})["action"] == "NONE"
    assert judged[0].context == ""


def test_litellm_remembers_what_was_said_before_a_request(client, judged):
    request = {"input_type": "request", "litellm_call_id": "deep", "structured_messages": CHAT}
    post(client, LITELLM, request)
    answer = {"input_type": "response", "texts": ["Two metres."], "litellm_call_id": "deep"}
    post(client, LITELLM, answer | {"tool_calls": [call(arguments="[1]")]})
    assert [(c.question, c.context) for c in judged] == [
        ("prompt", EARLIER_TURNS),
        ("response", BOTH),
        # A tool's side is judged by what was asked, not by what was said long ago.
        ("attack", "How deep is the tea?"),
    ]


def test_litellm_texts_without_messages_are_prompts_and_those_of_mcp_documents(client, judged):
    body: dict[str, Any] = {"input_type": "request", "texts": [KIND, RUDE]}
    assert post(client, LITELLM, body)["action"] == "BLOCKED"
    assert [c.question for c in judged] == ["prompt", "prompt"]
    body["additional_provider_specific_params"] = {"judge": "document", "mode": "fast"}
    assert post(client, LITELLM, body) == {"action": "NONE"}
    body["texts"] = [ATTACK]
    body["input_type"] = "response"
    assert post(client, LITELLM, body)["action"] == "BLOCKED"


def test_litellm_names_a_policy(client):
    body: dict[str, Any] = {"input_type": "request", "texts": [KIND]}
    strict = {"name": "strict", "overall": {"flag": 1e-6, "block": 1e-6}}
    for policy, action in ((None, "NONE"), (strict, "BLOCKED"), ("default", "NONE")):
        body["additional_provider_specific_params"] = {"policy": policy}
        assert post(client, LITELLM, body)["action"] == action
    # A policy that only scores stops nothing.
    body["additional_provider_specific_params"] = {"policy": strict | {"mode": "score"}}
    assert post(client, LITELLM, body)["action"] == "NONE"
    body["additional_provider_specific_params"] = {"policy": "nope"}
    assert client.post(LITELLM, json=body).json()["error"]["code"] == "unknown_policy"


def test_calls_are_bounded_expire_and_belong_to_a_key():
    calls = Calls(seconds=60, max_characters=10_000)
    for n in range(100):
        calls.keep(("key", f"{n}"), Asked("x" * 800, ("y" * 200,)))
    assert 5 < len(calls) < 11
    assert calls.asked(("key", "99")) == Asked("x" * 800, ("y" * 200,))
    assert calls.asked(("key", "0")) == calls.asked(("other", "99")) == Asked()
    calls.keep(("key", "long"), Asked("a" * 50_000 + "b" * 50_000, ("y",)))
    assert calls.asked(("key", "long")) == Asked("a" * 2_000 + "b" * 2_000, ("y",))
    calls.keep(("key", "long"), Asked("short"))
    assert calls.asked(("key", "long")) == Asked("short")
    small = Calls(max_characters=10_000)
    for n in range(100):
        small.keep((None, f"{n}"), Asked("x", ("y",)))
    assert len(small) == 10_000 // (ENTRY + TURN + len("99xy"))
    gone = Calls(seconds=-1)
    gone.keep((None, "1"), Asked("x"))
    assert gone.asked((None, "1")) == Asked()
    gone.keep((None, "2"), Asked("x"))
    assert len(gone) == 0


# ---- masking

# Far above what an address in a request may score, and below an insult.
SURE = {"flag": 0.82, "block": 0.82}
HIDING = {"name": "hiding", "overall": SURE, "categories": {"toxicity": SURE}}
PII = HIDING | {"mask": {"pii": ["email", "ip"]}}
MAIL = "Write to ana@garden.example.org or to 192.168.0.12, please."
HIDDEN = "Write to [EMAIL] or to [IP], please."


def under(policy: Any, **body: Any) -> dict[str, Any]:
    return body | {"additional_provider_specific_params": {"policy": policy}}


def test_every_text_is_masked_where_the_policy_asks(client):
    messages = [
        {"role": "system", "content": "Answer ana@garden.example.org."},
        {
            "role": "user",
            "content": [{"type": "text", "text": KIND}, {"type": "text", "text": MAIL}],
        },
    ]
    texts = ["Answer ana@garden.example.org.", KIND, MAIL]
    body = {"input_type": "request", "texts": texts, "structured_messages": messages}
    answer = post(client, LITELLM, under(PII, **body))
    assert answer == {
        "action": "GUARDRAIL_INTERVENED",
        "texts": ["Answer [EMAIL].", KIND, HIDDEN],
    }
    assert post(client, LITELLM, under(PII | {"mode": "score"}, **body)) == {"action": "NONE"}
    assert post(client, LITELLM, under(HIDING, **body)) == {"action": "NONE"}
    # What is blocked is blocked.
    rude = {"input_type": "request", "texts": [MAIL, RUDE]}
    assert post(client, LITELLM, under(PII, **rude))["action"] == "BLOCKED"


def test_documents_and_answers_are_masked_too(client):
    for kind, judge in (("response", None), ("response", "document"), ("request", "document")):
        body = under(PII, input_type=kind, texts=["", MAIL], litellm_call_id="mask")
        body["additional_provider_specific_params"]["judge"] = judge
        answer = post(client, LITELLM, body)
        assert (answer["action"], answer["texts"]) == ("GUARDRAIL_INTERVENED", ["", HIDDEN])


def test_evidence_is_hidden_in_the_part_where_it_stands(client):
    never = {"flag": 0.3, "block": 1.0}
    rule = {"overall": never, "categories": {"toxicity": never}}
    policy = rule | {"name": "quoting", "mask": {"evidence": True}}
    parts = [KIND, RUDE, "idiot?"]
    messages = user([{"type": "text", "text": part} for part in parts])
    body = {"input_type": "request", "texts": parts, "structured_messages": messages}
    kind, rude, _ = post(client, LITELLM, under(policy, **body))["texts"]
    assert kind == KIND
    assert "[UNSAFE]" in rude
    assert "idiot" not in rude
    alone = post(client, LITELLM, under(policy, input_type="response", texts=[RUDE]))
    assert "[UNSAFE]" in alone["texts"][0]
    # How the end of the text will read is not known before all is there.
    assert alone["stream_holdback_chars"] == [len(alone["texts"][0])]


# ---- streams


def streamed(client: Any, text: str, policy: Any, step: int = 7) -> str:
    """What LiteLLM lets out (``incremental_diff``): what was held back comes with the next one."""
    out = ""
    for length in (*range(step, len(text), step), len(text)):
        body = under(policy, input_type="response", texts=[text[:length]], litellm_call_id="out")
        answer = post(client, LITELLM, body)
        (shown,) = answer.get("texts", [text[:length]])
        (held,) = answer.get("stream_holdback_chars", [0]) if length < len(text) else [0]
        assert shown.startswith(out)
        out = shown[: max(len(shown) - held, len(out))]
    return out


def test_what_a_stream_has_let_out_is_never_masked_afterwards(client):
    everything = ["email", "ip", "card", "iban", "phone", "national_id"]
    rule = {"pii": everything, "countries": ["us", "gb"]}
    text = f"{MAIL} Or call +44 20 7946 0958, card 4111 1111 1111 1111, and {written(200)}"
    shown = f"{HIDDEN} Or call [PHONE], card [CARD], and {written(200)}"
    assert streamed(client, text, HIDING | {"mask": rule}) == shown
    assert streamed(client, text, HIDING) == text
    assert streamed(client, MAIL, HIDING | {"mask": {"evidence": True}}) == MAIL


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *("a", " ", "4111 1111 1111 1111", "GB82 WEST 1234 5698 7654 32", "ana@garden.org"),
                *(
                    "+44 20 7946 0958",
                    "536-90-4399",
                    "192.168.0.1",
                    ".",
                    "1",
                    "12",
                    " 943 476 5919",
                ),
                *("tea ", "::1", "a1 ", "-", " 943 476 5919"),
            ]
        ),
        max_size=30,
    ).map("".join)
)
def test_no_text_is_masked_otherwise_before_its_holdback(text):
    rule = MaskRule(("email", "ip", "card", "iban", "phone", "national_id"), countries=("us", "gb"))
    out = ""
    for length in range(0, len(text) + 1, 3):
        content = plain(text[:length])
        masked = mask(content, rule)
        held = holdback(content, masked, rule)
        assert 0 <= held <= len(masked.text)
        sure = masked.text[: len(masked.text) - held]
        assert sure.startswith(out) or out.startswith(sure)
        out = max(out, sure, key=len)
    assert mask(plain(text), rule).text.startswith(out)


def test_an_answer_that_comes_again_is_read_once(client, monkeypatch):
    """Each is judged to its end, since any may be the last; full windows are not run again."""
    monkeypatch.setattr(client.app.state.moderator.serving.engine, "cache", None)
    text = written(6_000, seed=9)
    windows = []
    for length in (*range(300, 6_000, 300), 6_000):
        before = counted(client)
        body = {"input_type": "response", "texts": [text[:length]], "litellm_call_id": "zebra"}
        assert post(client, LITELLM, body)["action"] == "NONE"
        windows.append(counted(client) - before)
    assert max(windows) <= 3
    before = counted(client)
    assert post(client, LITELLM, body)["action"] == "NONE"
    assert counted(client) == before
    # Another choice and another call are texts of their own.
    known = len(streams_of(client))
    for texts, call_id in (([text, text], "zebra"), ([text], "other")):
        post(client, LITELLM, body | {"texts": texts, "litellm_call_id": call_id})
    assert len(streams_of(client)) == known + 2
    assert counted(client) > before + 2 * max(windows)
    assert "zebra" not in str(streams_of(client)._known.keys())


def test_an_answer_that_comes_again_is_judged_in_the_light_of_all_before(
    client, judged, monkeypatch
):
    monkeypatch.setattr(client.app.state.moderator.serving.engine, "cache", None)
    text = written(3_000, seed=5)
    body = {"input_type": "response", "litellm_call_id": "pond"}

    def read(length: int) -> int:
        before = counted(client)
        post(client, LITELLM, body | {"texts": [text[:length]]})
        return counted(client) - before

    request = {"input_type": "request", "litellm_call_id": "pond", "structured_messages": CHAT}
    post(client, LITELLM, request)
    del judged[:]
    assert read(1_500) > 0
    assert read(3_000) > 0
    assert read(3_000) == 0
    assert [c.context for c in judged] == [BOTH] * 3
    # In another light it is another text, and is read anew.
    post(client, LITELLM, request | {"structured_messages": CHAT[-1:]})
    assert read(3_000) > 1
    assert judged[-1].context == CHAT[-1]["content"]


def test_a_harmful_end_is_blocked_however_little_is_new(client):
    text = f"{written(200)} "
    rude = f"Sure. {RUDE}"
    for more, action in (("", "NONE"), ("And so on. ", "NONE"), (rude, "BLOCKED"), ("", "NONE")):
        body = {"input_type": "response", "texts": [text + more], "litellm_call_id": "turns"}
        assert post(client, LITELLM, body)["action"] == action


def test_the_word_that_is_being_written_is_held_back(client):
    def held(text: str) -> Any:
        body = {"input_type": "response", "texts": [text], "litellm_call_id": "words"}
        return post(client, LITELLM, body).get("stream_holdback_chars")

    assert held("A lovely gar") == [3]
    assert held("A lovely garden ") is None
    body = {"input_type": "request", "texts": ["A lovely gar"]}
    assert "stream_holdback_chars" not in post(client, LITELLM, body)
