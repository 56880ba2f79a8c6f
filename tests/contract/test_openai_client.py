"""The official client against a server in a process of its own, over a real socket."""

from collections.abc import Iterator

import openai
import pytest

from benchmarks.server import Server


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
    answer = client.moderations.create(input="You are a stupid goose and nobody likes you.")
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


def test_lists_and_parts(client: openai.OpenAI):
    assert len(client.moderations.create(input=["a", "b", "c"]).results) == 3
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert len(client.moderations.create(input=parts).results) == 1


def test_errors_carry_code_and_param(client: openai.OpenAI):
    with pytest.raises(openai.BadRequestError) as refused:
        client.moderations.create(input=["a"] * 5)
    assert refused.value.code == "too_many_items"
    assert refused.value.param == "input"
