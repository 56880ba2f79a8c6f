from tamis.content import Message, conversation, exchange


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


def test_system_and_tool_messages_are_not_judged():
    assert conversation([Message("system", "x"), Message("tool", "y")]) == ()
