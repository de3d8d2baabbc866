"""Previews of an image while it is generated: in the terminal, or in a file that is updated."""

from __future__ import annotations

import base64
import io
import math
import os
import re
import select
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ldmref.apps.cli.progress import say
from ldmref.errors import LdmrefError, OutputError, one_line
from ldmref.io.atomic import atomic_write
from ldmref.io.images.metadata import check_target
from ldmref.modes.observers import PreviewObserver

PAUSE = 3.0  # between two previews, in units of the time that a preview takes
ROWS = 14  # height of a preview in lines of text
MAX_IMAGES = 4  # of a batch, side by side
MIN_SIDE = 256  # px; smaller images are enlarged by an integer


class LivePreview(PreviewObserver):
    """The predicted clean image x0, updated as often as at most a quarter of the time allows."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self) -> None:
        """Show the predicted images of the batch, unless the last preview was too recent."""
        start = time.monotonic()
        if start < self._next:
            return
        with suppress(LdmrefError):  # a preview that fails must not stop the run
            self.put(side_by_side(self.images(MAX_IMAGES)))
        now = time.monotonic()
        self._next = now + PAUSE * (now - start)

    def end(self, image: Image.Image) -> None:
        """Show a finished image."""
        with suppress(LdmrefError):
            self.put(side_by_side([image]))

    def put(self, image: Image.Image) -> None:
        """Replace the last image by this one."""
        raise NotImplementedError


class FilePreview(LivePreview):
    """A preview in a file, which is replaced as a whole."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def put(self, image: Image.Image) -> None:
        """Replace the file."""
        kind = check_target(self.path, overwrite=True)
        with atomic_write(self.path, overwrite=True) as file:
            image.save(file, kind)


class TerminalPreview(LivePreview):
    """A preview in the terminal, above the progress bar, in one place until the image is done."""

    def __init__(self, protocol: str):
        super().__init__()
        self.protocol = protocol
        self.number = os.getpid() % 0xFFFF * 0x100 + 1  # differs from other processes' images
        self.rows = 0  # height of the preview on the screen; 0 if there is none yet

    def put(self, image: Image.Image) -> None:
        """Show an image over the last one; the first one also scrolls to make room."""
        if self.protocol == KITTY:
            rows = ROWS
            data = kitty_bytes(image, self.number, rows)
        else:
            rows = math.ceil(image.height / line_height())
            data = sixel_bytes(image)
        if not self.rows:
            self.rows = rows
            self._write(b"\n" * rows)
        # move up to the first line of the preview, show the image, move back below it
        self._write(b"\x1b[%dA\r\x1b7" % self.rows + data + b"\x1b8\x1b[%dB\r" % self.rows)

    def end(self, image: Image.Image) -> None:
        """Show the finished image, which stays; the next preview is below."""
        super().end(image)
        self.rows = 0
        self.number += 1

    def _write(self, data: bytes) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()


def side_by_side(images: list[Image.Image]) -> Image.Image:
    """Arrange images in a row, small ones enlarged by an integer."""
    scale = max(1, MIN_SIDE // max(images[0].size))
    width = images[0].width * scale
    height = images[0].height * scale
    row = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        row.paste(image.resize((width, height), Image.Resampling.NEAREST), (i * width, 0))
    return row


@contextmanager
def previewing(flags: dict[str, Any]) -> Iterator[LivePreview | None]:
    """Open the preview that `--preview` or `--preview-file` asks for; None without these flags.

    If the terminal cannot show images, `--preview` uses a file in a temporary folder, which is
    removed at the end.

    Raises:
        OutputError: The file cannot be written.
    """
    if flags["preview_file"]:
        path = Path(flags["preview_file"])
        check_target(path, overwrite=True)
        yield FilePreview(path)
        return
    if not flags["preview"]:
        yield None
        return
    protocol = detect_protocol(os.environ)
    if protocol:
        yield TerminalPreview(protocol)
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="ldmref-", ignore_cleanup_errors=True)
    except OSError as error:
        message = f"cannot create a file for the preview: {error.strerror}"
        hint = "name one with --preview-file"
        raise OutputError(message, code="E-WRITE", hint=hint) from error
    with folder as name:
        path = Path(name) / "preview.png"
        say(one_line(f"ldmref: preview: {path} (removed when the command ends)"))
        yield FilePreview(path)


# -- images in a terminal --------------------------------------------------------------------------


try:
    import termios
    import tty
except ImportError:  # Windows
    termios = tty = None

KITTY = "kitty"
SIXEL = "sixel"
NONE = ""
# A query for kitty graphics with an image of one pixel, then one that every terminal answers.
QUERY = b"\x1b_Gi=31,s=1,v=1,a=q,t=d,f=24;AAAA\x1b\\\x1b[c"
ATTRIBUTES = re.compile(rb"\x1b\[\?([\d;]*)c")
SIXEL_ATTRIBUTE = b"4"
TIMEOUT = 0.5  # seconds to wait for the answer
CHUNK_SIZE = 4096  # bytes of base64 in one escape sequence of kitty
MAX_COLOURS = 256  # of a sixel image


def detect_protocol(environ: Mapping[str, str]) -> str:
    """Return the protocol with which the terminal shows images: `kitty`, `sixel`, or "" if none.

    The terminal is queried, which takes at most half a second. It is not queried if the answer
    would get lost or be meaningless: without a terminal, within tmux and screen, and on consoles.
    """
    if termios is None or not sys.stderr.isatty():
        return NONE
    if environ.get("TERM", "dumb") in ("dumb", "linux") or {"TMUX", "STY"} & set(environ):
        return NONE
    answer = _query(QUERY)
    if b"_Gi=31;OK" in answer:
        return KITTY
    match = ATTRIBUTES.search(answer)
    return SIXEL if match and SIXEL_ATTRIBUTE in match[1].split(b";") else NONE


def _query(query: bytes) -> bytes:
    """Return the answer of the terminal up to its attributes, or b"" if it cannot be queried."""
    answer = b""
    with suppress(OSError), _raw_terminal() as file:
        os.write(file, query)
        end = time.monotonic() + TIMEOUT
        while not ATTRIBUTES.search(answer) and (left := end - time.monotonic()) > 0:
            if not select.select([file], [], [], left)[0]:
                break
            answer += os.read(file, 1024)
    return answer


@contextmanager
def _raw_terminal() -> Iterator[int]:
    """Open the controlling terminal without echo and without line buffering."""
    assert termios is not None and tty is not None
    file = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY)
    try:
        before = termios.tcgetattr(file)
        try:
            tty.setcbreak(file, termios.TCSANOW)
            yield file
        finally:
            termios.tcsetattr(file, termios.TCSANOW, before)
    except termios.error as error:
        raise OSError(str(error)) from error
    finally:
        os.close(file)


def kitty_bytes(image: Image.Image, number: int, rows: int) -> bytes:
    """Return the escape sequences of kitty that show an image `rows` lines high at the cursor.

    The cursor does not move, and an image with the same number is replaced.
    """
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    data = base64.standard_b64encode(buffer.getvalue())
    chunks = [data[i : i + CHUNK_SIZE] for i in range(0, len(data), CHUNK_SIZE)]
    escapes = []
    for i, chunk in enumerate(chunks):
        first = f"a=T,f=100,i={number},p=1,q=2,C=1,r={rows}," if i == 0 else ""
        more = int(i + 1 < len(chunks))
        escapes.append(b"\x1b_G" + f"{first}m={more};".encode() + chunk + b"\x1b\\")
    return b"".join(escapes)


def sixel_bytes(image: Image.Image) -> bytes:
    """Return the sixel sequence that shows an image at the cursor, in at most 256 colours.

    A sixel is a column of six pixels. For each band of six rows and each colour in it, there is one
    character per column: 63 plus one bit per pixel, the lowest bit at the top. "!n" repeats the
    next character n times.
    """
    quantized = image.convert("RGB").quantize(MAX_COLOURS)
    palette = np.asarray(quantized.getpalette() or [], np.int64).reshape(-1, 3)
    pixels = np.asarray(quantized)
    parts = [f'\x1bP0;1q"1;1;{image.width};{image.height}']
    for colour in np.unique(pixels):
        red, green, blue = (round(int(value) * 100 / 255) for value in palette[colour])
        parts.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, image.height, 6):
        band = pixels[top : top + 6]
        bits = (1 << np.arange(len(band)))[:, None]
        for colour in np.unique(band):
            sixels = ((band == colour) * bits).sum(axis=0)
            parts.append(f"#{colour}{_encode_runs(sixels)}$")
        parts.append("-")
    return ("".join(parts) + "\x1b\\").encode("ascii")


def _encode_runs(sixels: np.ndarray) -> str:
    """Encode sixels as characters, and shorten runs of more than three."""
    starts = np.flatnonzero(np.diff(sixels, prepend=-1))
    lengths = np.diff(starts, append=len(sixels))
    runs = []
    for start, length in zip(starts, lengths, strict=True):
        character = chr(63 + int(sixels[start]))
        runs.append(f"!{length}{character}" if length > 3 else character * int(length))
    return "".join(runs)


def line_height() -> int:
    """Return the height of a line of text in px, or 20 if the terminal does not report it."""
    with suppress(OSError, ImportError, ValueError):
        import fcntl
        import struct

        size = fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, b"\0" * 8)  # type: ignore
        rows, _, _, height = struct.unpack("HHHH", size)
        if rows and height // rows >= 4:
            return height // rows
    return 20
