"""Draw a family: its text encoders, its denoiser with its blocks, and its autoencoder."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import family_facts

if TYPE_CHECKING:
    from family_facts import Facts

    from ldmref.models.params import Shape, Spec

WIDTH, LINE, GAP = 940, 19, 14
COLUMNS = {"text": (10, 250), "denoiser": (345, 290), "image": (720, 210)}  # left, width
STYLE = """\
<style>
:root { color-scheme: light dark; }
rect { fill: light-dark(#f6f7f9, #22262c); stroke: light-dark(#8a94a3, #7c8797); }
.part { fill: light-dark(#e4eaf3, #2f3945); }
text { font: 13px system-ui, sans-serif; fill: light-dark(#1d232b, #e6e9ee); }
.title { font-weight: 600; }
.role { font-size: 12px; fill: light-dark(#4b5563, #aeb7c4); }
path { stroke: light-dark(#5b6675, #9aa5b5); fill: none; stroke-width: 1.5; }
marker path { fill: light-dark(#5b6675, #9aa5b5); stroke: none; }
</style>
<defs><marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>"""


def box(column: str, top: int, title: str, lines: list[str], parts: bool = False) -> str:
    """Return a box with a title and lines below it; each line in a box, if they are parts."""
    left, width = COLUMNS[column]
    height = box_height(lines, parts)
    out = [f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6"/>']
    out.append(write(left + 12, top + 22, title, "title"))
    step = LINE + (8 if parts else 0)
    for i, line in enumerate(lines):
        y = top + 42 + i * step
        if parts:
            out.append(
                f'<rect class="part" x="{left + 10}" y="{y - 10}" width="{width - 20}" '
                f'height="{LINE + 3}" rx="4"/>'
            )
        out.append(write(left + (18 if parts else 12), y + (5 if parts else 0), line))
    return "\n".join(out)


def box_height(lines: list[str], parts: bool = False) -> int:
    return 34 + len(lines) * (LINE + (8 if parts else 0))


def write(x: int, y: int, text: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}"{kind}>{escape(text)}</text>'


def arrow(x: int, y: int, x_end: int, y_end: int) -> str:
    middle = (x + x_end) // 2
    return (
        f'<path d="M{x} {y}C{middle} {y} {middle} {y_end} {x_end} {y_end}" marker-end="url(#end)"/>'
    )


def is_list_of_blocks(tree: Spec | Shape) -> bool:
    """Return whether children are numbered and have parts, unlike those of a sequence of layers."""
    if not isinstance(tree, dict) or not all(key.isdigit() for key in tree):
        return False
    blocks = [child for child in tree.values() if isinstance(child, dict)]
    return any(isinstance(part, dict) for block in blocks for part in block.values())


def describe_blocks(facts: Facts) -> list[str]:
    """Return the top parts of the denoiser with the number of blocks of a list."""
    spec = facts.network.spec()
    lines = []
    for name, tree in spec.items():
        lines.append(f"{len(tree)} x {name}" if is_list_of_blocks(tree) else name)
    return lines


def draw(facts: Facts) -> str:
    """Return the drawing of the first published model as SVG."""
    config = facts.published[facts.first]
    vae = config.vae
    encoders = []
    for i, encoder in enumerate(config.text_encoders):
        name, kind, layers, width, _, tokens, _ = family_facts.describe_encoder(i, encoder)
        encoders.append(
            (name.strip("`"), [f"{kind}, {layers} layers of {width}", f"{tokens} tokens"])
        )
    blocks = describe_blocks(facts)
    tall = box_height(blocks, parts=True)
    texts = sum(box_height(lines) + GAP for _, lines in encoders) - GAP
    roles = [x.role for x in facts.network.inputs]
    low = max(tall, texts + GAP + 24 + LINE * len(roles)) + 20
    left, width = COLUMNS["denoiser"]
    parts = [STYLE, box("denoiser", 10, f"{facts.network.name} of {facts.first}", blocks, True)]
    y = 10
    for name, lines in encoders:
        parts.append(box("text", y, name, lines))
        height = box_height(lines)
        parts.append(arrow(260, y + height // 2, left, min(y + height // 2, tall - 10)))
        y += height + GAP
    parts.append(write(COLUMNS["text"][0], y + 16, "The denoiser reads:", "role"))
    for i, role in enumerate(roles):
        parts.append(write(COLUMNS["text"][0] + 10, y + 16 + LINE * (i + 1), role, "role"))
    latents = [f"{vae.latent_channels} x h x w", f"a cell is {vae.factor} x {vae.factor} pixels"]
    parts.append(box("image", 10, "latents", latents))
    parts.append(arrow(left + width, 46, COLUMNS["image"][0], 46))
    top = 10 + box_height(latents) + 40
    decoder = [family_facts.title_of(vae), f"{vae.out_channels} x {vae.factor} h x {vae.factor} w"]
    parts.append(box("image", top, "vae.decode", decoder))
    x = COLUMNS["image"][0] + COLUMNS["image"][1] // 2
    parts.append(arrow(x, 10 + box_height(latents), x, top))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {low}" '
        f'width="{WIDTH}" height="{low}" role="img">\n{body}\n</svg>\n'
    )
