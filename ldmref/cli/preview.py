"""The image while it is generated: in the terminal, or in a file that is replaced."""

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

from ldmref.cli.progress import say
from ldmref.cli.terminal import KITTY, cell_height, image_protocol, kitty_bytes, sixel_bytes
from ldmref.errors import LdmrefError, OutputError, one_line
from ldmref.io.atomic import atomic_write
from ldmref.io.images.metadata import check_target
from ldmref.modes.generate import Progress, decode_images

SHARE = 3.0  # times as long as a preview takes, none is made
ROWS = 14  # lines of text that a preview covers
MOST = 4  # images of a batch, side by side
SMALLEST = 256  # pixels of the side of a preview; smaller images are enlarged by an integer


class Preview:
    """The predicted clean image x0 after a step, as often as it costs at most a quarter of the
    time."""

    def __init__(self) -> None:
        self._next = 0.0

    def show(self, progress: Progress) -> None:
        """Show what the batch is expected to become; skipped if the last one was just now."""
        start = time.monotonic()
        if start < self._next:
            return
        with suppress(LdmrefError):  # one that cannot be decoded, or written, stops nothing
            images = decode_images(progress.model, progress.x0[:MOST])
            self.put(side_by_side(images))
        now = time.monotonic()
        self._next = now + SHARE * (now - start)

    def end(self, image: Image.Image) -> None:
        """Show an image that is finished."""
        with suppress(LdmrefError):
            self.put(side_by_side([image]))

    def put(self, image: Image.Image) -> None:
        """Put an image in the place of the last one."""
        raise NotImplementedError


class FilePreview(Preview):
    """In a file, which is replaced as a whole."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path

    def put(self, image: Image.Image) -> None:
        """Replace the file."""
        kind = check_target(self.path, overwrite=True)
        with atomic_write(self.path, overwrite=True) as file:
            image.save(file, kind)


class TerminalPreview(Preview):
    """In the terminal, above the progress bar, in one place until the image is finished."""

    def __init__(self, protocol: str):
        super().__init__()
        self.protocol = protocol
        self.number = os.getpid() % 0xFFFF * 0x100 + 1  # others' images have others
        self.rows = 0  # of the block on the screen; 0: none yet

    def put(self, image: Image.Image) -> None:
        """Show it over the last one. Lines are made at first, so that nothing scrolls later."""
        if self.protocol == KITTY:
            rows = ROWS
            data = kitty_bytes(image, self.number, rows)
        else:
            rows = math.ceil(image.height / cell_height())
            data = sixel_bytes(image)
        if not self.rows:
            self.rows = rows
            self._write(b"\n" * rows)
        # up to the block's first line, the image, and back below the block
        self._write(b"\x1b[%dA\r\x1b7" % self.rows + data + b"\x1b8\x1b[%dB\r" % self.rows)

    def end(self, image: Image.Image) -> None:
        """Show the finished image, which stays; the next one stands below."""
        super().end(image)
        self.rows = 0
        self.number += 1

    def _write(self, data: bytes) -> None:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            sys.stderr.buffer.write(data)
            sys.stderr.buffer.flush()


def side_by_side(images: list[Image.Image]) -> Image.Image:
    """Images in a row, small ones enlarged by an integer."""
    scale = max(1, SMALLEST // max(images[0].size))
    width = images[0].width * scale
    height = images[0].height * scale
    row = Image.new("RGB", (width * len(images), height))
    for i, image in enumerate(images):
        row.paste(image.resize((width, height), Image.Resampling.NEAREST), (i * width, 0))
    return row


@contextmanager
def previewing(flags: dict[str, Any]) -> Iterator[Preview | None]:
    """The preview that `--preview` and `--preview-file` ask for, or None.

    Without a terminal that shows images, `--preview` uses a file in a folder of its own, which is
    removed at the end.

    Raises:
        OutputError: the file cannot be written.
    """
    if flags["preview_file"]:
        path = Path(flags["preview_file"])
        check_target(path, overwrite=True)
        yield FilePreview(path)
        return
    if not flags["preview"]:
        yield None
        return
    protocol = image_protocol(os.environ)
    if protocol:
        yield TerminalPreview(protocol)
        return
    try:
        folder = tempfile.TemporaryDirectory(prefix="ldmref-", ignore_cleanup_errors=True)
    except OSError as error:
        message = f"no file for the preview can be made: {error.strerror}"
        hint = "name one with --preview-file"
        raise OutputError(message, code="E-WRITE", hint=hint) from error
    with folder as name:
        path = Path(name) / "preview.png"
        say(one_line(f"ldmref: preview: {path}, until the command ends"))
        yield FilePreview(path)
