"""Colours for light and dark schemes, the style sheet of a drawing, and the widths of letters."""

from __future__ import annotations

import re

# What a colour stands for: data and their latents, noise, text, and everything that computes. `red`
# is that of a heart in a picture.
TONES = ("data", "noise", "text", "net")
LIGHT = {
    "paper": "#ffffff",
    "ink": "#1c2127",
    "muted": "#545d68",
    "data": "#0b57a4",
    "noise": "#a14405",
    "text": "#12694b",
    "net": "#4b5563",
    "red": "#bf2638",
    "data-tint": "#e2eefa",
    "noise-tint": "#fcecdc",
    "text-tint": "#dcf2e7",
    "net-tint": "#eef0f3",
}
DARK = {
    "paper": "#15191e",
    "ink": "#e9ecf0",
    "muted": "#adb6c1",
    "data": "#84baf4",
    "noise": "#f0a76f",
    "text": "#74d0a8",
    "net": "#b4bdc9",
    "red": "#f28b97",
    "data-tint": "#1b3149",
    "noise-tint": "#42291a",
    "text-tint": "#183a2d",
    "net-tint": "#272d35",
}
SANS = "system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif"
SERIF = "'STIX Two Text','Times New Roman',Times,serif"

# Widths of letters in hundredths of the size, of DejaVu Sans: no usual font is wider, so what fits
# here fits everywhere.
WIDTHS = {
    "\u0302": 0, "'": 27, "iIjJl": 29, " ,.·": 32, "/:;f|": 35, "-": 36, "()[]t": 39, "!rℓ²³": 41,
    '"_*': 50, "cszk?": 56, "xyvE": 60, "aoePTYLFθεγλ": 62, "bdghnpquσμβαφ0123456789": 64,
    "ABVKRSXZΣ√": 69, "CU": 73, "DGHNOQ": 79, "w": 82, "+=<>~−×÷→←↓↑∼": 84, "M∅∈": 87, "m%": 97,
    "W@…": 100,
}  # fmt: skip
WIDTH_OF = {letter: width / 100 for letters, width in WIDTHS.items() for letter in letters}
WIDEST_OTHER = 0.7
SMALLER = 0.78  # an index, relative to its text
WIDER = 1.2  # italic letters with serifs
BOLDER = 1.15

MARKS = re.compile(
    r"\*(?P<math>[^*]+)\*|_\{(?P<sub>[^}]+)\}|\^\{(?P<sup>[^}]+)\}|(?P<plain>[^*_^]+)"
)


def width_of(markup: str, size: float, strong: bool = False) -> float:
    """Return at most how wide a text is, in units."""
    total = 0.0
    for part in MARKS.finditer(markup):
        letters = part[part.lastgroup or 0]
        factor = {"sub": SMALLER, "sup": SMALLER}.get(part.lastgroup or "", 1.0)
        factor *= 1.0 if part.lastgroup == "plain" else WIDER
        total += factor * sum(WIDTH_OF.get(letter, WIDEST_OTHER) for letter in letters)
    return total * size * (BOLDER if strong else 1.0)


def style_sheet(used: set[str]) -> str:
    """Return the style of a drawing: rules for its classes, and the dark colours."""
    fixed = (
        f".drawing text{{font-family:{SANS}}}"
        ".drawing .strong{font-weight:600}"
        f".drawing .math{{font-family:{SERIF};font-style:italic}}"
        ".drawing .line{fill:none;stroke-width:2;stroke-linecap:round;stroke-linejoin:round}"
        ".drawing .thin{stroke-width:1.5}"
        ".drawing .dashed{stroke-dasharray:5 4.5}"
    )
    dark = f"@media (prefers-color-scheme:dark){{{_colours(DARK, used)}}}"
    return fixed + _colours(LIGHT, used) + dark


def _colours(scheme: dict[str, str], used: set[str]) -> str:
    rules = []
    for name in sorted(used):
        kind, _, colour = name.partition("-")
        rules.append(f".drawing .{name}{{{kind}:{scheme[colour]}}}")
    return "".join(rules)


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2.2 defines it, from 1 to 21."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
