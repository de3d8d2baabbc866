"""The exception that ends a request, and the answer that is sent for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ldmref.apps.server.errors import refusal
from ldmref.errors import LdmrefError

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send


class Refused(Exception):
    """A request that is answered before, or instead of, the application.

    Args:
        status: HTTP status.
        message, code, hint: Those of the error that the client reads.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        hint: str = "",
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.error = LdmrefError(message, code=code, hint=hint)
        self.headers = dict(headers or {})


def too_large(path: bool, largest: int) -> Refused:
    """Return the answer to a head that is larger than `largest` bytes: 414 or 431."""
    return Refused(
        414 if path else 431,
        f"the {'target' if path else 'head'} of the request is larger than {largest} bytes",
        code="E-HEAD",
        hint="send less in the path" if path else "send less in the path and in the headers",
    )


def values_of(scope: Scope, name: bytes) -> list[str]:
    """Return all values of a header; `name` is in lower case."""
    return [value.decode("latin-1").strip() for key, value in scope["headers"] if key == name]


def has_body(scope: Scope) -> bool:
    """Return whether the head of a request announces a body."""
    if values_of(scope, b"transfer-encoding"):
        return True
    return any(value != "0" for value in values_of(scope, b"content-length"))


async def answer(
    refused: Refused, scope: Scope, receive: Receive, send: Send, *, unread: bool, linger: float
) -> None:
    """Send the answer to a refused request in the form of the interface that owns its path.

    The connection is closed if a part of the body was not read: it cannot carry another request. A
    socket that is closed with unread data resets the connection, and the client may lose the
    answer. The answer is therefore sent in full, and `linger` seconds are left to the client to
    end its body.
    """
    response = refusal(scope["path"], refused.status, refused.error)
    for name, value in refused.headers.items():
        response.headers[name] = value
    if unread:
        response.headers["connection"] = "close"
    start: dict[str, Any] = {"type": "http.response.start", "status": refused.status}
    await send(start | {"headers": response.raw_headers})
    await send({"type": "http.response.body", "body": bytes(response.body), "more_body": unread})
    if unread:
        await discard(receive, linger)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def discard(receive: Receive, seconds: float) -> None:
    """Read messages until the body ends, the client leaves, or the time is over."""
    try:
        async with asyncio.timeout(seconds):
            while True:
                message = await receive()
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return
