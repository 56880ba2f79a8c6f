"""The playground's page and its assets, with headers that let it load nothing from elsewhere."""

import hashlib
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

TYPES: Final[Mapping[str, str]] = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Scripts, styles and requests of this origin and nothing else: a flaw in the page could neither run
# what it was not shipped with nor send a text anywhere.
CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS: Final[Mapping[str, str]] = {
    "cache-control": "no-cache",
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def routes() -> Iterator[Route]:
    """``/`` and every asset below ``/playground/``, read once and answered from memory."""
    for asset in resources.files(__package__).joinpath("assets").iterdir():
        kind = TYPES.get(asset.name.rpartition(".")[2])
        if kind is None:
            continue
        path = "/" if asset.name == "index.html" else f"/playground/{asset.name}"
        yield Route(path, _Asset(asset.read_bytes(), kind).answer, methods=["GET"])


class _Asset:
    """One file. Browsers ask each time whether it changed, so that no two versions ever mix."""

    def __init__(self, content: bytes, kind: str) -> None:
        self._content = content
        self._kind = kind
        self._etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def answer(self, request: Request) -> Response:
        """The file, or that it is the one the browser has."""
        headers = {**HEADERS, "etag": self._etag}
        if _matches(request.headers.get("if-none-match", ""), self._etag):
            return Response(status_code=304, headers=headers)
        return Response(self._content, headers=headers, media_type=self._kind)


def _matches(given: str, etag: str) -> bool:
    """RFC 9110, 13.1.2: a list of tags, compared weakly, or anything."""
    tags = {tag.strip().removeprefix("W/") for tag in given.split(",")}
    return etag in tags or tags == {"*"}
