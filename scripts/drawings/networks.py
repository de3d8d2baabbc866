"""Networks: the U-Net, and the two encoders that CLIP trains together."""

from __future__ import annotations

import numpy as np

from drawings.canvas import SIZE
from drawings.geometry import heart, polygon
from drawings.shapes import Drawing
from drawings.systems import cells, latent_size
from ldmref.models import ModelConfig, UNetConfig


def unet(config: ModelConfig) -> Drawing:
    """Draw the levels of the U-Net with its skip connections."""
    network = config.denoiser
    assert isinstance(network, UNetConfig)
    skips = network.layers_per_block + 1
    widths = network.block_out_channels
    sides = [cells(config) // 2**i for i in range(len(widths))]
    levels = ", ".join(f"{c} channels of {n} × {n}" for c, n in zip(widths, sides, strict=True))
    step, top, height = 106.0, 68.0, 76.0
    bottom = top + step * len(widths)
    drawing = Drawing(
        "The U-Net: down, up, and across",
        f"The noisy latent, {latent_size(config)}, goes down on the left side through "
        f"{len(widths)} levels: {levels}. A middle block follows, and the right side goes up "
        f"through the same levels to a prediction of the same shape. At each level {skips} skip "
        "connections lead from the left to the right side. Every level sees the time t; the levels "
        "with attention and the middle see the text c as well.",
        bottom + 106,
    )
    left, right, wide = 18.0, 252.0, 130.0
    for x, name in ((left, "noisy latent"), (right, "prediction")):
        drawing.text(x + wide / 2, 24, name, size=SIZE, strong=True)
        drawing.text(x + wide / 2, 42, latent_size(config))
    drawing.arrow((left + wide / 2, 48), (left + wide / 2, top - 2))
    drawing.arrow((right + wide / 2, top), (right + wide / 2, 50))
    for i, (channels, side) in enumerate(zip(widths, sides, strict=True)):
        y = top + step * i
        sees = "sees *t* and *c*" if network.attention_levels[i] else "sees *t*"
        for x in (left, right):
            lines = (f"{side} × {side}", f"{channels} channels", sees)
            drawing.box(x, y, wide, height, *lines)
        drawing.arrow((left + wide, y + 38), (right - 2, y + 38), tone="data", dashed=True)
        drawing.text(200, y + 30, f"{skips} skips", tone="data")
        if i + 1 < len(widths):
            drawing.arrow((left + 65, y + height), (left + 65, y + step - 2))
            drawing.arrow((right + 65, y + step), (right + 65, y + height + 2))
            drawing.text(left + 77, y + height + 20, "halve", anchor="start", tone="muted")
            drawing.text(right + 53, y + height + 20, "double", anchor="end", tone="muted")
    down = bottom - step + height
    drawing.box(120, bottom, 160, 76, "middle", f"{widths[-1]} channels", "sees *t* and *c*")
    drawing.arrow((left + 65, down), (left + 65, bottom + 38), (118, bottom + 38))
    drawing.arrow((280, bottom + 38), (right + 65, bottom + 38), (right + 65, down + 2))
    drawing.text(200, bottom + 96, "*t*: time, *c*: text, by cross-attention", tone="muted")
    return drawing


def clip(config: ModelConfig) -> Drawing:
    """Draw the table of all pairs of a batch in contrastive training."""
    del config  # the embedded model trains its text encoder with the U-Net
    things = ("heart", "star", "square", "circle")
    n = len(things)
    drawing = Drawing(
        "Contrastive training: each image finds its caption",
        f"A table of {n} captions, its rows, and {n} images, its columns. The image encoder makes "
        "a vector a of each image, the text encoder a vector b of each caption. A cell is the dot "
        "product of both. The cells of the diagonal belong to pairs and should become large, all "
        "others small.",
        428,
    )
    side, x0, y0 = 56.0, 152.0, 122.0
    outlines = (
        heart(0, 2, 34),
        polygon(0, 2, 42, 5, 0.42),
        np.asarray([(-15, -15), (15, -15), (15, 15), (-15, 15)]),
        polygon(0, 0, 34, 28),
    )
    drawing.text(x0 + n * side / 2, 24, "image encoder", size=SIZE, strong=True)
    drawing.text(66, 104, "text encoder", size=SIZE, strong=True)
    for i, thing in enumerate(things):
        x, y = x0 + side * i + side / 2, y0 + side * i + side / 2
        drawing.picture(x - 23, 38, 46)
        drawing.shape(outlines[i] + (x, 61), "data")
        drawing.text(x, 106, f"*a*_{{{i + 1}}}", size=SIZE)
        drawing.pill(60, y, f"a {thing}", "text", 88)
        drawing.text(128, y + 5, f"*b*_{{{i + 1}}}", size=SIZE)
        for j in range(n):
            tone = "data" if i == j else "net"
            cell = f"*a*_{{{j + 1}}}·*b*_{{{i + 1}}}"
            drawing.square(x0 + side * j + 2, y0 + side * i + 2, side - 4, tone, cell, i == j)
    drawing.text(
        x0 + n * side / 2, y0 + n * side + 26, "framed: pairs, to become large", tone="data"
    )
    drawing.text(x0 + n * side / 2, y0 + n * side + 46, "all others: to become small", tone="muted")
    return drawing


def joint_block(config: ModelConfig) -> Drawing:
    """Draw a block of two streams that meet in attention."""
    del config
    drawing = Drawing(
        "The joint block of two streams",
        "Two columns, the tokens of the image on the left and those of the text on the right. Each "
        "column has a norm with a scale and a shift, then its own queries, keys and values. A wide "
        "box is the attention of all tokens, which both columns enter and leave. Then each column "
        "has a gate and a sum, a norm with a feed-forward layer, and again a gate and a sum. Time "
        "and pooled prompt set every scale, shift and gate.",
        520,
    )
    columns = ((24.0, "image", "data"), (220.0, "text", "text"))
    rows = (
        (74.0, 48.0, ("norm", "scale and shift")),
        (144.0, 36.0, ("*Q*, *K*, *V*",)),
        (272.0, 36.0, ("gate, and sum",)),
        (330.0, 48.0, ("norm, feed-forward", "scale and shift")),
        (400.0, 36.0, ("gate, and sum",)),
    )
    for left, name, tone in columns:
        middle = left + 78
        drawing.box(left, 16, 156, 36, f"{name} tokens", tone=tone)
        for top, height, lines in rows:
            drawing.box(left, top, 156, height, *lines, tone=tone, strong=False)
        stops = ((52, 74), (122, 144), (180, 202), (250, 272), (308, 330), (378, 400), (436, 458))
        for start, end in stops:
            drawing.arrow((middle, start), (middle, end))
        drawing.text(middle, 476, f"{name} tokens", tone=tone)
    drawing.box(24, 202, 352, 48, "attention", "of all tokens to all tokens")
    drawing.text(200, 506, "time and pooled prompt set every scale, shift and gate", tone="muted")
    return drawing
