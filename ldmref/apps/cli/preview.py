"""Previews of an image while it is generated: in the terminal, or in a file that is updated."""

from __future__ import annotations

import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from PIL import Image

from ldmref.apps.cli.progress import say
from ldmref.apps.cli.terminal import KITTY, detect_protocol, kitty_bytes, line_height, sixel_bytes
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
