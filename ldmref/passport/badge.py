"""A badge of a verdict: JSON for shields.io, and SVG, with the kit's version and hash."""

from __future__ import annotations

import json
from pathlib import Path
from xml.sax.saxutils import escape

from ldmref.io.atomic import atomic_write
from ldmref.passport.check import PASSES, Verdict

COLOURS = {PASSES: "#4c1", "incomplete": "#dfb317", "differs": "#e05d44"}
GREY = "#9f9f9f"
ENDINGS = (".json", ".svg")
LABEL = "ldmref passport"
WIDTH = 6.6  # of a character, in pixels, of Verdana in 11
SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img">
<title>{title}</title>
<rect width="{left}" height="20" fill="#555"/>
<rect x="{left}" width="{right}" height="20" fill="{colour}"/>
<g fill="#fff" text-anchor="middle" font-family="Verdana,Geneva,sans-serif" font-size="11">
<text x="{first}" y="14">{label}</text>
<text x="{second}" y="14">{message}</text>
</g>
</svg>
"""


def badge_json(verdict: Verdict) -> str:
    """Return the badge as https://shields.io/badges/endpoint-badge reads it."""
    row = {
        "schemaVersion": 1,
        "label": f"{LABEL} {verdict.kit}",
        "message": verdict.message,
        "color": COLOURS.get(verdict.verdict, GREY),
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def badge_svg(verdict: Verdict) -> str:
    """Return the badge as a picture, whose title holds the whole digest of the kit."""
    label = f"{LABEL} {verdict.kit}"
    left, right = (round(WIDTH * len(text)) + 12 for text in (label, verdict.message))
    return SVG.format(
        width=left + right,
        left=left,
        right=right,
        first=left / 2,
        second=left + right / 2,
        colour=COLOURS.get(verdict.verdict, GREY),
        label=escape(label),
        message=escape(verdict.message),
        title=escape(f"{label}: {verdict.message}; kit {verdict.digest}"),
    )


def write_badge(verdict: Verdict, path: Path, overwrite: bool = False) -> list[Path]:
    """Write the badge of a verdict, as JSON for shields.io and as SVG.

    Args:
        verdict: The verdict.
        path: The files' name without ending; one of these endings is left out.
        overwrite: Whether to replace existing files.

    Returns:
        Both files.

    Raises:
        OutputError: A file exists, or cannot be written.

    >>> import tempfile
    >>> from ldmref.locate import DiffReport, Row
    >>> report = DiffReport((Row("vae.decode", "decoder.conv_in"),))
    >>> verdict = Verdict("sd15 2.0 (0f3a)", "0f3a", report, 1, 1, ())
    >>> [file.suffix for file in write_badge(verdict, Path(tempfile.mkdtemp()) / "badge")]
    ['.json', '.svg']
    """
    files = badge_files(path)
    for file, text in zip(files, (badge_json(verdict), badge_svg(verdict)), strict=True):
        with atomic_write(file, overwrite=overwrite) as stream:
            stream.write(text.encode())
    return files


def badge_files(path: Path) -> list[Path]:
    """Return the two files of a badge."""
    base = path.with_suffix("") if path.suffix in ENDINGS else path
    return [base.with_name(base.name + ending) for ending in ENDINGS]
