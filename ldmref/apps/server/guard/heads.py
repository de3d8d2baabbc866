"""Heads of requests that are too large to be read: uvicorn's protocol with an answer for them."""

from __future__ import annotations

import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ldmref.apps.server.errors import refusal
from ldmref.apps.server.guard.limits import Limits
from ldmref.apps.server.guard.refused import too_large

PATH_SHOWN = 200  # bytes of a target, enough to know which interface owns it


def make_protocol(limits: Limits) -> type[H11Protocol]:
    """Return a protocol that answers a head of any size, and lets the client read the answer.

    uvicorn answers 400 and closes the connection. What the client still sends is then unread, so
    the connection is reset, and most clients see no answer.

    Args:
        limits: `head_size`, for the message, and `linger`, the seconds for which the rest of the
            head is read and thrown away.
    """

    class PatientProtocol(H11Protocol):
        refused = False

        def data_received(self, data: bytes) -> None:
            if not self.refused:
                super().data_received(data)

        def eof_received(self) -> None:
            if self.refused:
                self.transport.close()

        def send_400_response(self, msg: str) -> None:
            error = sys.exc_info()[1]  # uvicorn calls this where it handles the error
            status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
            if status != 431 or self.conn.our_state is not h11.IDLE:
                super().send_400_response(msg)
                return
            self.refused = True
            received = bytes(self.conn.trailing_data[0])
            words = received[: 16 + PATH_SHOWN].split(b" ", 2)
            path = words[1].partition(b"?")[0] if len(words) > 1 else b"/"
            refused = too_large(b"\n" not in received, limits.head_size)
            response = refusal(path.decode("latin-1"), refused.status, refused.error)
            headers = [*response.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=refused.status, headers=headers),
                h11.Data(data=bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.write_eof()
            self.loop.call_later(limits.linger, self.transport.close)

    return PatientProtocol
