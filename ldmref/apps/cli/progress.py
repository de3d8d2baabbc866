"""Console output of long commands: lines on stderr, a progress bar, and handling of Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import click

from ldmref.errors import Cancelled
from ldmref.errors import duration as duration
from ldmref.errors import one_line as one_line

STYLES = ("auto", "bar", "plain", "none")
_WIDTH = 24


def say(text: str) -> None:
    """Print one line on stderr; ignore it if it cannot be written.

    Text of a file, a user or a package may hold characters that a terminal obeys: they are escaped.
    """
    _write(one_line(text) + "\n")


def print_line(text: str, heading: str = "") -> None:
    """Print one line on standard output, escaped as by `say`, behind a heading in bold letters."""
    click.echo((click.style(one_line(heading), bold=True) if heading else "") + one_line(text))


def _write(text: str) -> None:
    with suppress(OSError):
        click.echo(text, err=True, nl=False)


class Stopped(KeyboardInterrupt):
    """Raised by SIGTERM, and by the second Ctrl-C or SIGTERM within `stopping`: stop at once."""

    def __init__(self, exit_code: int):
        super().__init__()
        self.exit_code = exit_code


class Stop(threading.Event):
    """Set by the first SIGINT or SIGTERM; `exit_code` is then 130 or 143."""

    exit_code = 0


@contextmanager
def ending() -> Iterator[None]:
    """Raise `Stopped` at SIGTERM, so what a command leaves half done is removed.

    Without a handler the process would end at once. Handlers of the caller are kept.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        raise Stopped(128 + number)

    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def stopping() -> Iterator[Stop]:
    """Yield an event that a first SIGINT or SIGTERM sets; a second one raises `Stopped`.

    A `Cancelled` that leaves the block has the exit code of the signal, 130 or 143.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise Stopped(128 + number)
        stop.exit_code = 128 + number
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread can handle signals
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    except Cancelled as error:
        error.exit_code = stop.exit_code or error.exit_code
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class ProgressBar:
    """Progress as a bar on one line (`bar`), as lines (`plain`), or not at all (`none`)."""

    def __init__(self, style: str = "auto"):
        self.style = style
        if style == "auto":
            self.style = "bar" if sys.stderr.isatty() else "none"
        self.start = time.monotonic()
        self.shown = False

    def update(
        self, step: int, steps: int, image: int, images: int, what: str = "", unit: str = "steps"
    ) -> None:
        """Show `step` of `steps` of the batch whose first image is `image` (from 0)."""
        done = (image * steps + step) / (images * steps)
        left = (time.monotonic() - self.start) * (1 - done) / done
        text = f"{step}/{steps} {unit}, {duration(left)} left"
        if images > 1:
            text = f"image {image + 1}/{images}, {text}"
        if what:
            text = f"{one_line(what)}, {text}"
        if self.style == "bar":
            full = round(_WIDTH * done)
            self._write(f"\r[{'#' * full}{'.' * (_WIDTH - full)}] {text}\x1b[K")
        elif self.style == "plain" and (step == steps or step % max(1, steps // 10) == 0):
            self._write(text + "\n")

    def clear(self) -> None:
        """Erase the bar before other output."""
        if self.style == "bar" and self.shown:
            self._write("\r\x1b[K")
            self.shown = False

    def _write(self, text: str) -> None:
        self.shown = True
        _write(text)
