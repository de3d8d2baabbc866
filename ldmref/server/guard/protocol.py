"""Connections that never become a request, or whose client does not read.

uvicorn closes connections that are idle between two requests. Its protocol waits for ever for the
rest of a head and for a client that does not read; this one does not.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from typing import TYPE_CHECKING, Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ldmref.errors import LdmrefError
from ldmref.server.errors import error_body
from ldmref.server.guard.headers import secured
from ldmref.server.guard.limits import Limits, connections_allowed

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

SYSTEM_BUFFER = 2**17  # bytes

REASONS = {
    400: (b"Bad Request", "E-REQUEST", "the request is not valid HTTP"),
    408: (b"Request Timeout", "E-TIMEOUT", "the head of the request did not arrive in time"),
    431: (b"Request Header Fields Too Large", "E-HEAD", "the head of the request is too large"),
    503: (b"Service Unavailable", "E-BUSY", "the server has too many connections"),
}


def protocol(most: int, limits: Limits) -> type[H11Protocol]:
    """Return the protocol class for `most` connections at a time; see `Guarded`."""
    allowed = connections_allowed(most)
    return type("GuardedH11Protocol", (Guarded,), {"limits": limits, "most": allowed})


class Guarded(H11Protocol):
    """uvicorn's HTTP/1.1 with limits of time and number.

    - The head of a request must arrive in `limits.head` seconds (408).
    - A client that takes no byte for `limits.write` seconds is disconnected.
    - Connections beyond `most` are refused (503).
    - What is not HTTP is answered in JSON, with 431 for a head that is too large.
    """

    limits = Limits()
    most = sys.maxsize

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ):
        super().__init__(config, server_state, app_state, _loop)
        self.head_timer: asyncio.TimerHandle | None = None
        self.write_timer: asyncio.TimerHandle | None = None
        self.close_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and wait for the head of a request."""
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        if len(self.connections) > self.most:
            self.refuse(503)
            return
        # Any unsent byte starts the timer, not only a full buffer. The buffer of
        # the system is small: a client could read from a large one for minutes.
        transport.set_write_buffer_limits(high=0)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SYSTEM_BUFFER)
        self.watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers."""
        self.head_timer = stopped(self.head_timer)
        self.write_timer = stopped(self.write_timer)
        self.close_timer = stopped(self.close_timer)
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass data on, and watch whether it completes a head; ignore it after a refusal."""
        if self.close_timer is not None or self.transport.is_closing():
            return
        super().data_received(data)
        self.watch_head()

    def watch_head(self) -> None:
        """Start the timer of the head if one is awaited and no response is being written."""
        awaited = self.conn.their_state is h11.IDLE and self.close_timer is None
        if not awaited:
            self.head_timer = stopped(self.head_timer)
        elif self.head_timer is None:
            self.head_timer = self.loop.call_later(self.limits.head, self.head_is_late)

    def head_is_late(self) -> None:
        """Close the connection; say why, if a part of a request has arrived."""
        self.head_timer = None
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            return
        if self.conn.trailing_data[0]:
            self.refuse(408)
        else:
            self.transport.close()

    def pause_writing(self) -> None:
        """Watch a client that does not read as fast as it is sent data."""
        super().pause_writing()
        self.watch_writing(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Stop watching: everything was taken."""
        self.write_timer = stopped(self.write_timer)
        super().resume_writing()

    def watch_writing(self, size: int) -> None:
        """Compare the unsent bytes with `size` after a while."""
        self.write_timer = stopped(self.write_timer)
        self.write_timer = self.loop.call_later(self.limits.write, self.check_writing, size)

    def check_writing(self, before: int) -> None:
        """Drop the connection if the client has not taken a byte."""
        now = self.transport.get_write_buffer_size()
        if now and now >= before:
            self.transport.abort()
        elif now:
            self.watch_writing(now)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; called while the error of h11 is being handled."""
        error = sys.exc_info()[1]
        self.refuse(431 if getattr(error, "error_status_hint", 400) == 431 else 400)

    def refuse(self, status: int) -> None:
        """Answer without the application, and close the connection a little later.

        The client gets `limits.linger` seconds to read the answer: see `refused.answer`.
        """
        reason, code, message = REASONS[status]
        body = json.dumps(error_body("/", status, LdmrefError(message, code=code))).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        if status == 503:
            headers.append((b"retry-after", b"5"))
        # h11's state may not allow a response, for example after an error in a pipelined request.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(
                status_code=status, headers=secured(headers, "/-"), reason=reason
            )
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(cast(bytes, self.conn.send(event)))
        self.transport.write_eof()
        self.close_timer = self.loop.call_later(self.limits.linger, self.transport.close)

    def shutdown(self) -> None:
        """Close the connection, after the answer that is being written."""
        if self.close_timer is not None:
            self.transport.close()
        else:
            super().shutdown()


def stopped(timer: asyncio.TimerHandle | None) -> None:
    """Cancel a timer; return None, to be kept in its place."""
    if timer is not None:
        timer.cancel()
