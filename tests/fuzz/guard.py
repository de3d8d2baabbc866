"""Conditions that must hold for every input of every target."""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ldmref.errors import LdmrefError

Mutator = Callable[[bytes, random.Random], bytes]
SECONDS = 5.0  # of processor time for one input
MEGABYTES = 512  # by which one input may raise the peak of the process
CODE = re.compile(r"E(-[A-Z0-9]+)+")
SCRATCH = Path(
    tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
)
REPOSITORY = Path(__file__).parents[2]
# Paths that a reader may open in addition to its input: the code itself.
READABLE = tuple(
    {
        *(os.path.realpath(path) for path in sysconfig.get_paths().values()),
        *(os.path.realpath(path) for path in (sys.prefix, sys.base_prefix, SCRATCH, REPOSITORY)),
        *(os.path.realpath(path) for path in sys.path if path.endswith("-packages")),
        "/proc/self",
        "/sys/devices/system/cpu",
    }
)
INPUTS = f"{SCRATCH}/"
WRITTEN = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    "socket.",
    "subprocess.",
    "pty.",
    "ftplib.",
    "http.",
    "urllib.",
    "smtplib.",
    "webbrowser.",
    "shutil.",
    "pickle.find_class",
    "ctypes.dlopen",
    "os.chmod",
    "os.chown",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.link",
    "os.mkdir",
    "os.posix_spawn",
    "os.putenv",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.spawn",
    "os.symlink",
    "os.system",
    "os.truncate",
    "os.unsetenv",
)


class Broken(AssertionError):
    """An input did what none may do."""


@dataclass(frozen=True)
class Target:
    """One reader.

    Args:
        run: reads what `prepare` returns; raises `LdmrefError` or nothing, and `AssertionError`
            where an oracle disagrees.
        seeds: valid inputs to begin with.
        prepare: from the bytes to the argument of `run`, such as a file that holds them.
        mutate: changes an input with knowledge of its format; None for changes of bytes alone.
        words: tokens of the format.
    """

    run: Callable[[Any], object]
    seeds: Callable[[], list[bytes]]
    prepare: Callable[[bytes], Any] = bytes
    mutate: Mutator | None = None
    words: tuple[bytes, ...] = ()


def file(name: str) -> Callable[[bytes], Path]:
    """Prepare a file of that name."""
    path = SCRATCH / name

    def prepare(data: bytes) -> Path:
        path.write_bytes(data)
        return path

    return prepare


def text(data: bytes) -> str:
    """Prepare text, at most as long as a prompt may be."""
    return data.decode("utf-8", "replace")[:4000]


_armed = False


@cache
def _forbidden(event: str) -> bool:
    return event.startswith(FORBIDDEN)


def _readable(path: Any) -> bool:
    if isinstance(path, str) and path.startswith(INPUTS) and ".." not in path:
        return True  # where a target makes no links
    return isinstance(path, int) or os.path.realpath(path).startswith(READABLE)


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    global _armed
    if not _armed:
        return
    if event == "open":
        path, _, flags = arguments
        wrong = bool(flags & WRITTEN) or not _readable(path)
    else:
        wrong = _forbidden(event)
    if wrong:
        _armed = False  # the report itself opens files
        raise Broken(f"{event}{arguments!r:.200}")


sys.addaudithook(_audit)


@contextmanager
def armed() -> Iterator[None]:
    """Nothing is written, nothing but the input and the code is read, no socket, no process."""
    global _armed
    _armed = True
    try:
        yield
    finally:
        _armed = False


def check(target: Target, data: bytes) -> None:
    """Run one input.

    Raises:
        Broken: it took too long or too much memory, or touched what it must not; or the error has
            no code, or is more than a line.
        Exception: whatever else the target raised.
    """
    global _armed
    argument = target.prepare(data)
    peak, start = _used()
    try:
        _armed = True
        try:
            target.run(argument)
        finally:
            _armed = False
    except LdmrefError as error:
        text = f"{error}{error.hint}"
        if not CODE.fullmatch(error.code) or not str(error) or len(text) > 5000:
            raise Broken(f"code {error.code!r}, {len(text)} characters") from error
        if any(character in text for character in "\n\r\0\x1b"):
            raise Broken(f"not one line: {text!r:.300}") from error
    peak_after, end = _used()
    seconds = end - start
    megabytes = (peak_after - peak) / 1024
    if seconds > SECONDS or megabytes > MEGABYTES + 16 * len(data) / 2**20:
        raise Broken(f"{len(data)} bytes took {seconds:.1f} s and {megabytes:.0f} MB")


def _used() -> tuple[int, float]:
    """Return the process' peak of memory, in KiB, and seconds of processor time."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_maxrss, usage.ru_utime + usage.ru_stime


@contextmanager
def deadline(seconds: int) -> Iterator[None]:
    """Raise `Broken` when so much time has passed; in the main thread alone."""

    def stop(*_: object) -> None:
        raise Broken(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
