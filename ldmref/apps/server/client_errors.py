"""Refusals with the HTTP status that clients of another interface expect."""

from __future__ import annotations

import functools
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ldmref.apps.server.errors import refusal
from ldmref.errors import LdmrefError

Endpoint = Callable[[Request], Coroutine[Any, Any, Response]]


def refuse_with(status: Callable[[LdmrefError], int], endpoint: Endpoint) -> Endpoint:
    """Return an endpoint whose errors have the status that `status(error)` returns."""

    @functools.wraps(endpoint)
    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except LdmrefError as error:
            return refusal(request.url.path, status(error), error)

    return answer
