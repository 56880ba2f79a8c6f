"""How a refusal is said: each contract has its own envelope, also for what no route has seen."""

from starlette.responses import JSONResponse

from service.access import GOOGLE
from service.dialects import perspective
from service.errors import RequestError


def refusal(error: RequestError, path: str) -> JSONResponse:
    """An error as the clients of a path parse it."""
    return perspective.error_json(error) if path.startswith(GOOGLE) else error.response()
