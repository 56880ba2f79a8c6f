"""Every dialect that is spoken: one line each."""

from collections.abc import Mapping
from typing import Final

from starlette.routing import Route, compile_path

from service.dialects import (
    agentgateway,
    azure,
    blocklists,
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
    blocklists.router,
    perspective.router,
    catalogue.router,
    feedback.router,
)
_ROUTES: Final[Mapping[str, Dialect]] = {
    route.path: dialect
    for dialect in DIALECTS
    for route in dialect.routes
    if isinstance(route, Route)
}
# Those with a parameter, by what they match; the first one that does is meant.
_PATTERNS: Final = tuple(
    (compile_path(path)[0], path, dialect) for path, dialect in _ROUTES.items() if "{" in path
)
PATHS: Final = frozenset(_ROUTES)
"""Every path of a dialect as it is registered: few, whatever callers ask."""


def find(path: str) -> tuple[str | None, Dialect | None]:
    """The registered path and the dialect of a request's path; None where no dialect has it.

    A path that nobody registered may be below one that is a dialect's alone.
    """
    if "{" not in path and (dialect := _ROUTES.get(path)) is not None:
        return path, dialect
    for pattern, registered, dialect in _PATTERNS:
        if pattern.match(path):
            return registered, dialect
    return None, next((d for d in DIALECTS if d.below and path.startswith(d.below)), None)


def methods(path: str) -> list[str]:
    """What a registered path takes. The router knows but the first of its routes."""
    routes = [route for route in _ROUTES[path].routes if isinstance(route, Route)]
    return sorted({name for one in routes if one.path == path for name in one.methods or ()})
