"""The log: a line for each request, without prompts, bodies, tokens and query strings.

uvicorn's access log writes query strings, and has neither the duration nor the clients that left.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from ldmref.errors import one_line

if TYPE_CHECKING:
    from starlette.types import Scope

log = logging.getLogger("ldmref.server")
LONGEST_PATH = 200
CLIENT_LEFT = 499  # as in the logs of other servers


class Entry:
    """The line of a request."""

    def __init__(self, scope: Scope):
        self.scope = scope
        self.started = time.monotonic()
        self.status = CLIENT_LEFT
        self.size = 0

    def write(self) -> None:
        """Log the request. Control characters of the path are escaped."""
        client = (self.scope.get("client") or ("?", 0))[0]
        path = one_line(self.scope["path"][:LONGEST_PATH])
        seconds = time.monotonic() - self.started
        log.info(
            "%s %s %s %s %s B %.3f s",
            client,
            one_line(self.scope["method"][:20]),
            path,
            self.status,
            self.size,
            seconds,
        )
