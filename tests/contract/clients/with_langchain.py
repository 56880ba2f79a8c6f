"""LangChain: OpenAI's moderation middleware, pointed here."""

from harness import KIND, RUDE, URL, run
from langchain_core.messages import AIMessage, HumanMessage
from langchain_openai.middleware import OpenAIModerationMiddleware
from openai import OpenAI

client = OpenAI(base_url=f"{URL}/v1", api_key="any")


def middleware(exit_behavior: str) -> OpenAIModerationMiddleware:
    return OpenAIModerationMiddleware(
        check_input=True, check_output=True, exit_behavior=exit_behavior, client=client
    )


def check_what_is_kind_passes() -> None:
    assert middleware("end").before_model({"messages": [HumanMessage(KIND)]}, None) is None


def check_what_is_rude_ends_the_run() -> None:
    found = middleware("end").before_model({"messages": [HumanMessage(RUDE)]}, None)
    assert found is not None
    assert found["jump_to"] == "end"


def check_what_is_rude_is_an_error_where_that_is_asked() -> None:
    try:
        middleware("error").before_model({"messages": [HumanMessage(RUDE)]}, None)
    except Exception as error:
        assert "Moderation" in type(error).__name__
    else:
        raise AssertionError("not refused")


def check_an_answer_is_judged_too() -> None:
    said = [HumanMessage(KIND), AIMessage(RUDE)]
    found = middleware("replace").after_model({"messages": said}, None)
    assert found is not None


run(globals())
