"""Errors that a server sends: in OpenAI's format, with a status and one sentence."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """A request that was refused or has failed.

    ``message`` is one sentence for the client, without any path, address or traceback of the server.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        *,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}

    @property
    def kind(self) -> str:
        """OpenAI's name for this class of errors."""
        if self.status == 401:
            return "authentication_error"
        if self.status == 429:
            return "rate_limit_error"
        return "invalid_request_error" if self.status < 500 else "server_error"

    def body(self) -> dict[str, Any]:
        """The reply's JSON."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None = None, code: str = "bad_request") -> ApiError:
    """Status 400."""
    return ApiError(400, message, code, param=param)
