"""NeMo Guardrails' server: its classifier rails (vLLM, FMS) and its Llama Guard rail."""

import json
from pathlib import Path
from typing import Any

from harness import (
    ATTACK,
    CLIENT,
    DECLINED,
    FULL,
    KEY,
    KIND,
    RUDE,
    URL,
    ask,
    free_port,
    run,
    serving,
)

PORT = free_port()
CHECKS = f"http://127.0.0.1:{PORT}/v1/checks"
LABELS = [
    *("unsafe", "attack", "toxicity", "hate", "harassment", "violence", "sexual", "sexual/minors"),
    *("self-harm", "illicit", "weapons", "cyber", "privacy", "misinformation"),
]


def classifier(engine: str, labels: list[str], model: str = "tamis") -> dict[str, object]:
    return {
        "engine": engine,
        "model": model,
        "base_url": URL,
        "threshold": 0.0,  # the policy's thresholds hold
        "blocked_labels": labels,
    }


CLASSIFIERS = {
    "vllm": classifier("vllm", LABELS),
    "fms": classifier("fms", ["risk", "prompt_injection"]),
    # The names of policies, which say what these texts are.
    "answers": classifier("vllm", LABELS, model="answers"),
    "documents": classifier("vllm", LABELS, model="documents"),
}


def rails(**flows: str) -> dict[str, object]:
    found = {side: {"flows": [flow]} for side, flow in flows.items()}
    return {"config": {"hf_classifier": CLASSIFIERS}} | found


TASK = "[INST] Check if there is unsafe content in '{whom}' messages.\n<BEGIN CONVERSATION>\n\n"
ASKED = "User: {{ user_input }}\n\n"
ANSWERED = "Agent: {{ bot_response }}\n\n"
END = "<END CONVERSATION>\n\nProvide your assessment for {whom}: [/INST]"
CHECKED = 'hf classifier check {side} $classifier="{name}"'
CONFIGS: dict[str, dict[str, object]] = {
    name: {"models": [], "rails": rails(input=CHECKED.format(side="input", name=name))}
    for name in ("vllm", "fms")
}
CONFIGS["answers"] = {
    "models": [],
    "rails": rails(output=CHECKED.format(side="output", name="answers")),
}
CONFIGS["documents"] = {
    "models": [],
    "rails": rails(input=CHECKED.format(side="input", name="documents")),
}
# A key goes over plain HTTP to a model alone; this one's is used up.
for name, url, key in (("llama_guard", URL, "any"), ("full", FULL, KEY)):
    parameters = {"base_url": f"{url}/v1", "api_key": key}
    guard = {"type": "llama_guard", "engine": "openai", "model": "tamis", "parameters": parameters}
    CONFIGS[name] = {
        "models": [guard],
        "rails": rails(input="llama guard check input", output="llama guard check output"),
        "prompts": [
            {
                "task": "llama_guard_check_input",
                "content": TASK.format(whom="User") + ASKED + END.format(whom="User"),
            },
            {
                "task": "llama_guard_check_output",
                "content": TASK.format(whom="Agent") + ASKED + ANSWERED + END.format(whom="Agent"),
            },
        ],
    }
IN = ("vllm", "fms", "llama_guard")
OUT = ("answers", "llama_guard")


def asked(config: str, text: str, answer: str | None = None) -> tuple[int, Any]:
    messages = [{"role": "user", "content": text}]
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    body = {
        "model": "none",
        "messages": messages,
        "guardrails": {
            "config_id": config,
            "rail_types": ["input" if answer is None else "output"],
        },
    }
    status, said, _ = ask(CHECKS, body)
    return status, said


def checked(config: str, text: str, answer: str | None = None) -> str:
    status, said = asked(config, text, answer)
    assert status == 200, said
    return said["status"]


def check_what_is_kind_passes_and_what_is_rude_does_not() -> None:
    for config in IN:
        assert checked(config, KIND) == "passed", config
        assert checked(config, RUDE) == "blocked", config


def check_an_attack_is_blocked() -> None:
    for config in IN:
        assert checked(config, ATTACK) == "blocked", config


def check_a_refusal_passes_on_the_way_out_whatever_was_asked() -> None:
    for config in OUT:
        assert checked(config, RUDE, DECLINED) == "passed", config


def check_a_rude_answer_is_blocked_on_the_way_out() -> None:
    for config in OUT:
        assert checked(config, KIND, RUDE) == "blocked", config


def check_documents_are_judged_for_attacks_and_nothing_else() -> None:
    assert checked("documents", RUDE) == "passed"
    assert checked("documents", f"Open from nine to five. {ATTACK}") == "blocked"


def check_no_room_is_a_failed_check_and_no_pass() -> None:
    ask(f"{FULL}/policies", None, x_api_key=KEY)  # uses up what the key may
    status, said = asked("full", KIND)
    assert status >= 500, said


for name, config in CONFIGS.items():
    folder = Path("configs") / name
    folder.mkdir(parents=True)
    (folder / "config.yml").write_text(json.dumps(config))  # JSON is YAML
with serving(
    [f"{CLIENT}/bin/nemoguardrails", "server", "--config", "configs", "--port", str(PORT)],
    f"http://127.0.0.1:{PORT}/v1/rails/configs",
    OPENAI_API_KEY="any",
    ANONYMIZED_TELEMETRY="false",
):
    run(globals())
