"""Images side by side, and the small page that a notebook shows of them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import islice
from typing import Any

from PIL import Image

from ldmref.errors import UsageError, counted, short_repr
from ldmref.io.images.metadata import encode_png

IN_A_ROW = 4  # images, at most, in a grid of one row
MOST_SHOWN = 24  # images of a page
WIDTH = 256  # px of an image on a page, at most
LONGEST = 400  # letters of a prompt on a page


def arrange(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Return images in rows, without gaps, in cells as large as the largest image.

    Args:
        images: At least one image.
        columns: The number of columns; None: one row of up to four images, otherwise about square.

    Raises:
        UsageError: `images` is empty, or `columns` is not a positive integer.
    """
    if not images:
        raise UsageError("a grid needs at least one image", code="E-GRID")
    if columns is None:
        n = len(images)
        columns = n if n <= IN_A_ROW else math.ceil(math.sqrt(n))
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        message = f"columns must be a whole number of at least 1, not {short_repr(columns)}"
        raise UsageError(message, code="E-GRID")
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    width = max(image.width for image in images)
    height = max(image.height for image in images)
    if len(images) <= columns:  # a row needs no cells
        lefts = [sum(image.width for image in images[:i]) for i in range(len(images) + 1)]
    else:
        lefts = [i * width for i in range(columns + 1)]
    sheet = Image.new("RGB", (lefts[-1], rows * height))
    for i, image in enumerate(images):
        sheet.paste(image, (lefts[i % columns], i // columns * height))
    return sheet


def to_html(
    title: str,
    images: Sequence[Image.Image],
    captions: Sequence[str],
    records: Sequence[Mapping[str, Any]],
    warnings: Sequence[str],
) -> str:
    """Return a page of images with captions and warnings, as HTML without scripts.

    All text is escaped, and images are part of the page. At most 24 images are shown.

    Args:
        title: The first line.
        images: The images.
        captions: A line below each.
        records: The parameters of each image. The image records them, so a copy of it can be made
            again; its prompt is the alternative text, and is also shown if prompts differ.
        warnings: Lines below the images.
    """
    figures = []
    prompts = [str(record.get("prompt") or "") for record in records]
    shown = zip(images, captions, records, prompts, strict=True)
    for image, caption, record, prompt in islice(shown, MOST_SHOWN):
        known = record if "mode" in record else None
        data = base64.b64encode(encode_png(image, known)).decode("ascii")
        if len({*prompts}) > 1:
            caption = f"{prompt}, {caption}"
        width = min(image.width, WIDTH) if image.width >= WIDTH // 2 else image.width * 2
        figures.append(
            '<figure style="margin:0">'
            f'<img style="display:block;margin:auto" width="{width}" alt="{_text(prompt)}" '
            f'src="data:image/png;base64,{data}">'
            f'<figcaption style="text-align:center;max-width:{max(width, 128)}px">'
            f"{_text(caption)}</figcaption></figure>"
        )
    lines = [f"<li>{_text(line)}</li>" for line in warnings]
    if len(images) > MOST_SHOWN:
        lines.append(f"<li>{counted(len(images) - MOST_SHOWN, 'further image')}</li>")
    notes = f'<ul style="margin:0.5em 0">{"".join(lines)}</ul>' if lines else ""
    sheet = '<div style="display:flex;flex-wrap:wrap;gap:8px;margin:0.5em 0">'
    return f"<div><div>{_text(title)}</div>{sheet}{''.join(figures)}</div>{notes}</div>"


def _text(text: str) -> str:
    """Return text for HTML, shortened; lone surrogates are replaced."""
    short = text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
    return escape(short.encode("utf-8", "replace").decode("utf-8"))
