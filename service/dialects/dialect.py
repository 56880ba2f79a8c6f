"""What every dialect is: routes that speak one contract, and the way it says no."""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.dialects.answers import EVENT, Schema
from service.dialects.direct import DirectRoute
from service.dialects.halves import validated
from service.errors import ENVELOPE, RequestError, from_validation

T = TypeVar("T")
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
BUSY: Final = 429


class Loose(BaseModel):
    """Unknown fields are ignored: other contracts grow, and clients send more than we read."""

    model_config = ConfigDict(extra="ignore")


class Dialect(APIRouter):
    """The routes of one contract.

    ``judging`` are the paths whose requests are texts to judge: they are refused before their body
    is read where there is no room. ``lasting`` are those whose bodies come for as long as there is
    something to say. ``hook`` says that a gateway asks, which stands between a user
    and a model.
    """

    def __init__(
        self,
        *,
        hook: bool = False,
        refusal: Callable[[RequestError], Response] | None = None,
        errors: dict[str, Any] = ENVELOPE,
        below: str | None = None,
    ) -> None:
        """``refusal`` is how the contract words an error; OpenAI's envelope where it has none.

        ``errors`` is its JSON schema, ``below`` the path whose paths are all the contract's.
        """
        super().__init__(route_class=DirectRoute)
        self.below = below
        self.errors = errors
        self.hook = hook
        self.judging: set[str] = set()
        self.lasting: set[str] = set()
        self._refusal = refusal or RequestError.response

    def judges(
        self,
        path: str,
        body: TypeAdapter[Any],
        answer: Schema | None = None,
        *,
        streams: bool = False,
    ) -> Callable[[Endpoint], Endpoint]:
        """Decorate the endpoint of ``POST path``.

        ``body`` describes what it takes, ``answer`` what it says, ``streams`` that this may be
        server-sent events.
        """
        self.judging.add(path)
        return self.post(path, openapi_extra=documented(body, answer, streams=streams))

    def refuse(self, error: RequestError, overload_status: int) -> Response:
        """An error as the contract says it.

        Gateways that let requests through where their guard cannot be reached (LiteLLM's
        ``unreachable_fallback: fail_open``, Envoy's ``failure_mode_allow``) take 429 for a verdict,
        so a hook answers ``overload_status`` in its place.
        """
        if self.hook and error.status == BUSY:
            error.status = overload_status
        return self._refusal(error)


def documented(
    body: TypeAdapter[Any], answer: Schema | None = None, *, streams: bool = False
) -> dict[str, Any]:
    """What OpenAPI is told of a body and its answer."""
    schema = {"required": True, "content": {"application/json": {"schema": body.json_schema()}}}
    content = {} if answer is None else {"application/json": {"schema": answer}}
    if streams:
        content["text/event-stream"] = {"schema": EVENT}
    said = {"responses": {"200": {"content": content}}} if content else {}
    return {"requestBody": schema, **said}


def refuse(error: RequestError, dialect: Dialect | None, overload_status: int) -> Response:
    """An error as a dialect says it; None: the path is nobody's."""
    return error.response() if dialect is None else dialect.refuse(error, overload_status)


async def body_of(request: Request, body: TypeAdapter[T], tags: frozenset[str] = frozenset()) -> T:
    """The validated body of a request; ``tags`` as in ``from_validation``.

    Raises:
        RequestError: naming the field at fault.
    """
    try:
        return validated(body, await request.body())
    except ValidationError as error:
        raise from_validation(error, tags) from None
