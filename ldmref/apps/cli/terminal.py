"""Images in a terminal: the protocol that it understands, and the bytes that show an image.

Sources: the terminal graphics protocol of kitty
(https://sw.kovidgoyal.net/kitty/graphics-protocol/) and sixel, chapter 14 of DEC's VT330/VT340
Programmer Reference Manual.
"""

from __future__ import annotations

import base64
import io
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import numpy as np
from PIL import Image

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
