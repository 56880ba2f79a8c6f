"""Every dialect that is spoken: one line each."""

from collections.abc import Mapping
from typing import Final

from starlette.routing import Route

from service.dialects import (
    agentgateway,
    azure,
    catalogue,
    classify,
    decisions,
    detectors,
    envoy,
    feedback,
    litellm,
    llamaguard,
    mistral,
    native,
    openai,
    perspective,
    portkey,
    streams,
)
from service.dialects.dialect import Dialect

DIALECTS: Final[tuple[Dialect, ...]] = (
    native.router,
    streams.router,
    openai.router,
    mistral.router,
    decisions.router,
    llamaguard.router,
    litellm.router,
    portkey.router,
    agentgateway.router,
    envoy.router,
    detectors.router,
    classify.router,
    azure.router,
    perspective.router,
    catalogue.router,
    feedback.router,
)
# By path; one with a parameter at its end takes all that begins so.
_ROUTES: Final[Mapping[str, Dialect]] = {
    route.path: dialect
    for dialect in DIALECTS
    for route in dialect.routes
    if isinstance(route, Route)
}
_PREFIXES: Final[Mapping[str, str]] = {
    path.partition("{")[0]: path for path in _ROUTES if path.endswith("}")
}
PATHS: Final = frozenset(_ROUTES)
"""Every path of a dialect as it is registered: few, whatever callers ask."""


def find(path: str) -> tuple[str | None, Dialect | None]:
    """The registered path and the dialect of a request's path; None where no dialect has it."""
    if (dialect := _ROUTES.get(path)) is not None:
        return path, dialect
    for prefix, registered in _PREFIXES.items():
        if path.startswith(prefix):
            return registered, _ROUTES[registered]
    return None, None
