"""``POST /moderate/stream``: a text judged while it is written, in one request or in many."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, Final, Literal

from fastapi import Request
from pydantic import Field, TypeAdapter, ValidationError
from starlette.responses import JSONResponse, Response

from service.dialects.answers import EVENT, FOLLOWED
from service.dialects.dialect import Dialect, body_of, documented
from service.dialects.halves import validated
from service.dialects.native import TAGS, Message, Strict, verdict_json
from service.dialects.streaming import EventStream, Tell, ending
from service.dialects.written import check_written
from service.errors import RequestError, from_validation
from service.moderation.moderator import moderator_of
from service.moderation.streams import Followed, Stream
from tamis import content
from tamis.content import Content
from tamis.policy import Policy

router = Dialect()

Kind = Literal["response", "prompt", "text"]
NAME: Final = TypeAdapter(
    Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w.:-]+$")]
)
# What may go wrong with one verdict of several: the next one makes up for it.
PASSING: Final = frozenset({"overloaded", "deadline_exceeded", "deadline_too_short"})
MOST_LINE: Final = 1 << 20


class About(Strict):
    """What a stream's text is, and how it is judged."""

    kind: Kind = Field("response", description="What the text is to be judged as.")
    prompt: str | None = Field(None, description="Of a response: what it answers, as context.")
    messages: list[Message] | None = Field(
        None,
        description="The conversation whose next turn the text is, as context; in place of prompt.",
    )
    policy: str | dict[str, Any] | None = None


class SoFar(About):
    """The body of ``POST /moderate/stream/{name}``: the whole text up to now."""

    text: str
    final: bool = Field(False, description="Nothing follows: the verdict is the whole text's.")


class First(About):
    """The first line of ``POST /moderate/stream``."""

    text: str = ""


class Piece(Strict):
    """Every further line: what has been added."""

    text: str


BODY: Final = TypeAdapter(SoFar)
FIRST: Final = TypeAdapter(First)
PIECE: Final = TypeAdapter(Piece)
LINES: Final = "/moderate/stream"
NAMED: Final = "/moderate/stream/{name}"

# The other route is as slow as what is written there: no objective can be of its time.
router.judging.add(NAMED)
router.lasting.add(LINES)


@router.post(
    NAMED,
    openapi_extra={
        "parameters": [
            {
                "name": "name",
                "in": "path",
                "required": True,
                "schema": NAME.json_schema(),
                "description": "The caller's own name for the stream, e.g. the id of a call.",
            }
        ]
    }
    | documented(BODY, FOLLOWED),
)
async def follow(request: Request) -> JSONResponse:
    """Judge a text that is sent again, longer, while it is written."""
    moderator = moderator_of(request)
    try:
        name = NAME.validate_python(request.path_params["name"])
    except ValidationError:
        raise RequestError(
            "name: must be 1 to 128 letters, digits and _.:-", param="name"
        ) from None
    body = await body_of(request, BODY, TAGS)
    check_written(await request.body(), body.policy)
    policy = moderator.policy(request, body.policy)
    what = _content(body, body.text)
    followed = await moderator.streams.follow(request, name, what, policy, body.final)
    return JSONResponse(_json(request, followed, body.final))


@router.post(
    LINES,
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A first line, and any number of pieces.",
            "content": {
                # One schema, whose definitions the document takes up.
                "application/x-ndjson": {"schema": TypeAdapter(First | Piece).json_schema()}
            },
        },
        "responses": {"200": {"content": {"text/event-stream": {"schema": EVENT}}}},
    },
)
async def stream(request: Request) -> Response:
    """Judge a text whose pieces come line by line; the verdicts are server-sent events."""
    moderator = moderator_of(request)
    moderator.loaded()
    moderator.check_room(request.headers)
    lines = _lines(request, moderator.settings.stream_seconds)
    line = await anext(lines, b"{}")
    first: First = _parsed(FIRST, line)
    check_written(line, first.policy)
    policy = moderator.policy(request, first.policy)
    what = _content(first, first.text)

    async def judged(tell: Tell) -> tuple[str, JSONResponse]:
        with moderator.streams.opened(what.question, what.context) as stream:
            last = await _judged(request, lines, stream, what, policy, tell)
        return "verdict", JSONResponse(_json(request, last, final=True))

    async def write(tell: Tell) -> None:
        await tell(*await ending(request, judged(tell)))

    return EventStream(write)


async def _judged(
    request: Request,
    lines: AsyncIterator[bytes],
    stream: Stream,
    what: Content,
    policy: Policy,
    tell: Tell,
) -> Followed:
    """Tell verdicts as the text grows, and return the last one."""
    streams = moderator_of(request).streams
    text = what.text

    def so_far() -> Content:
        return Content(what.question, text, what.context, what.field)

    async def go_on() -> None:
        # Not as what is left out of verdicts: the text would grow on.
        streams.hold(stream, so_far())
        try:
            followed = await streams.advance(request, stream, so_far(), policy, final=False)
        except RequestError as error:
            if error.code not in PASSING:
                raise
            return
        if followed.work.windows:
            await tell("verdict", JSONResponse(_json(request, followed, final=False)))

    await go_on()
    async for line in lines:
        piece: Piece = _parsed(PIECE, line)
        text += piece.text
        await go_on()
    return await streams.advance(request, stream, so_far(), policy, final=True)


async def _lines(request: Request, patience: float) -> AsyncIterator[bytes]:
    """The lines of a body while it comes, the blank ones left out.

    Raises:
        RequestError: 408 where nothing came for so many seconds, 400 where a line does not end.
        ClientDisconnect: where the client has left.
    """
    chunks = request.stream()
    rest = b""
    while True:
        try:
            async with asyncio.timeout(patience):
                chunk = await anext(chunks, b"")
        except TimeoutError:
            raise RequestError(
                f"nothing came for {patience:g} s", code="stream_idle", status=408
            ) from None
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > MOST_LINE:
            raise RequestError(f"a line is over the limit of {MOST_LINE} bytes", param="body")
        if not chunk:
            whole, rest = [rest], b""
        for line in whole:
            if line.strip():
                yield line
        if not chunk:
            return


def _parsed(kind: TypeAdapter[Any], line: bytes) -> Any:
    try:
        return validated(kind, line)
    except ValidationError as error:
        raise from_validation(error, TAGS) from None


def _content(about: About, text: str) -> Content:
    if about.prompt is not None and (about.kind != "response" or about.messages is not None):
        raise RequestError(
            "prompt: only a response is judged in its light, and in that of one or of messages",
            param="prompt",
        )
    turns = [message.turn for message in about.messages or ()]
    match about.kind:
        case "response":
            asked = content.last_asked(turns) if turns else content.Asked(about.prompt or "")
            return content.response(text, asked.request, earlier=asked.earlier)
        case "prompt":
            return content.prompt(text, earlier=content.said(turns))
    if about.messages is not None:
        raise RequestError("messages: a post is no turn of a conversation", param="messages")
    return content.plain(text)


def _json(request: Request, followed: Followed, final: bool) -> dict[str, Any]:
    """A verdict, how much of the text it is of, and what it took."""
    verdict = verdict_json(followed.verdict, f"mod-{request.state.request_id}", None)
    return verdict | {
        "final": final,
        "decided_chars": followed.decided,
        "stream_holdback_chars": followed.holdback,
        "run": {"windows": followed.work.run, "tokens": followed.work.tokens},
    }
