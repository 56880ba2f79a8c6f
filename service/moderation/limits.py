"""What a request may ask: how many texts, how long ones, and by when; and refusals as errors."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from starlette.datastructures import Headers

from service.engine.scheduler import DeadlineError, OverloadedError
from service.engine.workers.crew import WorkerLostError
from service.errors import RequestError, retry_after
from service.observing.metrics import Metrics
from tamis.content import Content
from tamis.policy import MAX_DEADLINE_MS, Policy

DEADLINE: Final = "x-request-timeout-ms"
ENVOY_DEADLINE: Final = "x-envoy-expected-rq-timeout-ms"
MOST_DIGITS: Final = len(str(MAX_DEADLINE_MS)) + 1


def check_items(count: int, most: int, param: str) -> None:
    """Refuse an empty or too long batch.

    Raises:
        RequestError: naming the limit.
    """
    if not count:
        raise RequestError(f"{param}: must hold at least one item", param=param)
    if count > most:
        raise RequestError(
            f"{param}: {count} items are over the limit of {most}",
            param=param,
            code="too_many_items",
        )


def check_contents(items: Sequence[tuple[str, Sequence[Content]]], most: int) -> None:
    """Refuse items of too many texts together: each has a task, a place in the queue and a finding.

    Raises:
        RequestError: naming the field and the limit.
    """
    if (count := sum(len(contents) for _, contents in items)) > most:
        # An item without a name has contents with whole ones.
        first = next(name or contents[0].field for name, contents in items if contents)
        param = re.split(r"[.\[]", first)[0]
        raise RequestError(
            f"{param}: {count} texts to judge are over the limit of {most}",
            param=param,
            code="too_many_items",
        )


def check_lengths(items: Sequence[tuple[str, Sequence[Content]]], limit: int) -> None:
    """Refuse too long a text; an item without a name has contents with whole ones.

    Raises:
        RequestError: naming the field and the limit.
    """
    for name, contents in items:
        for content in contents:
            if len(content.text) > limit:
                param = _place(name, content.field)
                raise RequestError(
                    f"{param}: {len(content.text)} characters are over the limit of {limit}",
                    param=param,
                    code="text_too_long",
                )
            if content.context is not None and len(content.context) > limit:
                # Read, too, and not always judged as well.
                param = name or content.field
                raise RequestError(
                    f"{param}: what comes before {content.field} has {len(content.context)} "
                    f"characters, over the limit of {limit}",
                    param=param,
                    code="text_too_long",
                )


def _place(name: str, field: str) -> str:
    """Where a content stands in a request: ``input``, ``input[1].text``, ``input[3].prompt``."""
    if not name or field == "text":
        return name or field
    return f"{name}{field}" if field.startswith("[") else f"{name}.{field}"


def deadline_of(headers: Headers, default: float | None) -> float | None:
    """Seconds the caller gives: our header, else the one that Envoy adds, else the default.

    Raises:
        RequestError: where ours is not a number of milliseconds.
    """
    if (given := headers.get(DEADLINE)) is None:
        # A route's time is its operator's, and callers never see the header: more than an hour is
        # an hour.
        found = min(_milliseconds(headers.get(ENVOY_DEADLINE, "")), MAX_DEADLINE_MS)
        return found / 1e3 if found else default
    if not 1 <= (found := _milliseconds(given)) <= MAX_DEADLINE_MS:
        raise RequestError(
            f"{DEADLINE}: must be a whole number of milliseconds from 1 to {MAX_DEADLINE_MS}",
            param=DEADLINE,
        )
    return found / 1e3


def deadline_under(policy: Policy, headers: Headers) -> float | None:
    """The same, by default what the policy gives; raises as ``deadline_of``."""
    return deadline_of(headers, None if policy.deadline_ms is None else policy.deadline_ms / 1e3)


def _milliseconds(given: str) -> int:
    """A header's number, or another one over the limit; 0 where it is none."""
    # Python refuses to read thousands of digits.
    return int(given.lstrip("0")[:MOST_DIGITS] or 0) if given.isdecimal() else 0


@contextmanager
def refusals(metrics: Metrics, deadline: float | None) -> Iterator[None]:
    """What the engine refuses, as errors for the caller."""
    try:
        yield
    except OverloadedError as error:
        metrics.refused.labels(error.reason).inc()
        raise RequestError(
            "the service is at capacity",
            code="overloaded",
            status=429,
            headers=retry_after(error.retry_after),
        ) from None
    except WorkerLostError:
        raise RequestError(
            "the worker that judged this has ended, and the next one, too",
            code="worker_lost",
            status=503,
            headers=retry_after(1.0),
        ) from None
    except DeadlineError as error:
        if error.needed is None:
            raise RequestError(
                "the deadline passed before the work was done",
                code="deadline_exceeded",
                status=504,
            ) from None
        metrics.refused.labels("too_short").inc()
        raise RequestError(
            f"{DEADLINE}: the texts take about {error.needed * 1e3:.0f} ms, the deadline is "
            f"{(deadline or 0) * 1e3:.0f} ms",
            param=DEADLINE,
            code="deadline_too_short",
        ) from None
