"""Limits that keep a fault from hurting the machine: memory of the process, and time."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

MEMORY = 3 << 30
SECONDS = 300


@contextlib.contextmanager
def limited(memory: int = MEMORY, seconds: int = SECONDS) -> Iterator[None]:
    """`memory` bytes more than now, and `seconds`; without effect off Linux."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {seconds} s")

    status = Path("/proc/self/statm")
    if not status.exists() or threading.current_thread() is not threading.main_thread():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(status.read_text().split()[0]) * resource.getpagesize()
    room = used + memory if hard == resource.RLIM_INFINITY else min(used + memory, hard)
    previous = signal.signal(signal.SIGALRM, late)
    resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
