"""Attention: the shapes of its matrices, and where its three inputs come from."""

from __future__ import annotations

from typing import NamedTuple

from drawings.canvas import SIZE
from drawings.shapes import Drawing
from drawings.systems import cells
from ldmref.models import ModelConfig, UNetConfig

WORDS = ("a", "green", "cat")


class Sizes(NamedTuple):
    """The sizes of the first cross-attention of the embedded model."""

    side: int  # of the grid of positions
    channels: int
    heads: int
    tokens: int
    text: int  # width of a token

    @property
    def positions(self) -> int:
        """Positions of the grid."""
        return self.side**2

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.channels // self.heads


def sizes_of(config: ModelConfig) -> Sizes:
    """Return the sizes of the first level with attention."""
    network = config.denoiser
    assert isinstance(network, UNetConfig)
    level = network.attention_levels.index(True)
    text = config.text_encoder
    return Sizes(
        cells(config) // 2**level,
        network.block_out_channels[level],
        network.num_heads[level],
        text.max_position_embeddings,
        text.hidden_size,
    )


def attention(config: ModelConfig) -> Drawing:
    """Draw attention as products of matrices, to scale."""
    s = sizes_of(config)
    drawing = Drawing(
        "Attention as two products of matrices",
        f"First product: the queries Q, {s.positions} × {s.head}, times the transposed keys, "
        f"{s.head} × {s.tokens}, make scores; softmax of each row of scores over the root of "
        f"{s.head} makes the weights A, {s.positions} × {s.tokens}. Second product: A times the "
        f"values V, {s.tokens} × {s.head}, is the output, {s.positions} × {s.head}. One row is "
        "marked in Q, A and the output: one position asks, its weights add up to 1, and it "
        "receives a mean of the rows of V.",
        432,
    )
    scale, row = 1.75, 0.3
    tall, head, short = (scale * v for v in (s.positions, s.head, s.tokens))

    def named(x: float, y: float, width: float, name: str, shape: tuple[int, int]) -> None:
        drawing.text(x + width / 2, y - 26, name, size=SIZE)
        drawing.text(x + width / 2, y - 9, f"{shape[0]} × {shape[1]}", tone="muted")

    y = 60.0
    drawing.matrix(30, y, head, tall, "data", row)
    named(30, y, head, "*Q*", (s.positions, s.head))
    drawing.text(110, y + tall / 2 + 6, "·", size=26)
    drawing.matrix(136, y + (tall - head) / 2, short, head, "text")
    named(136, y + (tall - head) / 2, short, "*K*^{T}", (s.head, s.tokens))
    drawing.arrow((194, y + tall / 2), (300, y + tall / 2), tone="net")
    drawing.text(246, y + tall / 2 - 28, "÷ √" + str(s.head), tone="net")
    drawing.text(246, y + tall / 2 - 10, "softmax", tone="net")
    drawing.matrix(318, y, short, tall, "net", row)
    named(318, y, short, "*A*", (s.positions, s.tokens))
    drawing.text(58, y + tall + 20, "a position asks", tone="data")
    drawing.text(318, y + tall + 20, "its weights: sum 1", tone="net")

    y = 280.0
    drawing.matrix(37, y, short, tall, "net", row)
    named(37, y, short, "*A*", (s.positions, s.tokens))
    drawing.text(110, y + tall / 2 + 6, "·", size=26)
    drawing.matrix(136, y + (tall - short) / 2, head, short, "text")
    named(136, y + (tall - short) / 2, head, "*V*", (s.tokens, s.head))
    drawing.arrow((208, y + tall / 2), (300, y + tall / 2), tone="net")
    drawing.matrix(311, y, head, tall, "data", row)
    named(311, y, head, "output", (s.positions, s.head))
    drawing.text(290, y + tall + 20, "receives a mean of rows of *V*", tone="data")
    return drawing


def cross_attention(config: ModelConfig) -> Drawing:
    """Draw where queries, keys and values come from, with their shapes."""
    s = sizes_of(config)
    drawing = Drawing(
        "Cross-attention: the image asks, the text answers",
        f"On the left the image: {s.side} × {s.side} = {s.positions} positions of {s.channels} "
        f"channels; W_Q makes the queries of them. On the right the text: {s.tokens} tokens of "
        f"{s.text} numbers; W_K and W_V make keys and values of them. Each of {s.heads} heads "
        f"compares its queries and keys, which gives {s.positions} × {s.tokens} weights, and takes "
        f"the mean of the values with them. The output, {s.positions} × {s.channels}, has the "
        "shape of the image whatever the length of the text.",
        526,
    )
    left, right = 92.0, 292.0
    drawing.text(left, 28, "the image asks", size=SIZE, strong=True)
    drawing.text(right, 28, "the text answers", size=SIZE, strong=True)
    side = 96.0
    cell = side / s.side
    drawing.picture(left - side / 2, 44, side)
    for i in range(1, s.side):
        for ends in (
            ((left - side / 2 + i * cell, 44.0), (left - side / 2 + i * cell, 44 + side)),
            ((left - side / 2, 44 + i * cell), (left + side / 2, 44 + i * cell)),
        ):
            drawing.curve(ends, "data", thin=True)
    drawing.marked(left - side / 2 + 2 * cell, 44 + 3 * cell, cell, "data")
    drawing.text(left, 160, f"*X*: {s.positions} × {s.channels}")
    drawing.pills(right, 76, WORDS, "text")
    drawing.pills(right, 110, ("<end>", "<pad> …"), "text")
    drawing.text(right, 160, f"*c*: {s.tokens} × {s.text}")

    drawing.arrow((left, 168), (left, 190))
    drawing.box(left - 64, 192, 128, 52, "*W*_{Q}", f"{s.channels} × {s.channels}", strong=False)
    for x, name in ((240.0, "K"), (344.0, "V")):
        drawing.arrow((x, 168), (x, 190))
        drawing.box(
            x - 46, 192, 92, 52, f"*W*_{{{name}}}", f"{s.text} × {s.channels}", strong=False
        )
    drawing.arrow((left, 244), (left, 284))
    drawing.text(left + 12, 270, "*Q*", size=SIZE, anchor="start")
    drawing.arrow((240, 244), (240, 284))
    drawing.text(252, 270, "*K*", size=SIZE, anchor="start")
    drawing.box(
        28, 286, 258, 54, f"weights in {s.heads} heads", f"{s.positions} × {s.tokens} in each"
    )
    drawing.arrow((344, 244), (344, 378))
    drawing.text(356, 270, "*V*", size=SIZE, anchor="start")
    drawing.arrow((157, 340), (157, 378))
    drawing.box(28, 380, 362, 54, "mean of the values with these weights", "for each position")
    drawing.arrow((200, 434), (200, 456))
    shape = f"{s.positions} × {s.channels}, the shape of *X*"
    drawing.box(74, 458, 252, 50, "output", shape, tone="data")
    return drawing
