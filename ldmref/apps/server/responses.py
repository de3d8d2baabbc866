"""Answers in JSON, whatever text they quote, and warnings in their headers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from starlette.responses import JSONResponse as StarletteJSONResponse
from starlette.responses import Response

from ldmref.errors import one_line


class JSONResponse(StarletteJSONResponse):
    r"""Starlette's response, which can also hold half a surrogate pair, NaN and infinity.

    A request can write half a pair as an escape (RFC 8259, section 8.2), and so can the record of
    an image. UTF-8 cannot encode it, so an answer that quotes it contains the same escape. Numbers
    that JSON lacks, which such a record may hold, are null.

    >>> from ldmref.apps.server.responses import JSONResponse
    >>> JSONResponse({"prompt": "é \ud800"}).body.decode()
    '{"prompt":"é \\ud800"}'
    >>> JSONResponse({"eta": [float("nan"), 1.5]}).body.decode()
    '{"eta":[null,1.5]}'
    """

    def render(self, content: object) -> bytes:
        """Return the content in UTF-8."""
        try:
            text = _written(content)
        except ValueError:  # a number that JSON lacks, or of more digits than Python writes
            text = _written(_without_odd_numbers(content))
        return text.encode("utf-8", "backslashreplace")  # only within strings: an escape of JSON


def _written(content: object) -> str:
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _without_odd_numbers(content: object) -> Any:
    """Return the content with null for numbers that JSON lacks."""
    if isinstance(content, dict):
        return {key: _without_odd_numbers(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_odd_numbers(value) for value in content]
    if isinstance(content, int):
        return content if content.bit_length() <= MOST_BITS else None
    return None if isinstance(content, float) and not math.isfinite(content) else content


HEADER = "ldmref-warning"
MOST_BITS = 4096  # of a whole number
PLAIN = " ,;:'()/="  # characters that are not percent-encoded


def add_warnings(response: Response, lines: Iterable[str]) -> Response:
    """Return a response with each line, percent-encoded, as a header `ldmref-warning`."""
    for line in lines:
        response.headers.append(HEADER, quote(one_line(line), safe=PLAIN))
    return response
