"""LiteLLM's proxy: the generic guardrail with masking and streams, and guardrails of its own.

``openai_moderation``, ``azure/text_moderations``, and ``decision_model`` against ``/v1/decisions``.
"""

import json
import urllib.request
from pathlib import Path

from harness import (
    ATTACK,
    CLIENT,
    DECLINED,
    FULL,
    FULL_429,
    KEY,
    KIND,
    RUDE,
    URL,
    ask,
    free_port,
    model,
    run,
    serving,
    until,
)

PORT = free_port()
PROXY = f"http://127.0.0.1:{PORT}"
MASTER = "sk-1234"
ECHO = model(lambda body: body["messages"][-1]["content"])


def guardrail(name: str, url: str, mode: str, **more: object) -> dict[str, object]:
    parameters = {"guardrail": "generic_guardrail_api", "mode": mode, "api_base": url}
    return {"guardrail_name": name, "litellm_params": parameters | {"api_key": KEY} | more}


def mocked(name: str, answer: str) -> dict[str, object]:
    parameters = {"model": "openai/echo", "api_key": "x", "mock_response": answer}
    return {"model_name": name, "litellm_params": parameters}


# Pieces of answers are judged, and a policy may well want more certainty of those.
CERTAIN = {"name": "certain", "overall": {"flag": 0.6, "block": 0.6}}
HIDING = {"name": "hiding", "overall": {}, "categories": {"hate": {}}, "mask": {"pii": ["email"]}}
MAIL = "Please write to ana@garden.example.org about the garden."
HIDDEN = "Please write to [EMAIL] about the garden."


def decision(name: str, threshold: float) -> dict[str, object]:
    check = {"name": "plants", "instructions": "Does the text speak of plants?"}
    parameters = {"guardrail": "decision_model", "mode": "pre_call", "decision_model": "policy"}
    checks = [check | {"threshold": threshold, "action": "block"}]
    return {"guardrail_name": name, "litellm_params": parameters | {"checks": checks}}


CONFIG = {
    "model_list": [
        mocked("kind", KIND),
        mocked("declines", DECLINED),
        mocked("rude", f"Sure. {RUDE}"),
        mocked("long", "The library is next to the town hall, and it opens at nine. " * 7),
        mocked("mail", f"{MAIL} {MAIL}"),
        mocked("longer", "The library is next to the town hall, and it opens at nine. " * 70),
        {
            "model_name": "echo",
            "litellm_params": {"model": "openai/echo", "api_key": "x", "api_base": ECHO},
        },
        {
            "model_name": "policy",
            "litellm_params": {
                "model": "openai/tamis",
                "api_base": f"{URL}/v1",
                "api_key": "any",
            },
            "model_info": {"mode": "decisions"},
        },
    ],
    "guardrails": [
        guardrail("in", URL, "pre_call"),
        guardrail("out", URL, "post_call"),
        guardrail(
            "stream", URL, "post_call", additional_provider_specific_params={"policy": CERTAIN}
        ),
        guardrail(
            "mask-in", URL, "pre_call", additional_provider_specific_params={"policy": HIDING}
        ),
        guardrail(
            "mask-out",
            URL,
            "post_call",
            additional_provider_specific_params={"policy": HIDING},
            streaming_transform_mode="incremental_diff",
        ),
        decision("never", 1.0),
        decision("always", 0.0),
        guardrail("full", FULL, "pre_call", unreachable_fallback="fail_open"),
        guardrail("full-closed", FULL, "pre_call", unreachable_fallback="fail_closed"),
        guardrail("full-429", FULL_429, "pre_call", unreachable_fallback="fail_open"),
        guardrail("gone", "http://127.0.0.1:9", "pre_call", unreachable_fallback="fail_open"),
        {
            "guardrail_name": "moderations",
            "litellm_params": {
                "guardrail": "openai_moderation",
                "mode": "pre_call",
                "api_base": f"{URL}/v1",
                "api_key": "any",
            },
        },
        {
            "guardrail_name": "azure",
            "litellm_params": {
                "guardrail": "azure/text_moderations",
                "mode": "pre_call",
                "api_base": URL,
                "api_key": "any",
            },
        },
    ],
    "general_settings": {
        "master_key": MASTER,
        "dangerously_permit_weak_or_unset_master_key": True,
    },
}


def chat(guardrails: list[str], text: str, answers: str = "kind", **more: object):
    messages = more.pop("messages", [{"role": "user", "content": text}])
    body = {"model": answers, "messages": messages, "guardrails": guardrails} | more
    return ask(f"{PROXY}/v1/chat/completions", body, authorization=f"Bearer {MASTER}")


def check_what_is_kind_passes() -> None:
    status, answer, headers = chat(["in", "out"], KIND)
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == KIND
    assert "in" in headers["x-litellm-applied-guardrails"]


def check_what_is_rude_is_blocked_with_the_reason() -> None:
    status, answer, _ = chat(["in"], RUDE)
    assert status == 400, answer
    assert answer["error"]["message"].startswith("Blocked by the moderation policy: toxicity")


def check_a_refusal_passes_on_the_way_out_whatever_was_asked() -> None:
    for guardrails in (["out"], ["in", "out"]):
        asked = RUDE if guardrails == ["out"] else KIND
        status, answer, _ = chat(guardrails, asked, "declines")
        assert status == 200, answer
        assert answer["choices"][0]["message"]["content"] == DECLINED


def check_a_rude_answer_is_blocked_on_the_way_out() -> None:
    status, answer, _ = chat(["out"], KIND, "rude")
    assert status == 400, answer
    assert "Blocked by the moderation policy" in answer["error"]["message"]


def check_an_injection_in_a_tools_message_is_blocked() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": KIND},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": ATTACK},
    ]
    status, answer, _ = chat(["in"], "", messages=messages)
    assert status == 400, answer
    assert "attack" in answer["error"]["message"]


def check_no_room_lets_through_where_told_to_and_not_where_not() -> None:
    ask(f"{FULL}/policies", None, x_api_key=KEY)  # uses up what the key may
    chat(["full"], KIND)
    status, answer, _ = chat(["full"], RUDE)
    assert status == 200, answer
    status, _, _ = chat(["full-closed"], KIND)
    assert status >= 400
    chat(["full-429"], KIND)
    status, _, _ = chat(["full-429"], KIND)
    assert status >= 400, "429 counts as a verdict: that is why hooks answer 503"
    status, answer, _ = chat(["gone"], RUDE)
    assert status == 200, answer


def check_openai_moderation() -> None:
    assert chat(["moderations"], KIND)[0] == 200
    status, answer, _ = chat(["moderations"], RUDE)
    assert status == 400, answer
    assert "harassment" in json.dumps(answer)


def check_azure_text_moderations() -> None:
    assert chat(["azure"], KIND)[0] == 200
    status, answer, _ = chat(["azure"], RUDE)
    assert status == 400, answer
    assert "crossed severity 2" in json.dumps(answer)


def check_personal_data_is_masked_on_the_way_in_and_out() -> None:
    # Answers what it was sent.
    status, answer, _ = chat(["mask-in"], MAIL, "echo")
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == HIDDEN
    status, answer, _ = chat(["mask-out"], KIND, "mail")
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == f"{HIDDEN} {HIDDEN}"
    assert chat(["mask-in"], RUDE)[0] == 400


def check_decisions() -> None:
    asked = {"input": KIND, "questions": [{"type": "predicate", "instructions": "Is it polite?"}]}
    until(lambda: ask(f"{URL}/v1/decisions", asked)[0] == 200, 60)
    # A probability came back, and LiteLLM compared it: whatever it is, it lies between the two.
    status, answer, _ = chat(["never"], KIND)
    assert status == 200, answer
    status, answer, _ = chat(["always"], KIND)
    assert status == 400, answer
    assert "plants" in json.dumps(answer)


def stream(answers: str, guardrail: str = "stream") -> str:
    body = {"model": answers, "stream": True, "guardrails": [guardrail]}
    body |= {"messages": [{"role": "user", "content": KIND}]}
    headers = {"content-type": "application/json", "authorization": f"Bearer {MASTER}"}
    url = f"{PROXY}/v1/chat/completions"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read().decode()


def check_streams() -> None:
    whole = stream("long")
    assert "[DONE]" in whole, whole[-600:]
    assert "error" not in whole
    assert "Blocked by the moderation policy" in stream("rude")


def check_streams_are_masked_before_they_are_let_out() -> None:
    pieces = [
        json.loads(line.removeprefix("data: "))["choices"][0]["delta"].get("content") or ""
        for line in stream("mail", "mask-out").splitlines()
        if line.startswith("data: {")
    ]
    assert "".join(pieces) == f"{HIDDEN} {HIDDEN}"
    assert len([piece for piece in pieces if piece]) > 1, "it did not come in pieces"


def check_a_stream_costs_what_is_new() -> None:
    def windows(kind: str) -> float:
        said = f'tamis_stream_windows_total{{kind="{kind}"}} '
        lines = ask(f"{URL}/metrics")[1].splitlines()
        return next(float(line.removeprefix(said)) for line in lines if line.startswith(said))

    run, known = windows("run"), windows("known")
    assert "[DONE]" in stream("longer")
    run, known = windows("run") - run, windows("known") - known
    print(f"      {run + known:.0f} windows in its guardrail's calls, {run:.0f} of them run")
    assert known > run


config = Path("litellm.yaml").absolute()
config.write_text(json.dumps(CONFIG))  # JSON is YAML
command = [f"{CLIENT}/bin/litellm", "--config", str(config)]
with serving(
    [*command, "--port", str(PORT), "--host", "127.0.0.1"],
    f"{PROXY}/health/liveliness",
    LITELLM_LOCAL_MODEL_COST_MAP="True",
    LITELLM_TELEMETRY="False",
    NO_PROXY="127.0.0.1",
):
    run(globals())
