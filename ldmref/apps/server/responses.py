"""Answers in JSON, whatever text they quote, and warnings in their headers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse as StarletteJSONResponse
from starlette.responses import Response


class JSONResponse(StarletteJSONResponse):
    r"""Starlette's response, which can also hold half a surrogate pair.

    A request can write half a pair as an escape (RFC 8259, section 8.2), and so can the record of
    an image. UTF-8 cannot encode it, so an answer that quotes it contains the same escape.

    >>> from ldmref.apps.server.responses import JSONResponse
    >>> JSONResponse({"prompt": "é \ud800"}).body.decode()
    '{"prompt":"é \\ud800"}'
    """

    def render(self, content: Any) -> bytes:
        """Return the content in UTF-8."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")  # only within strings: an escape of JSON


HEADER = "ldmref-warning"
PLAIN = " ,;:'()/="  # characters that are not percent-encoded


def add_warnings(response: Response, lines: Iterable[str]) -> Response:
    """Return a response with each line, percent-encoded, as a header `ldmref-warning`."""
    for line in lines:
        response.headers.append(HEADER, quote(line, safe=PLAIN))
    return response
