"""The application: routes, lifespan, health and metrics."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from service.dialects import native, openai
from service.errors import RequestError, envelope
from service.metrics import Metrics
from service.middleware import Envelope
from service.moderation import Moderator, moderator_of
from service.settings import Settings
from tamis import __version__

logger = logging.getLogger("tamis.service")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application; the model loads in the background once the server has started.

    Raises:
        PolicyError: where a policy file cannot be used.
    """
    settings = settings or Settings()
    metrics = Metrics()
    moderator = Moderator(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(moderator, app))
        yield
        loading.cancel()
        with suppress(asyncio.CancelledError):
            await loading
        await asyncio.to_thread(moderator.close)

    app = FastAPI(
        title="Tamis", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.moderator = moderator
    app.state.failure = None
    app.add_middleware(
        Envelope,
        metrics=metrics,
        max_body_bytes=settings.max_body_bytes,
        admit=moderator.admit,
    )
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.include_router(native.router)
    app.include_router(openai.router)
    app.get("/health/live")(live)
    app.get("/health/ready")(ready)
    app.get("/metrics")(scrape)
    return app


async def _load(moderator: Moderator, app: FastAPI) -> None:
    try:
        await moderator.load()
    except Exception as error:
        # Alive but never ready: an orchestrator shows the reason instead of restarting blindly.
        app.state.failure = str(error)
        logger.error("cannot serve: %s", error)
    else:
        assert moderator.engine is not None
        bundle = moderator.engine.bundle
        logger.info("ready: %s@%s", bundle.name, bundle.fingerprint[:12])


async def live() -> dict[str, str]:
    """The process runs and its event loop turns."""
    return {"status": "live"}


async def ready(request: Request) -> JSONResponse:
    """The bundle is verified, loaded on the configured provider, and warm."""
    engine = moderator_of(request).engine
    if engine is not None:
        return JSONResponse({"status": "ready", "model": engine.bundle.name})
    failure = request.app.state.failure
    return JSONResponse({"status": "failed" if failure else "loading", "reason": failure}, 503)


async def scrape(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(moderator_of(request).metrics.scrape(), media_type=CONTENT_TYPE_LATEST)


async def _request_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = {404: f"there is no {request.url.path}", 405: "method not allowed"}
    return envelope(
        error.status_code,
        message.get(error.status_code, str(error.detail)),
        code={404: "not_found", 405: "method_not_allowed"}.get(error.status_code),
        headers=dict(error.headers or {}),
    )
