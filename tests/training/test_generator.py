import json
from pathlib import Path

import httpx
import pytest

from tests.training.tiny import write_causal
from training.synthesis import prompts
from training.synthesis.generator import (
    EndpointGenerator,
    GeneratorError,
    LocalGenerator,
    Sampling,
    generator,
)
from training.synthesis.prompts import Prompt

PROMPTS = [
    prompts.rewrite("How do I bake bread?", "plain"),
    prompts.answer("How do I bake bread in a very small kitchen without an oven?"),
    prompts.background("I work in a bakery"),
]


@pytest.fixture(scope="session")
def tiny_writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal language model with random weights and a word-level tokenizer."""
    folder = tmp_path_factory.mktemp("writer")
    return write_causal(folder, (f"word{n}" for n in range(60)))


def test_a_local_model_writes_one_text_to_each_prompt_and_the_seed_decides(tiny_writer: Path):
    writer = LocalGenerator(str(tiny_writer), Sampling(max_new_tokens=12))
    once, again, other = (writer.write(PROMPTS, seed) for seed in (1, 1, 2))
    assert once == again
    assert once != other
    assert len(once) == len(PROMPTS)
    for written in once:
        assert 0 <= written.tokens <= 12
        assert written.finished == (written.tokens < 12)
        assert "<|im" not in written.text


def test_a_turn_ends_at_the_end_of_turn(tiny_writer: Path):
    writer = LocalGenerator(str(tiny_writer), Sampling(max_new_tokens=4))
    assert writer._written([5, 6, 2, 7]).text == "word2 word3"
    assert writer._written([5, 6, 2, 7]).finished
    cut = writer._written([5, 6, 7, 8])
    assert (cut.finished, cut.tokens) == (False, 4)


def test_prompts_are_rendered_as_chatml_with_their_opening(tiny_writer: Path):
    writer = LocalGenerator(str(tiny_writer))
    rendered = writer.render(Prompt((("system", "Be kind."), ("user", "Hi")), "Well,"))
    assert rendered == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nWell,"
    )


def test_padding_does_not_change_what_a_model_sees(tiny_writer: Path):
    writer = LocalGenerator(str(tiny_writer), Sampling(max_new_tokens=6, top_k=1))
    together = writer.write(PROMPTS, 0)
    alone = [writer.write([prompt], 0)[0] for prompt in PROMPTS]
    assert together == alone


def endpoint(handler, monkeypatch: pytest.MonkeyPatch, **more) -> EndpointGenerator:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    return EndpointGenerator(
        "http://model.test/v1", "tiny", transport=httpx.MockTransport(handler), pause_s=0, **more
    )


def answered(text: str, reason: str = "stop") -> httpx.Response:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return httpx.Response(200, json={"choices": [choice], "usage": {"completion_tokens": 3}})


def test_an_endpoint_is_asked_in_openais_contract(monkeypatch: pytest.MonkeyPatch):
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        seen.append((request.url.path, request.headers["authorization"], body))
        last = body["messages"][-1]["content"]
        return answered(f" re: {last} ", "length" if "oven" in last else "stop")

    writer = endpoint(handler, monkeypatch)
    written = writer.write(PROMPTS, seed=5)
    writer.close()
    assert [w.text for w in written] == [f"re: {p.turns[-1][1]}" for p in PROMPTS]
    assert [w.finished for w in written] == [True, False, True]
    assert {(path, key) for path, key, _ in seen} == {("/v1/chat/completions", "Bearer secret")}
    assert sorted(body["seed"] for *_, body in seen) == [5, 6, 7]


def test_an_endpoint_is_asked_again_after_a_passing_failure(monkeypatch: pytest.MonkeyPatch):
    answers = iter([httpx.Response(503), httpx.Response(429), answered("done")])
    writer = endpoint(lambda _: next(answers), monkeypatch)
    assert writer.write(PROMPTS[:1], 0)[0].text == "done"
    writer.close()


@pytest.mark.parametrize(
    ("response", "asked", "message"),
    [
        (httpx.Response(401), 1, "status 401"),
        (httpx.Response(500), 3, "status 500"),
        (httpx.Response(200, text="hello"), 1, "not JSON"),
        (httpx.Response(200, json={"choices": []}), 1, "no chat completion"),
    ],
)
def test_what_an_endpoint_does_wrong_is_said(response, asked: int, message: str, monkeypatch):
    calls = []

    def handler(request: httpx.Request) -> httpx.Response:
        calls.append(request)
        return response

    writer = endpoint(handler, monkeypatch, tries=3)
    with pytest.raises(GeneratorError, match=message):
        writer.write(PROMPTS[:1], 0)
    writer.close()
    assert len(calls) == asked


def test_a_lost_connection_is_tried_again_and_then_named(monkeypatch: pytest.MonkeyPatch):
    def handler(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("gone", request=request)

    writer = endpoint(handler, monkeypatch, tries=2)
    with pytest.raises(GeneratorError, match="ConnectError"):
        writer.write(PROMPTS[:1], 0)
    writer.close()


def test_a_url_needs_a_model():
    with pytest.raises(GeneratorError, match="--model"):
        generator("http://model.test/v1")


@pytest.mark.parametrize(
    ("written", "finished", "text"),
    [
        ('"How do I swim?"', True, "How do I swim?"),
        ("Message: How do I swim?\n\nNote: changed.", True, "How do I swim?"),
        ("I live by a lake. I would like to sw", False, "I live by a lake."),
        ("I would like to sw", False, ""),
        ("2. Teach me to swim.", True, "Teach me to swim."),
    ],
)
def test_one_message_is_made_of_what_a_model_wrote(written: str, finished: bool, text: str):
    assert prompts.tidy(written, finished) == text


def test_the_entries_of_a_list_are_read_up_to_where_it_was_cut():
    written = "How do I swim?\n5. Teach me to swim.\n6. I want to sw"
    assert prompts.listed(written, 4) == ["How do I swim?", "Teach me to swim.", "I want to sw"]
    assert prompts.listed(written, 4, finished=False) == ["How do I swim?", "Teach me to swim."]
