import pytest

from tamis.content import (
    Message,
    NotThereError,
    call_field,
    conversation,
    document,
    exchange,
    judged,
    of_sides,
    plain,
    prompt,
)


def test_an_exchange_judges_the_prompt_and_the_response_in_its_light():
    asked, answered = exchange("How are you?", "Fine.")
    assert (asked.question, asked.context) == ("prompt", None)
    assert (answered.question, answered.context) == ("response", "How are you?")


def test_a_conversation_is_judged_by_its_latest_exchange():
    turns = [
        Message("system", "Be kind."),
        Message("user", "old question"),
        Message("assistant", "old answer"),
        Message("user", "new question"),
        Message("assistant", "new answer"),
    ]
    asked, answered = conversation(turns)
    assert (asked.text, asked.field) == ("new question", "messages[3].content")
    assert (answered.text, answered.context) == ("new answer", "new question")
    assert answered.field == "messages[4].content"


def test_an_opening_by_the_assistant_is_judged_on_its_own():
    (greeting,) = conversation([Message("assistant", "Hello!")])
    assert (greeting.question, greeting.context) == ("response", "")


def test_system_messages_are_not_judged():
    assert conversation([Message("system", "x"), Message("developer", "y")]) == ()


def test_what_tools_were_asked_and_said_is_judged_as_documents_and_nothing_else():
    turns = [
        Message("user", "old question"),
        Message("tool", "old page"),
        Message("user", "Summarise the page.", (("content[1]", "a page"),)),
        Message("assistant", "", ((call_field(0), '{"url": "a"}'), (call_field(1), ""))),
        Message("tool", "Dear reader, welcome."),
        Message("assistant", "It says welcome."),
    ]
    asked, page, call, said, answer = conversation(turns)
    assert (asked.question, asked.text) == ("prompt", "Summarise the page.")
    for found in (page, call, said):
        assert (found.question, found.context) == ("attack", "Summarise the page.")
    assert page.field == "messages[2].content[1]"
    assert call.field == "messages[3].tool_calls[0].function.arguments"
    assert (said.field, said.text) == ("messages[4].content", "Dear reader, welcome.")
    assert answer.question == "response"
    assert of_sides(conversation(turns), ["document"]) == (page, call, said)
    assert judged(conversation(turns), ["document", "response"]) == (page, call, said, answer)


def test_a_document_without_a_request_is_read_on_its_own():
    assert conversation([Message("tool", "A page.")])[0].context is None
    assert document("A page.", "").context is None
    assert document("A page.", "Summarise it.").context == "Summarise it."


def test_one_side_is_judged_and_the_other_is_its_context():
    contents = exchange("How are you?", "Fine.")
    assert judged(contents, None) == contents
    assert judged(contents, ["response", "prompt"]) == contents
    (answer,) = judged(contents, ["response"])
    assert (answer.text, answer.context) == ("Fine.", "How are you?")
    (asked,) = judged(contents, ["prompt"])
    assert asked.text == "How are you?"


@pytest.mark.parametrize(
    ("contents", "side"),
    [
        ((prompt("hello"),), "response"),
        ((plain("hello"),), "prompt"),
        ((prompt("hello"),), "document"),
        ((document("hello"),), "prompt"),
        (conversation([Message("assistant", "Hello!")]), "prompt"),
        ((), "response"),
    ],
)
def test_a_side_that_is_not_there_is_never_passed_over(contents, side):
    with pytest.raises(NotThereError, match=f"has no {side} to judge"):
        judged(contents, [side])
    with pytest.raises(NotThereError):
        judged(contents, ["prompt", "response"])
