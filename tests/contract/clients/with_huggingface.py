"""The folder of ``tamis export huggingface`` in optimum's pipeline, and served by infinity."""

import os
from pathlib import Path

from harness import ATTACK, CLIENT, DECLINED, KIND, RUDE, URL, ask, free_port, run, serving
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

FOLDER = Path(os.environ["EXPORTED"])
PORT = free_port()
INFINITY = f"http://127.0.0.1:{PORT}"
# What rounding may do to a score between two builds of one runtime.
NEAR = 1e-3

judge = pipeline(
    "text-classification",
    ORTModelForSequenceClassification.from_pretrained(FOLDER),
    tokenizer=AutoTokenizer.from_pretrained(FOLDER),
)


def served(item: object, field: str) -> float:
    """The service's score of a text, before what a policy makes of its severity."""
    status, answer, _ = ask(f"{URL}/moderate", {"input": item})
    assert status == 200, answer
    return float(answer["fields"][field]["score"])


def unsafe(found: list[dict[str, object]]) -> float:
    (score,) = (one["score"] for one in found if one["label"] == "unsafe")
    return float(score)


def check_optimum_says_what_the_service_says() -> None:
    for text in (KIND, RUDE, ATTACK):
        assert abs(unsafe(judge(text, top_k=None)) - served(text, "text")) < NEAR, text


def check_a_pair_is_a_prompt_and_its_response() -> None:
    for answer in (DECLINED, RUDE):
        pair = {"text": RUDE, "text_pair": answer}
        item = {"prompt": RUDE, "response": answer}
        assert abs(unsafe(judge(pair, top_k=None)) - served(item, "response")) < NEAR, answer


def check_infinity_says_the_same() -> None:
    for text in (KIND, RUDE, ATTACK):
        status, answer, _ = ask(f"{INFINITY}/classify", {"model": "tamis", "input": [text]})
        assert status == 200, answer
        assert abs(unsafe(answer["data"][0]) - served(text, "text")) < NEAR, text


command = [f"{CLIENT}/bin/infinity_emb", "v2", "--host", "127.0.0.1", "--port", str(PORT)]
# The optimum engine finds graphs below a relative path only.
command += ["--model-id", ".", "--served-model-name", "tamis", "--engine", "optimum"]
command += ["--device", "cpu", "--no-model-warmup", "--batch-size", "1"]
with serving(command, f"{INFINITY}/health", cwd=FOLDER, INFINITY_ANONYMOUS_USAGE_STATS="0"):
    run(globals())
