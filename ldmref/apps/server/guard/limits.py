"""Times and numbers that a client cannot exceed."""

from __future__ import annotations

import sys
from dataclasses import dataclass

DESCRIPTORS_KEPT = 64  # for files, the listening socket, and connections that are refused


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of connections that few servers need to change.

    Args:
        chunk: Seconds that may pass without a byte of a body.
        write: Seconds in which a client must take a part of an answer (64 KiB), so that the next
            one can be sent.
        linger: Seconds for which the rest of a refused body is read and thrown away, to let the
            client finish writing and read the answer.
        keep_alive: Seconds for which an idle connection stays open between two requests.
        held: Bodies of the greatest size that all requests together may hold in memory.
        head_size: Bytes of the head of a request.

    >>> from ldmref.apps.server.guard import Limits
    >>> Limits(chunk=5.0).head_size
    65536
    """

    chunk: float = 15.0
    write: float = 60.0
    linger: float = 3.0
    keep_alive: float = 15.0
    held: int = 4
    head_size: int = 65_536


def connections_allowed(wanted: int) -> int:
    """Return the number of connections at a time: `wanted`, or fewer where files are limited."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - DESCRIPTORS_KEPT))
