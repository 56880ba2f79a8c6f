"""How often and how long to try: until the deadline, as the service says, and never in vain."""

import random
import time
from email.utils import parsedate_to_datetime
from typing import Final, NoReturn

import httpx

from tamis.client.errors import ApiError, LateError, UnreachableError
from tamis.policy import MAX_DEADLINE_MS

AGAIN: Final = frozenset({408, 429, 502, 503, 504})
FIRST_WAIT: Final = 0.1
LONGEST_WAIT: Final = 5.0
# Who is asked to wait longer is told so instead: a proxy's hour is no wait for a caller to sit out.
LONGEST_ASKED: Final = 60.0
# Of a text that takes longer than the deadline; of a later try, longer than what is left of it.
TOO_SHORT: Final = "deadline_too_short"
# Seconds that the way there and back may take, beyond what the service may.
GRACE: Final = 0.1


class Attempts:
    """The tries of one request. To judge a text twice does no harm, so every request may be."""

    def __init__(self, retries: int, timeout: float, deadline: float | None) -> None:
        """``timeout`` bounds one try, ``deadline`` all of them; in seconds."""
        self._retries, self._timeout = retries, timeout
        self._until = None if deadline is None else time.monotonic() + deadline
        self._made = 0

    @property
    def headers(self) -> dict[str, str]:
        """What the service must know of the time that is left."""
        left = self._left()
        if left is None:
            return {}
        # The service takes no longer one; more time is ours to know.
        milliseconds = max(1, round(min(left * 1e3, MAX_DEADLINE_MS)))
        return {"x-request-timeout-ms": str(milliseconds)}

    @property
    def timeout(self) -> float:
        """Seconds that this try may take.

        Raises:
            LateError: where time is over, as after a wait that took longer than it should.
        """
        left = self._left()
        if left is None:
            return self._timeout
        if left <= 0:
            raise LateError("the deadline passed")
        return min(self._timeout, left + GRACE)

    def refused(self, answer: httpx.Response) -> float:
        """Seconds to wait after an answer that is an error.

        Raises:
            ApiError: where another try would not help, or there is none left.
            LateError: where it would come too late.
        """
        error = _error_of(answer)
        asked = _asked(answer.headers)
        if self._made and self._until is not None and error.code == TOO_SHORT:
            raise LateError("an earlier try left too little time") from error
        if answer.status_code not in AGAIN or self._made >= self._retries:
            raise error
        if asked is not None and asked > LONGEST_ASKED:
            raise error
        return self._wait(asked, error)

    def failed(self, error: httpx.RequestError | TimeoutError) -> float:
        """Seconds to wait after no answer at all.

        Raises:
            UnreachableError: where no try is left.
            LateError: where time is over.
        """
        if self._made >= self._retries:
            self._give_up(error)
        return self._wait(None, error)

    def _give_up(self, error: httpx.RequestError | TimeoutError) -> NoReturn:
        left = self._left()
        if left is not None and left <= 0:
            raise LateError("the deadline passed") from error
        # An exception's message names hosts and ports, and no text.
        raise UnreachableError(f"{type(error).__name__}: {error}") from error

    def _wait(self, asked: float | None, error: Exception) -> float:
        backoff = min(LONGEST_WAIT, FIRST_WAIT * 2**self._made) * random.uniform(0.5, 1)  # noqa: S311
        wait = backoff if asked is None else asked
        left = self._left()
        if left is not None and wait >= left:
            raise LateError(f"another try in {wait:.1f} s would be after the deadline") from error
        self._made += 1
        return wait

    def _left(self) -> float | None:
        return None if self._until is None else self._until - time.monotonic()


def _asked(headers: httpx.Headers) -> float | None:
    """Seconds that an answer asks to wait: ``retry-after-ms``, else ``Retry-After``."""
    try:
        if (given := headers.get("retry-after-ms")) is not None:
            return max(0.0, float(given) / 1e3)
        given = headers.get("retry-after")
        if given is None:
            return None
        if given.strip().isdecimal():
            return float(given)
        return max(0.0, parsedate_to_datetime(given).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _error_of(answer: httpx.Response) -> ApiError:
    try:
        said = answer.json()["error"]
        message, code, param = said["message"], said.get("code"), said.get("param")
    except (ValueError, KeyError, TypeError):
        # A proxy's page, perhaps.
        message, code, param = answer.reason_phrase or "no reason was given", None, None
    request_id = answer.headers.get("x-request-id")
    return ApiError(answer.status_code, message, code, param, request_id)
