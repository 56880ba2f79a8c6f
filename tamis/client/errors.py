"""Why there is no verdict."""


class ClientError(Exception):
    """No verdict was had; what becomes of the text is the caller's policy."""


class UnreachableError(ClientError):
    """Nobody answered, as often as was tried; or what did is no Tamis."""


class LateError(ClientError):
    """The deadline passed, or would have before another try."""


class ApiError(ClientError):
    """The service refused, with a status, a code, and the field that is at fault."""

    def __init__(
        self, status: int, message: str, code: str | None, param: str | None, request_id: str | None
    ) -> None:
        super().__init__(f"{status} {code or ''}: {message}")
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.request_id = request_id
