"""Portkey's gateway: a webhook before and after a model."""

import json
from typing import Any

from harness import (
    CLIENT,
    DECLINED,
    FULL,
    KEY,
    KIND,
    RUDE,
    URL,
    ask,
    free_port,
    model,
    run,
    serving,
)

PORT = free_port()
GATEWAY = f"http://127.0.0.1:{PORT}"
MODEL = model(lambda body: body["model"])
BLOCKED = 446
ECHO = model(lambda body: body["messages"][-1]["content"])
MAIL, HIDDEN = "Write to jane.roe@example.org today.", "Write to [EMAIL] today."


def hook(url: str, **more: object) -> list[dict[str, Any]]:
    webhook = {"webhookURL": f"{url}/portkey", "headers": {"x-api-key": KEY}}
    return [{"default.webhook": webhook | more, "deny": True}]


def hiding() -> list[dict[str, Any]]:
    return hook(URL, headers={"x-api-key": KEY, "x-tamis-policy": "hiding"})


def chat(
    text: str, answers: str = KIND, host: str = MODEL, **guardrails: object
) -> tuple[int, Any]:
    config = {
        "provider": "openai",
        "api_key": "x",
        "custom_host": host,
        **guardrails,
    }
    body = {"model": answers, "messages": [{"role": "user", "content": text}]}
    url = f"{GATEWAY}/v1/chat/completions"
    status, answer, _ = ask(url, body, x_portkey_config=json.dumps(config))
    return status, answer


def check_what_is_kind_passes() -> None:
    status, answer = chat(KIND, input_guardrails=hook(URL), output_guardrails=hook(URL))
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == KIND


def check_what_is_rude_is_blocked() -> None:
    status, answer = chat(RUDE, input_guardrails=hook(URL))
    assert status == BLOCKED, answer
    (check,) = answer["hook_results"]["before_request_hooks"][0]["checks"]
    assert check["data"]["responseData"]["action"] == "block", check
    status, answer = chat(KIND, RUDE, output_guardrails=hook(URL))
    assert status == BLOCKED, answer


def check_a_refusal_passes() -> None:
    status, answer = chat(RUDE, DECLINED, output_guardrails=hook(URL))
    assert status == 200, answer


def check_personal_data_is_masked_on_the_way_in_and_out() -> None:
    # Answers what it was sent.
    status, answer = chat(MAIL, host=ECHO, input_guardrails=hiding())
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == HIDDEN
    status, answer = chat(KIND, MAIL, output_guardrails=hiding())
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"] == HIDDEN


def check_every_prompt_of_a_completion_is_judged() -> None:
    # The gateway sends a list for the text of such a request.
    config = {"provider": "openai", "api_key": "x", "custom_host": MODEL}
    config |= {"input_guardrails": hook(URL, failOnError=True)}
    for prompts, wanted in (([KIND, RUDE], BLOCKED), ([KIND, KIND], 200)):
        body = {"model": KIND, "prompt": prompts}
        url = f"{GATEWAY}/v1/completions"
        status, answer, _ = ask(url, body, x_portkey_config=json.dumps(config))
        assert status == wanted, answer


def check_no_room_lets_through_unless_told_otherwise() -> None:
    ask(f"{FULL}/policies", None, x_api_key=KEY)
    status, answer = chat(RUDE, input_guardrails=hook(FULL))
    assert status == 200, answer
    status, answer = chat(RUDE, input_guardrails=hook(FULL, failOnError=True))
    assert status == BLOCKED, answer


program = f"{CLIENT}/node_modules/@portkey-ai/gateway/build/start-server.js"
with serving(["node", program, f"--port={PORT}", "--headless"], GATEWAY):
    run(globals())
