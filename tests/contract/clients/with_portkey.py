"""Portkey's gateway: a webhook before and after a model."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from harness import CLIENT, DECLINED, FULL, KEY, KIND, RUDE, URL, ask, free_port, run, serving

PORT, MODEL_PORT = free_port(), free_port()
GATEWAY = f"http://127.0.0.1:{PORT}"
BLOCKED = 446


class Model(BaseHTTPRequestHandler):
    """Answers what its request's ``model`` says."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        message = {"role": "assistant", "content": body["model"]}
        answer = {
            "id": "1",
            "object": "chat.completion",
            "model": "echo",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def hook(url: str, **more: object) -> list[dict[str, Any]]:
    webhook = {"webhookURL": f"{url}/portkey", "headers": {"x-api-key": KEY}}
    return [{"default.webhook": webhook | more, "deny": True}]


def chat(text: str, answers: str = KIND, **guardrails: object) -> tuple[int, Any]:
    config = {
        "provider": "openai",
        "api_key": "x",
        "custom_host": f"http://127.0.0.1:{MODEL_PORT}/v1",
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


def check_no_room_lets_through_unless_told_otherwise() -> None:
    ask(f"{FULL}/policies", None, x_api_key=KEY)
    status, answer = chat(RUDE, input_guardrails=hook(FULL))
    assert status == 200, answer
    status, answer = chat(RUDE, input_guardrails=hook(FULL, failOnError=True))
    assert status == BLOCKED, answer


model = ThreadingHTTPServer(("127.0.0.1", MODEL_PORT), Model)
threading.Thread(target=model.serve_forever, daemon=True).start()
program = f"{CLIENT}/node_modules/@portkey-ai/gateway/build/start-server.js"
with serving(["node", program, f"--port={PORT}", "--headless"], GATEWAY):
    run(globals())
