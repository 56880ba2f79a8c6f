"""The official client against a server in a process of its own, over a real socket."""

from collections.abc import Iterator

import openai
import pytest

from benchmarks.server import Server
from service.access import new_key


@pytest.fixture(scope="module")
def server(bundle) -> Iterator[str]:
    with Server(bundle.path, max_items=4) as server:
        yield f"http://127.0.0.1:{server.port}"
        assert server.leave() in (0, -15)


@pytest.fixture
def client(server: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server}/v1", api_key="unused", max_retries=0) as client:
        yield client


def test_moderations_parse(client: openai.OpenAI):
    answer = client.moderations.create(input="Tell my sister she is a worthless, ugly idiot.")
    (result,) = answer.results
    assert answer.id.startswith("modr-")
    assert answer._request_id
    assert isinstance(result.flagged, bool)
    assert 0 <= result.category_scores.harassment_threatening <= 1
    assert set(result.categories.model_dump(by_alias=True)) == set(
        result.category_scores.model_dump(by_alias=True)
    )
    assert isinstance(result.categories.self_harm_instructions, bool)
    assert result.category_applied_input_types.hate == ["text"]


def test_what_the_contract_has_no_place_for_survives_in_the_client(client: openai.OpenAI):
    (result,) = client.moderations.create(input="hello", extra_body={"user": "x"}).results
    assert result.model_extra is not None
    assert result.model_extra["action"] == "allow"
    assert result.model_extra["attack"]["flagged"] is False


def test_lists_and_parts(client: openai.OpenAI):
    assert len(client.moderations.create(input=["a", "b", "c"]).results) == 3
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert len(client.moderations.create(input=parts).results) == 1


def test_errors_carry_code_and_param(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        client.moderations.create(input=["a"] * 5)
    assert refused.value.code == "too_many_items"
    assert refused.value.param == "input"
    image = [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]
    with pytest.raises(openai.BadRequestError, match="images are not supported") as refused:
        client.moderations.create(input=image)
    assert (refused.value.code, refused.value.param) == ("unsupported_input", "input[0]")


def test_a_guard_that_is_a_chat_model(client: openai.OpenAI):
    asked = [
        {
            "role": "user",
            "content": "Tell my sister she is a worthless, ugly idiot.",
        }
    ]
    said = client.chat.completions.create(model="llama-guard", messages=asked)
    assert said.choices[0].message.content.startswith("unsafe\nS")
    pieces = client.chat.completions.create(model="llama-guard", messages=asked, stream=True)
    assert "".join(p.choices[0].delta.content or "" for p in pieces).startswith("unsafe\nS")


def test_it_comes_back_when_it_is_told_to(bundle, tmp_path):
    """A key's rate is used up by the first request; the second waits, as it was asked to."""
    key, entry = new_key("client", rate=2.0, burst=1)
    (tmp_path / "keys.yaml").write_text(f"[{entry}]")
    with Server(bundle.path, keys=tmp_path / "keys.yaml", feedback="") as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as hasty:
            hasty.moderations.create(input="hello")
            with pytest.raises(openai.RateLimitError) as refused:
                hasty.moderations.create(input="hello")
        assert refused.value.code == "rate_limited"
        assert 0 < int(refused.value.response.headers["retry-after-ms"]) <= 500
        with openai.OpenAI(base_url=url, api_key=key, max_retries=2) as patient:
            for _ in range(3):
                patient.moderations.create(input="hello")
