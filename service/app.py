"""The application: routes, lifespan, and what is wrapped around them."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from fastapi import FastAPI, Request, Response
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from service.access import KeysError
from service.blocklists import Blocklists
from service.dialects.calls import Calls
from service.dialects.dialect import refuse
from service.dialects.registry import DIALECTS, methods
from service.errors import RequestError
from service.feedback import Feedback
from service.moderation.moderator import Moderator
from service.observing.metrics import Metrics
from service.observing.observers import Observers
from service.playground import page
from service.settings import Settings
from service.web import admin
from service.web.background import Background
from service.web.bodies import Bodies
from service.web.lifecycle import Lifecycle
from service.web.middleware import Envelope
from service.web.openapi import Application
from tamis import __version__
from tamis.policy import PolicyError

logger = logging.getLogger("tamis.service")


def create_app(settings: Settings | None = None) -> FastAPI:
    """Build the application; the model loads in the background once the server has started.

    One of several processes (``settings.processes``) loads before it takes its first connection.

    Raises:
        PolicyError, KeysError: where a file of policies or keys cannot be used.
        OSError, ValueError: where the audit log cannot be kept as asked for.
    """
    settings = settings or Settings()
    moderator = Moderator(settings, Metrics())
    lifecycle = Lifecycle(settings.linger_seconds, settings.drain_seconds, moderator.serving.leave)
    observers = Observers(settings, moderator.metrics)
    aside = None if settings.admin_port is None else Starlette()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(observers.running())
            stack.push_async_callback(asyncio.to_thread, moderator.close)
            if aside is not None and settings.admin_port is not None:
                listener = admin.listening(aside, settings.host, settings.admin_port)
                await stack.enter_async_context(listener)
            background, serving = Background(), moderator.serving
            stack.push_async_callback(background.end)
            stack.callback(serving.loader.halt)  # first: a load would be waited for
            lifecycle.attend(lambda: background.start("reloading", partial(_reload, moderator)))
            loading = background.start("loading", partial(_load, moderator, lifecycle))
            if settings.processes > 1:
                # One that takes another's place hears nobody before it can judge: what the kernel
                # handed it would be refused, while its siblings answer.
                await loading
            background.start("looking for the accurate bundle", serving.watch_tiers)
            background.start("looking for the multilingual bundle", serving.watch)
            background.start("looking for the policy encoder", serving.watch_rules)
            background.start("tending inference workers", serving.tend)
            background.start("looking for the reasoner", moderator.reasoning.watch)
            if seconds := settings.reload_seconds:
                watch = partial(moderator.configuration.watch, seconds)
                background.start("looking at policies and keys", watch)
            yield

    app = Application(
        title="Tamis",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for dialect in DIALECTS:
        app.include_router(dialect)
    if settings.playground:
        app.router.routes.extend(page.routes())
    app.state.calls = Calls()
    app.state.blocklists = Blocklists(settings.blocklists)
    app.state.feedback = Feedback(settings.feedback, moderator.metrics)
    _complete(app, moderator, lifecycle, observers)
    if aside is None:
        app.add_route("/metrics", admin.scrape)
        if settings.keys is not None:  # without keys anybody could ask
            app.add_route("/admin/reload", admin.reload, methods=["POST"])
    else:
        aside.add_route("/metrics", admin.scrape)
        aside.add_route("/admin/reload", admin.reload, methods=["POST"])
        _complete(aside, moderator, lifecycle, observers, keys=False)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            # As browsers write them, not as their bars show addresses: without a path, and small.
            allow_origins=[o.strip().rstrip("/").lower() for o in settings.cors_origins.split(",")],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
        )
    return app


def _complete(
    app: Starlette,
    moderator: Moderator,
    lifecycle: Lifecycle,
    observers: Observers,
    keys: bool = True,
) -> None:
    """What every application of the process has: health, errors in JSON, the envelope."""
    app.state.moderator = moderator
    app.state.lifecycle = lifecycle
    app.add_route("/health/live", admin.live)
    app.add_route("/health/ready", admin.ready)
    app.add_route("/health", admin.ready)  # where vLLM, TEI and detectors are asked
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(
        Envelope,
        metrics=moderator.metrics,
        bodies=Bodies(moderator.settings, moderator.metrics),
        enter=moderator.enter if keys else None,
        lifecycle=lifecycle,
        observers=observers,
        overload_status=moderator.settings.hook_overload_status,
    )


async def _load(moderator: Moderator, lifecycle: Lifecycle) -> None:
    try:
        await moderator.serving.load()
    except Exception as error:
        # Alive but never ready: an orchestrator shows the reason instead of restarting blindly.
        lifecycle.failure = str(error)
        logger.error("cannot serve: %s", error)


async def _reload(moderator: Moderator) -> None:
    with suppress(PolicyError, KeysError):  # logged and counted
        await moderator.configuration.reload()


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    request.state.code = error.code
    return _said(request, error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # Not request.url, which reads the query as UTF-8, and fails on what is none.
    message = {404: f"there is no {request.scope['path']}", 405: "method not allowed"}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    request.state.code = code
    headers = dict(error.headers or {})
    if error.status_code == 405 and request.state.dialect is not None:
        headers["Allow"] = ", ".join(methods(request.state.route))
    said = RequestError(
        message.get(error.status_code, str(error.detail)),
        code=code or "http_error",
        status=error.status_code,
        headers=headers,
    )
    return _said(request, said)


def _said(request: Request, error: RequestError) -> Response:
    settings: Settings = request.app.state.moderator.settings
    return refuse(error, request.state.dialect, settings.hook_overload_status)
