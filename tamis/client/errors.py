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
        # As it is made, or no other process could be told of it: pickle makes it anew from these.
        super().__init__(status, message, code, param, request_id)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.status} {self.code or ''}: {self.message}"
