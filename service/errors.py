"""Errors that a caller can act on: a status, a code, and the field that is at fault."""

import math
import traceback
from typing import Any, Final

from pydantic import ValidationError
from starlette.responses import JSONResponse

ENVELOPE: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", "rate_limit_error", "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
"""What ``envelope`` makes, as a JSON schema."""


class RequestError(Exception):
    """A request that cannot be answered as it stands. Messages never repeat the caller's text."""

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str = "invalid_request",
        status: int = 400,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status
        self.headers = headers or {}

    def response(self) -> JSONResponse:
        """The error as every dialect of ours says it (OpenAI's envelope)."""
        return envelope(
            self.status, self.message, param=self.param, code=self.code, headers=self.headers
        )


def envelope(
    status: int,
    message: str,
    *,
    param: str | None = None,
    code: str | None = None,
    headers: dict[str, str] | None = None,
) -> JSONResponse:
    """``{"error": {"message", "type", "param", "code"}}``, as OpenAI's clients parse it."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    if status == 429:
        kind = "rate_limit_error"
    error = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": error}, status, headers)


def frames(error: BaseException) -> str:
    """Where an exception came from. Its message stays out: it may quote a caller's text."""
    return "".join(traceback.format_tb(error.__traceback__))


def retry_after(seconds: float) -> dict[str, str]:
    """Both spellings: whole seconds for everybody, milliseconds for OpenAI's clients."""
    return {
        "retry-after": str(max(1, math.ceil(seconds))),
        "retry-after-ms": str(max(1, round(seconds * 1000))),
    }


def from_validation(error: ValidationError, tags: frozenset[str] = frozenset()) -> RequestError:
    """The first fault of a body that does not fit its model.

    ``tags`` are names of union branches, which pydantic puts in the path and callers do not know.
    """
    found: Any = error.errors(include_input=False, include_url=False, include_context=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return RequestError(f"the body is not valid JSON: {first['msg']}", code="invalid_json")
    extra = first["type"] == "extra_forbidden"
    if first["loc"] and first["loc"][-1] in tags and not extra:
        # All branches of a union say what they miss: the one that was meant came furthest.
        of = first["loc"][:-1]
        first = max((one for one in found if one["loc"][: len(of)] == of), key=_reached)
    param = ""
    before = None
    for at, part in enumerate(first["loc"], 1):
        if isinstance(part, int):
            param += f"[{part}]"
        # A field may be named as the branch that it is of: {"type": "text", "text": …}.
        # Another one may have the name of a branch and be unknown.
        elif part not in tags or part == before or (extra and at == len(first["loc"])):
            param += f".{part}" if param else part
        before = part
    where = param or "body"
    return RequestError(f"{where}: {first['msg']}", param=param or None)


def _reached(fault: Any) -> tuple[int, bool]:
    """How far a branch of a union came: how deep, and whether it was of the type that is there."""
    return len(fault["loc"]), not fault["type"].endswith("_type")
