"""NeMo Guardrails' server: its classifier rails (vLLM, FMS) and its Llama Guard rail."""

import json
from pathlib import Path

from harness import ATTACK, CLIENT, KIND, RUDE, URL, ask, free_port, run, serving

PORT = free_port()
CHECKS = f"http://127.0.0.1:{PORT}/v1/checks"
LABELS = [
    *("unsafe", "attack", "toxicity", "hate", "harassment", "violence", "sexual", "sexual/minors"),
    *("self-harm", "illicit", "weapons", "cyber", "privacy", "misinformation"),
]


def classifier(engine: str, labels: list[str], threshold: float) -> dict[str, object]:
    return {
        "engine": engine,
        "model": "tamis",
        "base_url": URL,
        "threshold": threshold,
        "blocked_labels": labels,
    }


def rails(flow: str) -> dict[str, object]:
    found = {
        "vllm": classifier("vllm", LABELS, 0.0),
        # 0: the policy's thresholds hold.
        "fms": classifier("fms", ["risk", "prompt_injection"], 0.0),
    }
    return {"config": {"hf_classifier": found}, "input": {"flows": [flow]}}


PROMPT = (
    "[INST] Check if there is unsafe content in 'User' messages.\n<BEGIN CONVERSATION>\n\n"
    "User: {{ user_input }}\n\n<END CONVERSATION>\n\nProvide your assessment for User: [/INST]"
)
GUARD = {
    "type": "llama_guard",
    "engine": "openai",
    "model": "tamis",
    "parameters": {"base_url": f"{URL}/v1", "api_key": "any"},
}
CONFIGS: dict[str, dict[str, object]] = {
    "vllm": {"models": [], "rails": rails('hf classifier check input $classifier="vllm"')},
    "fms": {"models": [], "rails": rails('hf classifier check input $classifier="fms"')},
    "llama_guard": {
        "models": [GUARD],
        "rails": {"input": {"flows": ["llama guard check input"]}},
        "prompts": [{"task": "llama_guard_check_input", "content": PROMPT}],
    },
}


def checked(config: str, text: str) -> str:
    body = {
        "model": "none",
        "messages": [{"role": "user", "content": text}],
        "guardrails": {"config_id": config, "rail_types": ["input"]},
    }
    status, answer, _ = ask(CHECKS, body)
    assert status == 200, answer
    return answer["status"]


def check_what_is_kind_passes_and_what_is_rude_does_not() -> None:
    for config in CONFIGS:
        assert checked(config, KIND) == "passed", config
        assert checked(config, RUDE) == "blocked", config


def check_an_attack_is_blocked() -> None:
    for config in CONFIGS:
        assert checked(config, ATTACK) == "blocked", config


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
