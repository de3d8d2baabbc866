"""Answers in JSON, whatever text they quote."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse as StarletteJSONResponse


class JSONResponse(StarletteJSONResponse):
    r"""Starlette's response, which can also hold half a surrogate pair.

    A request can write half a pair as an escape (RFC 8259, section 8.2), and so can the record of
    an image. UTF-8 cannot encode it, so an answer that quotes it contains the same escape.

    >>> from ldmref.apps.server.json_response import JSONResponse
    >>> JSONResponse({"prompt": "é \ud800"}).body.decode()
    '{"prompt":"é \\ud800"}'
    """

    def render(self, content: Any) -> bytes:
        """Return the content in UTF-8."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")  # only within strings: an escape of JSON
