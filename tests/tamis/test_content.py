import pytest

from tamis.content import (
    EARLIER,
    LIGHT,
    Asked,
    Message,
    NotThereError,
    behind,
    call_field,
    conversation,
    document,
    exchange,
    judged,
    last_asked,
    newest,
    of_sides,
    plain,
    prompt,
    response,
    said,
)


def test_an_exchange_judges_the_prompt_and_the_response_in_its_light():
    asked, answered = exchange("How are you?", "Fine.")
    assert (asked.question, asked.context) == ("prompt", None)
    assert (answered.question, answered.context) == ("response", "How are you?")


def test_a_conversation_is_judged_by_its_latest_exchange_in_the_light_of_the_others():
    turns = [
        Message("system", "Be kind."),
        Message("user", "old question"),
        Message("assistant", "old answer"),
        Message("user", "new question"),
        Message("assistant", "new answer"),
    ]
    asked, answered = conversation(turns)
    assert (asked.text, asked.field) == ("new question", "messages[3].content")
    assert asked.context == "old question\nold answer"
    assert (answered.text, answered.field) == ("new answer", "messages[4].content")
    assert answered.context == "old question\nold answer\nnew question"
    assert last_asked(turns) == Asked("new question", ("old question", "old answer"))


def test_what_nobody_has_answered_is_judged_with_the_last_message():
    turns = [
        Message("user", "old question"),
        Message("assistant", "old answer"),
        Message("user", "first half", (("content[1]", "page"),)),
        Message("assistant", " "),
        Message("system", "rule"),
        Message("user", "  "),
        Message("user", "second half"),
    ]
    first, second, page = conversation(turns)
    assert (first.text, first.field) == ("first half", "messages[2].content")
    assert first.context == "old question\nold answer"
    assert (second.text, second.field) == ("second half", "messages[6].content")
    assert second.context == "old question\nold answer\nfirst half"
    assert (page.question, page.text, page.field) == ("attack", "page", "messages[2].content[1]")
    asked = Message("assistant", "", (("tool_calls[0].function.arguments", '{"q": 1}'),))
    assert [one.text for one in conversation([*turns[:3], asked, *turns[5:]])] == ["second half"]


def test_earlier_turns_are_read_in_their_order_and_only_where_somebody_spoke():
    turns = [
        Message("user", "one"),
        Message("system", "rule"),
        Message("assistant", "two"),
        Message("assistant", ""),
        Message("tool", "page"),
        Message("function", "page"),
        Message("developer", "rule"),
        Message("user", "three", (("content[1]", "page"),)),
        Message("user", " "),
        Message("user", "four"),
    ]
    _, asked, _ = conversation(turns)
    assert (asked.text, asked.context) == ("four", "one\ntwo\nthree")
    _, swapped, _ = conversation([*turns[2:3], *turns[:2], *turns[3:]])
    assert swapped.context == "two\none\nthree"
    assert said(turns[:4]) == ["one", "two", ""]


def test_the_newest_words_of_earlier_turns_survive_the_cut():
    turns = [f"word {n}" for n in range(1_000)]
    found = newest(turns)
    assert "\n".join(found).endswith("word 998\nword 999")
    assert EARLIER / 2 < len("\n".join(found)) <= EARLIER
    # Whole words, of which the first may be a turn's last ones.
    assert newest(["an old apple pie", "x" * 30], 40) == ("pie", "x" * 30)
    assert newest(["z" * 3 * EARLIER]) == ("z" * EARLIER,)
    assert newest(["a", "b"], 0) == newest([]) == newest([" \n", ""]) == ()
    assert newest([f"an apple pie{' ' * 3 * EARLIER}", "\ntea\n"]) == ("an apple pie", "tea")
    assert newest(["an apple pie", "tea"], 6) == ("tea",)
    # What was cut is not cut again.
    for once in (found, newest(["tea " * 300, "and cake"]), newest(["tea" * 300, "cake"])):
        assert behind(once) == behind([behind(once) or ""]) == "\n".join(once)


def test_a_request_keeps_its_room_and_a_long_one_takes_all():
    earlier = ["tea " * 300]
    for length in (0, 20, 150, 300, 399, 400, 5_000):
        request = "q" * length
        found = behind(earlier, request)
        assert found is not None
        assert found.endswith(request)
        before = len(found) - length
        assert before <= min(EARLIER, max(LIGHT - length, 0)) + 1
        assert (before > 1) == (length < 398)
    assert behind(earlier, "q", room=0) == "q"
    assert behind([], "") == ""
    assert behind([]) is behind(["", " "]) is None


def test_megabytes_before_the_last_turn_cost_no_more_than_a_few_words():
    turns = [Message("user", "tea " * 500_000), Message("assistant", "sugar" * 200_000)] * 3
    (asked,) = conversation([*turns, Message("user", "And milk?")])
    assert asked.context is not None
    assert len(asked.context) <= EARLIER
    assert last_asked([*turns, Message("user", "And milk?")]).request == "And milk?"


def test_one_text_has_one_light_whoever_builds_it():
    turns = [Message("user", "one"), Message("assistant", "two"), Message("user", "three")]
    assert conversation(turns) == (prompt("three", "messages[2].content", ["one", "two"]),)
    asked = last_asked(turns)
    answered = response("four", asked.request, "messages[3].content", asked.earlier)
    assert conversation([*turns, Message("assistant", "four")])[-1] == answered
    # A hook knows the answer, and what it kept of the request.
    kept = conversation([turns[-1], Message("assistant", "four")], asked.earlier)[-1]
    assert kept.context == answered.context == "one\ntwo\nthree"


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


def test_a_call_without_arguments_asks_nothing():
    calls = [(call_field(n), text) for n, text in enumerate(("", " {} ", "[]", "null", '{"a": 1}'))]
    found = conversation(
        [Message("user", "What time is it?"), Message("assistant", "", tuple(calls))]
    )
    assert [one.text for one in found[1:]] == ['{"a": 1}']


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
