"""Chats of every shape: whatever of them a model may be given is judged, and as whose it is."""

import json
from typing import Any

import pytest

from service.dialects import envoy
from service.dialects.chat import ChatRequest, ChatResponse
from service.errors import RequestError
from tamis.content import Asked
from tests.service.test_gateways import asked, client, judged, post
from tests.service.wire import ATTACK, ENVOY, KIND, LITELLM, RUDE, user

__all__ = ["client", "judged"]


@pytest.mark.parametrize(
    "body",
    [
        {"messages": user(KIND), "prompt": RUDE},
        {"messages": user(KIND), "input": RUDE},
        {"messages": user(KIND), "input": user(RUDE)},
        {"prompt": RUDE, "input": KIND},
        {"prompt": [KIND, RUDE, KIND], "input": []},
        {"messages": [], "input": [{"role": "user", "type": "function_call", "content": RUDE}]},
        {"messages": [*user(RUDE), *user(" \n")]},
        {"messages": [*user(RUDE), *user([{"type": "image_url", "image_url": {"url": "x"}}])]},
        {"messages": [{"role": "User", "content": RUDE}]},
        {"messages": [{"role": "narrator", "content": RUDE}]},
        {"messages": [{"content": RUDE}]},
        {"messages": user([{"type": "refusal", "refusal": RUDE}])},
        {"prompt": {"id": "pmpt_1", "variables": {"name": "Ada", "wish": RUDE}}},
        {"prompt": {"id": "pmpt_1", "variables": {"wish": {"type": "input_text", "text": RUDE}}}},
        {"messages": user([{"type": "thinking", "thinking": RUDE}])},
        {"messages": [{"role": "user", "type": None, "content": [{"type": None, "text": RUDE}]}]},
    ],
)
def test_nothing_that_a_model_may_be_given_is_passed_over(client, body: dict[str, Any]):
    """What a server reads of a request is its own: a kind text beside another is no way past."""
    refused = client.post(ENVOY, json=body)
    assert refused.status_code == 403, refused.text
    passed = client.post(ENVOY, content=refused.request.content.replace(RUDE.encode(), b"Hello."))
    assert passed.status_code == 200, passed.text


def test_all_words_of_a_part_are_read():
    parts = [
        {"type": "refusal", "text": "a", "refusal": "b"},
        {"type": "thinking", "thinking": "c"},
    ]
    assert asked({"messages": user(parts)}) == [("prompt", "a\nb\nc", "messages[0].content")]
    answer = {"choices": [{"message": {"role": "assistant", "content": parts}}]}
    assert [c.text for c in ChatResponse.model_validate(answer).answered(Asked())] == ["a\nb"]


def test_what_stands_in_place_of_a_content_is_read():
    spoken = {"role": "assistant", "content": None, "audio": {"id": "x", "transcript": "a"}}
    declined = {"role": "assistant", "content": None, "refusal": "b"}
    answer = {"choices": [{"message": spoken}, {"message": declined}]}
    assert [c.text for c in ChatResponse.model_validate(answer).answered(Asked())] == ["a", "b"]


def test_the_blanks_of_a_stored_prompt_are_each_judged():
    filled = {"name": "a", "photo": {"type": "input_image", "file_id": "f"}, "wish": "b"}
    assert asked({"prompt": {"id": "pmpt_1", "variables": filled}, "input": "c"}) == [
        ("prompt", "a", "prompt.variables.name"),
        ("prompt", "b", "prompt.variables.wish"),
        ("prompt", "c", "input"),
    ]
    assert asked({"prompt": {"id": "pmpt_1"}, "input": "c"}) == [("prompt", "c", "input")]


def test_a_misspelt_role_is_a_users(client):
    for role in ("User", "human", ""):
        item = {"messages": [{"role": role, "content": RUDE}]}
        assert post(client, "/moderate", {"input": item})["action"] == "block"
    said = {"messages": [{"role": "system", "content": RUDE}, {"role": "user", "content": KIND}]}
    assert post(client, "/moderate", {"input": said})["action"] == "allow"


def test_a_blank_message_leaves_the_last_request_judged(client, judged):
    turns = [*user("How deep is the pond?"), *user("\u200b \n".strip("\u200b"))]
    post(client, "/moderate", {"input": {"messages": turns}})
    assert [(c.text, c.field) for c in judged] == [("How deep is the pond?", "messages[0].content")]
    del judged[:]
    post(client, "/moderate", {"input": {"messages": user("")}})
    assert [c.text for c in judged] == [""]


def chats(*turns: Any) -> list[tuple[str, Any, str]]:
    """Every place that takes messages: its path, a body, and what it calls the last of them."""
    of = f"[{len(turns) - 1}]"
    before = {"eventType": "beforeRequestHook", "request": {"json": {"messages": turns}}}
    litellm = {"input_type": "request", "structured_messages": turns}
    stream = {"kind": "text", "text": KIND, "messages": turns}
    return [
        ("/moderate", {"input": {"messages": turns}}, f"input.messages{of}"),
        ("/moderate/stream/x", stream, f"messages{of}"),
        ("/v1/chat/moderations", {"input": turns}, f"input{of}"),
        ("/v1/chat/completions", {"messages": turns}, f"messages{of}"),
        ("/api/v1/text/chat", {"messages": turns}, f"messages{of}"),
        (LITELLM, litellm, f"structured_messages{of}"),
        ("/portkey", before, f"request.json.messages{of}"),
        ("/request", {"body": {"messages": turns}}, f"body.messages{of}"),
        (ENVOY, {"messages": turns}, f"messages{of}"),
        (ENVOY, {"input": turns}, f"input{of}"),
    ]


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ({"role": "user", "text": RUDE}, ""),
        ({"role": "user", "parts": [{"type": "text", "text": RUDE}]}, ""),
        ({"role": "user", "content": None, "text": RUDE}, ""),
        ({"role": "tool", "output": ATTACK}, ""),
        ({"role": "user", "content": [{"type": "text", "value": RUDE}]}, ".content[0]"),
        ({"role": "user", "content": [{"type": "input_text", "text": None}]}, ".content[0]"),
    ],
)
def test_words_that_stand_nowhere_we_read_are_refused(client, message, where: str):
    for path, body, last in chats(*user(KIND), message):
        answer = client.post(path, json=body)
        assert answer.status_code == 400, (path, answer.text)
        said = answer.json().get("error", answer.json())["message"]
        # Our own contract has no parts at all.
        named = (
            f"{last}.content: " if where and path.startswith("/moderate") else f"{last}{where}: "
        )
        assert said.startswith(named), (path, said)


def test_a_message_of_nobody_that_says_nothing_is_refused(client):
    for path, body, last in chats(*user(KIND), {}):
        answer = client.post(path, json=body)
        assert answer.status_code == 400, (path, answer.text)
        assert last in answer.text
    listed = {"input": [{"messages": user(RUDE)}]}
    assert client.post("/v1/chat/moderations", json=listed).status_code == 400


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"arguments": "{}"}}]},
        {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]},
        {"role": "assistant", "content": None, "reasoning_content": "Hm."},
        {"role": "assistant"},
        {"role": "system"},
        {"role": "function", "name": "stop", "content": None},
        {"role": "tool", "content": ""},
        {"role": "user", "content": ""},
    ],
)
def test_what_clients_leave_empty_is_not(client, message: dict[str, Any]):
    for path, body, _ in chats(message, *user(KIND)):
        # A post is no turn of a conversation.
        body |= {"kind": "prompt"} if path == "/moderate/stream/x" else {}
        answer = client.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)


@pytest.mark.parametrize("part", [{"type": "image_url"}, {"image_url": "x"}, {"text": KIND}])
def test_parts_that_are_no_text_need_none(part: dict[str, Any]):
    assert len(asked({"messages": user([part])})) == 1


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ('{"messages": [{"role": "user", "Content": "ATTACK"}]}', "messages[0]"),
        ('{"messages": [{"role": "user", "content": "a", "CONTENT": "ATTACK"}]}', None),
        ('{"messages": [{"role": "system", "Role": "user", "content": "ATTACK"}]}', None),
        ('{"messages": [{"content": "a"}], "Messages": [{"content": "ATTACK"}]}', "messages"),
        ('{"messages": [{"content": "a"}], "me\\u017f\u017fages": []}', "messages"),
        ('{"messages": [{"content": "ATTACK"}], "messages": [{"content": "a"}]}', "messages"),
        ('{"prompt": "a", "Prompt": "ATTACK"}', "prompt"),
        ('{"messages": [{"content": [{"text": "a", "Text": "ATTACK"}]}]}', None),
        ('{"input": [{"content": [{"type": "text", "text": "ATTACK", "text": "a"}]}]}', None),
        ('{"messages": [{"content": "a", "tool_calls": [{"Function": {}}]}]}', None),
    ],
)
def test_names_that_other_parsers_read_otherwise_are_refused(client, body: str, param: str | None):
    answer = client.post(ENVOY, content=body.replace("ATTACK", ATTACK).encode())
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param or param is None


def test_names_of_tools_are_their_own(client):
    asked = {"Content": 1, "content": 2, "Text": "What a pond."}
    call = {"type": "tool_use", "name": "x", "input": asked}
    calls = [{"function": {"name": "x", "arguments": asked}}]
    turns = [{"role": "assistant", "content": [call], "tool_calls": calls}, *user(KIND)]
    schema = {"properties": {"Content": {}, "content": {}}}
    body = {"Model": "x", "messages": turns, "tools": [{"function": {"parameters": schema}}]}
    assert client.post(ENVOY, json=body).status_code == 200


def test_of_what_envoy_cuts_the_names_are_read_too(bundle):
    body = json.dumps({"messages": [{"role": "user", "content": KIND}], "Messages": user(ATTACK)})
    with pytest.raises(RequestError, match="messages: "):
        envoy._read(body.encode()[:-3], cut=True)


# ---- what tools were asked and said, in their own forms


def documents(body: dict[str, Any]) -> list[tuple[str, str]]:
    return [(text, field) for question, text, field in asked(body) if question == "attack"]


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ({"type": "custom_tool_call", "input": "a"}, [("a", "input[0].arguments")]),
        (
            {"type": "mcp_call", "arguments": "{1}", "output": ATTACK},
            [("{1}", "input[0].arguments"), (ATTACK, "input[0].output")],
        ),
        ({"type": "shell_call_output", "output": [{"stdout": "a", "stderr": "b"}]}, ["a\nb"]),
        (
            {
                "type": "computer_call_output",
                "output": {"type": "computer_screenshot", "image_url": "data:image/png;base64,AA"},
            },
            [],
        ),
        (
            {
                "type": "function_call_output",
                "output": [{"type": "input_text", "text": ATTACK}, {"type": "input_image"}],
            },
            [ATTACK],
        ),
        (
            {"type": "shell_call", "action": {"commands": ["ls"]}},
            [('{"commands": ["ls"]}', "input[0].arguments")],
        ),
        (
            {"type": "apply_patch_call", "operation": {"type": "update_file", "diff": "+a"}},
            [('{"type": "update_file", "diff": "+a"}', "input[0].arguments")],
        ),
        (
            {
                "type": "code_interpreter_call",
                "code": "print(1)",
                "outputs": [{"type": "logs", "logs": ATTACK}, {"type": "image", "url": "x"}],
            },
            [("print(1)", "input[0].arguments"), (ATTACK, "input[0].output")],
        ),
        (
            {"type": "file_search_call", "queries": ["a"], "results": [{"text": ATTACK}]},
            [('["a"]', "input[0].arguments"), (ATTACK, "input[0].output")],
        ),
        ({"type": "program_output", "result": ATTACK}, [ATTACK]),
        ({"type": "image_generation_call", "result": "AAAA"}, []),
        ({"type": "reasoning", "summary": [], "content": [{"type": "x", "text": "a"}]}, []),
        ({"type": "item_reference", "id": "1"}, []),
    ],
)
def test_items_of_the_responses_api(item: dict[str, Any], found: list[Any]):
    whole = [one if isinstance(one, tuple) else (one, "input[0].content") for one in found]
    assert documents({"input": [item]}) == whole
    # Whatever else was said of tools, the user's request is judged.
    assert asked({"input": [item, *user(KIND)]})[0][:2] == ("prompt", KIND)


def test_what_calm_tools_are_asked_and_say_passes(client):
    click = {"type": "click", "button": "left", "x": 156, "y": 50}
    items = [
        {"type": "shell_call", "action": {"commands": ["ls -l docs"], "timeout_ms": 1_000}},
        {"type": "shell_call_output", "output": [{"stdout": "api.md\nstreams.md", "stderr": ""}]},
        {"type": "local_shell_call", "action": {"type": "exec", "command": ["git", "status"]}},
        {"type": "apply_patch_call", "operation": {"type": "create_file", "diff": "+Hello."}},
        {"type": "computer_call", "action": click},
        {"type": "computer_call", "action": {"type": "type", "text": "opening hours"}},
        {"type": "web_search_call", "action": {"type": "search", "query": "garden opening hours"}},
        {"type": "file_search_call", "queries": ["opening hours"], "results": [{"text": KIND}]},
        {"type": "code_interpreter_call", "code": "print(sum(range(10)))", "outputs": None},
    ]
    for item in items:
        answer = client.post(ENVOY, json={"input": [*user("How deep is the pond?"), item]})
        assert answer.status_code == 200, (item, answer.text)


@pytest.mark.parametrize(
    ("part", "found"),
    [
        (
            {"type": "document", "source": {"type": "text", "media_type": "x", "data": ATTACK}},
            [(ATTACK, "messages[0].content[1].source")],
        ),
        (
            {
                "type": "document",
                "source": {"type": "content", "content": [{"type": "text", "text": ATTACK}]},
            },
            [(ATTACK, "messages[0].content[1].source")],
        ),
        ({"type": "document", "source": {"type": "base64", "data": "AAAA"}}, []),
        (
            {"type": "search_result", "source": "x", "content": [{"type": "text", "text": ATTACK}]},
            [(ATTACK, "messages[0].content[1].content")],
        ),
        (
            {
                "type": "document",
                "title": "a",
                "context": ATTACK,
                "source": {"type": "url", "url": "https://garden.example"},
            },
            [("a", "messages[0].content[1].title"), (ATTACK, "messages[0].content[1].context")],
        ),
        (
            {
                "type": "tool_result",
                "content": [
                    {
                        "type": "document",
                        "title": "a",
                        "source": {"type": "text", "media_type": "text/plain", "data": ATTACK},
                    }
                ],
            },
            [(f"a\n{ATTACK}", "messages[0].content[1].content")],
        ),
        (
            {"type": "mcp_tool_result", "content": [{"type": "text", "text": ATTACK}]},
            [(ATTACK, "messages[0].content[1].content")],
        ),
        (
            {"type": "code_execution_tool_result", "content": {"stdout": ATTACK, "content": []}},
            [(ATTACK, "messages[0].content[1].content")],
        ),
        (
            {"type": "web_search_tool_result", "content": {"type": "error", "error_code": "x"}},
            [],
        ),
    ],
)
def test_parts_of_anthropics_messages(part: dict[str, Any], found: list[tuple[str, str]]):
    content = [{"type": "text", "text": KIND}, part]
    assert documents({"messages": user(content)}) == found
    assert asked({"messages": user(content)})[0] == ("prompt", KIND, "messages[0].content")


def test_custom_tools_and_functions_of_old_are_documents_in_answers():
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"type": "custom", "custom": {"name": "a", "input": "one"}},
            {"type": "function", "function": {"name": "b", "arguments": "two"}},
        ],
        "function_call": {"name": "c", "arguments": "three"},
    }
    found = ChatResponse.model_validate({"choices": [{"message": message}]}).answered(Asked("x"))
    assert [(c.question, c.text) for c in found] == [
        ("attack", "one"),
        ("attack", "two"),
        ("attack", "three"),
    ]


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (
            {"tool_calls": [{"type": "custom", "custom": {"name": "x", "input": ATTACK}}]},
            ("attack", ATTACK, "messages[1].tool_calls[0].function.arguments"),
        ),
        (
            {"tool_calls": [{"function": {"name": "x", "arguments": {"of": "tea"}}}]},
            ("attack", '{"of": "tea"}', "messages[1].tool_calls[0].function.arguments"),
        ),
        (
            {"function_call": {"name": "x", "arguments": ATTACK}},
            ("attack", ATTACK, "messages[1].function_call.arguments"),
        ),
        ({"refusal": KIND}, ("response", KIND, "messages[1].content")),
        ({"tool_calls": [{"function": None}]}, None),
    ],
    ids=["custom", "arguments as they are", "of old", "refusal", "null"],
)
def test_our_own_contract_reads_messages_as_the_others_do(
    client, judged, message: dict[str, Any], found: tuple[str, str, str] | None
):
    turns = [*user("How deep is the pond?"), {"role": "assistant", "content": None} | message]
    post(client, "/moderate", {"input": {"messages": turns}})
    assert [(c.question, c.text, c.field) for c in judged[1:]] == ([found] if found else [])


def test_no_item_of_the_responses_api_has_a_role(client):
    hidden = {"role": "", "type": "reasoning", "content": RUDE}
    assert client.post(ENVOY, json={"messages": [hidden]}).status_code == 403


def test_an_answer_is_the_models_whoever_it_names():
    output = [{"type": "message", "role": "user", "content": KIND}, {"content": RUDE}]
    found = ChatResponse.model_validate({"output": output}).answered(Asked("x"))
    assert [(c.question, c.text) for c in found] == [("response", KIND), ("response", RUDE)]


def test_portkeys_text_may_be_what_its_gateway_finds(client, judged):
    """Its gateway takes a completion's list of prompts, and a message's parts, for the text."""
    body: dict[str, Any] = {"eventType": "beforeRequestHook"}
    listed = {"json": {"prompt": [KIND, RUDE]}, "text": [KIND, RUDE]}
    assert post(client, "/portkey", body | {"request": listed})["verdict"] is False
    del judged[:]
    parts = {"json": {}, "text": [{"type": "text", "text": KIND}, {"type": "image_url"}]}
    assert post(client, "/portkey", body | {"request": parts})["verdict"] is True
    assert [(c.question, c.text) for c in judged] == [("prompt", KIND)]


def test_texts_and_messages_are_not_mixed_in_one_list(client):
    mixed = {"input": [KIND, {"role": "user", "content": RUDE}]}
    answer = client.post(ENVOY, json=mixed)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("input")
    assert ChatRequest.model_validate({"input": []}).asked == ()
