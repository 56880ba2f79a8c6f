"""What operators and their tools ask: health, metrics, reload; on a port of their own if wished."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp

from service.access import KeysError
from service.errors import RequestError
from service.moderation.moderator import moderator_of
from service.web.lifecycle import Lifecycle
from service.web.protocol import Protocol
from tamis.policy import PolicyError


async def live(_: Request) -> JSONResponse:
    """The process runs and its event loop turns."""
    return JSONResponse({"status": "live"})


async def ready(request: Request) -> JSONResponse:
    """The bundle is verified, loaded on the configured provider and warm, and nobody is leaving.

    A full queue is no reason to be unready: requests get their 429, and other replicas are as
    full.
    """
    moderator, lifecycle = moderator_of(request), request.app.state.lifecycle
    assert isinstance(lifecycle, Lifecycle)
    if lifecycle.leaving:
        return JSONResponse({"status": "leaving", "reason": "asked to stop"}, 503)
    tiers = moderator.serving.tiers
    tier: dict[str, str] = {"tier": tiers.tier}
    if tiers.tier != "fast":
        tier["accurate"] = tiers.state
    if moderator.serving.engine is None:
        status = "loading" if lifecycle.failure is None else "failed"
        reason = lifecycle.failure or tiers.reason
        return JSONResponse({"status": status, "reason": reason} | tier, 503)
    if (crew := moderator.serving.loader.crew) is not None:
        tier["workers"] = f"{crew.alive} of {crew.wanted}"
        if not crew.alive:
            reason = "no inference worker is alive"
            return JSONResponse({"status": "failed", "reason": reason} | tier, 503)
    if tiers.reason is not None:  # the fast one answers alone
        tier["reason"] = tiers.reason
    elif moderator.serving.tongues.reason is not None:
        tier["reason"] = moderator.serving.tongues.reason
    elif moderator.serving.rules.reason is not None:
        tier["reason"] = moderator.serving.rules.reason
    ready = {
        "status": "ready",
        "model": moderator.serving.engine.bundle.name,
        "multilingual": moderator.serving.tongues.state,
        "policy_encoder": moderator.serving.rules.state,
        "policy_encoder_accurate": moderator.serving.rules.accurate,
        "reasoner": moderator.reasoning.state,
    }
    if (rulings := moderator.rulings) is not None:
        bundle = rulings.encoder.bundle
        ready["rules"] = f"{bundle.name}@{bundle.fingerprint[:12]}"
    return JSONResponse(ready | tier)


async def scrape(request: Request) -> Response:
    """Prometheus metrics."""
    return Response(moderator_of(request).metrics.scrape(), media_type=CONTENT_TYPE_LATEST)


async def reload(request: Request) -> JSONResponse:
    """Read policies and keys anew, or say what is wrong with them and leave them as they were.

    Of several processes the one that answers; the others see the change by themselves, if they are
    to look (``reload_seconds``).
    """
    configuration = moderator_of(request).configuration
    try:
        await configuration.reload()
    except (PolicyError, KeysError) as error:
        raise RequestError(str(error), code="invalid_configuration", status=409) from None
    versions = {p.name: p.version for p in configuration.policies.values()}
    return JSONResponse({"policies": versions, "keys": len(configuration.access.keys)})


class _Aside(uvicorn.Server):
    """A second server in the process, which leaves the signals to the first."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def listening(app: ASGIApp, host: str, port: int) -> AsyncIterator[None]:
    """Serve an application on a port, beside the one that is being served.

    Raises:
        OSError: where the port is taken.
    """
    # Every process of several listens, and whichever answers knows the metrics of all.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, reuse_port=True) as own:
        config = uvicorn.Config(
            app, http=Protocol, ws="none", lifespan="off", log_config=None, access_log=False
        )
        server = _Aside(config)
        serving = asyncio.create_task(server.serve([own]))
        try:
            yield
        finally:
            server.should_exit = True
            await serving
