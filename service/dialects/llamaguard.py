"""``POST /v1/chat/completions`` as Llama Guard answers it: "safe", or "unsafe" and hazards.

For what was built around a guard that is served as a chat model. The last message is judged: a
user's as a prompt, an assistant's as a response, in the light of what was said before. A message
may also be a prompt written for such a guard, with the conversation between its marks.
"""

import re
import time
from collections.abc import Sequence
from typing import Final

from fastapi import Request
from pydantic import Field, TypeAdapter
from starlette.responses import JSONResponse, Response

from service.dialects.chat import Message
from service.dialects.crosswalk import standing_in, told
from service.dialects.dialect import Dialect, Loose, body_of
from service.dialects.mistral import last_of
from service.moderation.moderator import moderator_of
from tamis import content
from tamis.content import Content
from tamis.verdict import Verdict

router = Dialect(hook=True)

# The marks of Llama Guard's own prompt.
BEGIN: Final = "<BEGIN CONVERSATION>"
END: Final = "<END CONVERSATION>"
JUDGED: Final = re.compile(r"\b(User|Agent)\b")
USER: Final = re.compile(r"\AUser:\s*")
AGENT: Final = re.compile(r"^Agent:[^\S\n]*", re.MULTILINE)


class CompletionRequest(Loose):
    """The body of ``POST /v1/chat/completions``; how to sample makes no difference."""

    messages: list[Message] = Field(min_length=1)
    model: str | None = None
    stream: bool | None = None


BODY: Final = TypeAdapter(CompletionRequest)
TAGS: Final = frozenset({"str", "list[Part]"})


@router.judges("/v1/chat/completions", BODY, streams=True)
async def completions(request: Request) -> Response:
    """Judge the last message."""
    moderator = moderator_of(request)
    body = await body_of(request, BODY, TAGS)
    policy = moderator.policy(request, moderator.offered(body.model))
    judged = await moderator.judge(request, [("", contents_of(body.messages))], policy)
    verdict = judged.verdicts[0]
    common = {
        "id": f"chatcmpl-{request.state.request_id}",
        "created": int(time.time()),
        "model": body.model or verdict.provenance.model,
    }
    message = {"role": "assistant", "content": said_of(verdict)}
    if body.stream:
        choice = {"index": 0, "delta": message, "finish_reason": "stop"}
        chunk = JSONResponse(common | {"object": "chat.completion.chunk", "choices": [choice]})
        events = b"data: " + bytes(chunk.body) + b"\n\ndata: [DONE]\n\n"
        return Response(events, media_type="text/event-stream")
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {
        "prompt_tokens": verdict.tokens,
        "completion_tokens": 0,
        "total_tokens": verdict.tokens,
    }
    answer = common | {"object": "chat.completion", "choices": [choice], "usage": usage}
    return JSONResponse(answer)


def contents_of(messages: Sequence[Message]) -> tuple[Content, ...]:
    """What is judged of a chat."""
    last = messages[-1]
    turn = last.turn
    _, begun, rest = turn.content.partition(BEGIN)
    said, ended, instructions = rest.rpartition(END)
    if begun and ended and turn.role in ("user", "system"):
        return _within(said.strip(), instructions)
    return last_of(messages)


def _within(conversation: str, instructions: str) -> tuple[Content, ...]:
    """What is judged of a conversation written into a prompt for a guard.

    The instructions behind it name whose messages are judged. A user may write "Agent:" into a
    message to have it taken for context: a user's side is therefore judged with all that is there,
    and an agent's begins at the first such line.
    """
    whom = JUDGED.search(instructions)
    asked = USER.sub("", conversation)
    if whom is None or whom[1] == "User":
        return (content.prompt(asked, "messages"),)
    request, *answers = AGENT.split(asked, maxsplit=1)
    if not answers:
        return (content.response(asked, "", "messages"),)
    return (content.response(answers[0], request.strip(), "messages"),)


def said_of(verdict: Verdict) -> str:
    """The guard's words: hazards as Llama Guard 3 and 4 number them, which may be none."""
    if not verdict.flagged:
        return "safe"
    said = told(verdict, "mlcommons")
    spoken = standing_in(verdict, said)
    hazards = [name for name, one in said.items() if one.flagged or name == spoken]
    return "\n".join(["unsafe", ",".join(hazards)]) if hazards else "unsafe"
