"""Warnings in the headers of an answer."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

from starlette.responses import Response

HEADER = "ldmref-warning"
PLAIN = " ,;:'()/="  # characters that are not percent-encoded


def add_warnings(response: Response, lines: Iterable[str]) -> Response:
    """Return a response with each line, percent-encoded, as a header `ldmref-warning`."""
    for line in lines:
        response.headers.append(HEADER, quote(line, safe=PLAIN))
    return response
