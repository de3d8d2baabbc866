"""Questions of piece 1: the residual and attention blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from operator import getitem
from typing import Any

from ldmref.check.capstone import networks as net
from ldmref.check.capstone.networks import MistakenBackend, random, weights_of, wrong
from ldmref.check.capstone.questions import (
    Mistake,
    Question,
    Student,
    WeightsAt,
    config_of,
)
from ldmref.math.arrays import Array
from ldmref.models import layers

SHORTCUT = (
    "where a block changes the number of channels, x is added through conv_shortcut; without a "
    "time, emb is None"
)
TOKENS = "tokens are (n, positions, channels): reshape (n, c, h, w) to (n, c, h w), then transpose"


def residual_blocks(student: Student) -> Iterator[Question]:
    """Yield a block with a time and a shortcut, and one without."""
    rng = student.rng("residual_block")
    # small numbers, beside which epsilon counts
    x, emb = random(rng, 2, 96, 8, 6, scale=0.01), random(rng, 2, 384)
    where = "unet.down_blocks.1.resnets.0"
    yield _residual_block("with a time and a shortcut", where, x, emb)
    x = random(rng, 1, 96, 4, 6, scale=0.01)
    yield _residual_block("without a time", "vae.decoder.mid_block.resnets.0", x, None)


def _residual_block(law: str, where: str, x: Array, emb: Array | None) -> Question:
    network, _, name = where.partition(".")
    p = reduce(getitem, name.split("."), weights_of(network))
    groups, eps = config_of(network)["norm_num_groups"], config_of(network)["norm_eps"]

    def block(
        ops: Any = net.RIGHT, emb: Array | None = emb, eps: float = eps, groups: int = groups
    ) -> dict:
        return {"result": layers.resnet_block(ops, p, x, emb, groups, eps)}

    def with_late_time() -> dict:
        time = layers.linear(net.RIGHT, p.time_emb_proj, net.RIGHT.silu(emb))
        return {"result": block(emb=None)["result"] + time[:, :, None, None]}

    def of_normed_shortcut() -> dict:
        h = layers.norm_silu(net.RIGHT, p.norm1, x, groups, eps)
        x_and_h = [layers.conv2d(net.RIGHT, p.conv_shortcut, y) for y in (x, h)]
        return {"result": block()["result"] - x_and_h[0] + x_and_h[1]}

    of_time = [
        wrong("the time gets no SiLU before time_emb_proj", block, silu=net.silu_not_for_the_time),
        Mistake("the time is not added", lambda: block(emb=None)),
        Mistake(
            "the time is added after conv2; it belongs between conv1 and norm2", with_late_time
        ),
    ]
    of_shortcut = [
        Mistake(
            "conv_shortcut reads what conv1 reads; it wants x, without norm and SiLU",
            of_normed_shortcut,
        )
    ]
    mistakes = [
        *(of_time if emb is not None else ()),
        *(of_shortcut if "conv_shortcut" in p else ()),
        wrong("x is not added at the end", block, add=lambda a, b: b),
        wrong("there is no SiLU after GroupNorm", block, group_norm_silu=net.norm_without_silu),
        wrong("SiLU comes before GroupNorm", block, group_norm_silu=net.silu_before_norm),
        *(
            Mistake(f"epsilon is {other:g}, whatever eps says", lambda e=other: block(eps=e))
            for other in (1e-6, 1e-5, 1e-3, 1e-2, 0.0)
        ),
        Mistake("all channels are one group", lambda: block(groups=1)),
        Mistake("there are 32 groups, whatever groups says", lambda: block(groups=32)),
    ]
    arguments = {"p": WeightsAt(where), "x": x, "emb": emb, "groups": groups, "eps": eps}
    return Question("residual_block", law, arguments, block(), mistakes, SHORTCUT)


def attention_blocks(student: Student) -> Iterator[Question]:
    """Yield the attention block of the U-Net's second level."""
    rng = student.rng("attention_block")
    groups, heads = config_of("unet")["norm_num_groups"], 4
    p = weights_of("unet").down_blocks["1"].attentions["0"]
    x, context = random(rng, 2, 128, 6, 4, scale=0.01), random(rng, 2, 24, 192)

    def block(ops: Any = net.RIGHT) -> dict:
        return {"result": layers.spatial_transformer(ops, p, x, context, heads, groups)}

    def of_mixed_positions(at_the_start: bool, at_the_end: bool) -> dict:
        y = layers.group_norm(net.RIGHT, p.norm, x, groups, 1e-6)
        y = layers.conv2d(net.RIGHT, p.proj_in, y)
        y = y.reshape(2, 24, 128) if at_the_start else y.reshape(2, 128, 24).transpose(0, 2, 1)
        y = layers.transformer_block(net.RIGHT, p.transformer_blocks["0"], y, context, heads)
        y = (y if at_the_end else y.transpose(0, 2, 1)).reshape(x.shape)
        return {"result": x + layers.conv2d(net.RIGHT, p.proj_out, y)}

    def eps_of_norm(value: float) -> dict:
        def group_norm(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Any:
            return net.RIGHT.group_norm(x, weight, bias, groups, value)

        return block(MistakenBackend(group_norm=group_norm))

    mistakes = [
        *_mistakes_of_tokens(block),
        *(
            Mistake(f"epsilon of GroupNorm is {e:g}; here it is 1e-6", lambda e=e: eps_of_norm(e))
            for e in (1e-5, 1e-3, 1e-2, 0.0)
        ),
        Mistake("x is not added at the end", lambda: {"result": block()["result"] - x}),
        *_mistakes_of_heads(block, heads),
        *(
            Mistake(
                "the image is reshaped to tokens without a transpose: " + TOKENS,
                lambda end=end: of_mixed_positions(True, end),
            )
            for end in (False, True)
        ),
        Mistake(
            "tokens become an image without a transpose: (n, h w, c) is transposed to (n, c, h w), "
            "and then reshaped",
            lambda: of_mixed_positions(False, True),
        ),
    ]
    arguments = {"x": x, "context": context, "heads": heads, "groups": groups}
    where = WeightsAt("unet.down_blocks.1.attentions.0")
    yield Question(
        "attention_block",
        "of the second level",
        {"p": where, **arguments},
        block(),
        mistakes,
        TOKENS,
    )


def _mistakes_of_heads(block: Callable[..., dict], heads: int) -> list[Mistake]:
    """Return wrong scales and divisions into heads of the attentions of `block`."""
    return [
        wrong(
            "the scores are divided by the root of all channels, not of one head's",
            block,
            attention=net.scaled_attention(lambda q: q.shape[1] ** -0.5),
        ),
        wrong(
            "the scores are not divided by the root of d",
            block,
            attention=net.scaled_attention(lambda q: q.shape[-1] ** 0.5),
        ),
        *(
            wrong(
                "heads are cut by a reshape alone: (n, l, d) is (n, l, heads, d / heads) first, "
                "and then transposed to (n, heads, l, d / heads)",
                block,
                attention=net.attention_of_cut_rows(back),
            )
            for back in (False, True)
        ),
        wrong("all channels are one head", block, attention=net.attention_of_heads(1)),
        wrong(
            "heads is taken for the channels of a head; it is their number",
            block,
            attention=net.attention_of_heads(128 // heads),
        ),
    ]


def _mistakes_of_tokens(block: Callable[..., dict]) -> list[Mistake]:
    """Return wrong orders and gates in the transformer of `block`."""
    return [
        wrong(
            "ff multiplies gates by gelu(values), instead of values by gelu(gates): the first half "
            "of its first layer are the values",
            block,
            geglu=net.gate_for_value,
        ),
        wrong("ff has SiLU in place of GELU", block, geglu=net.silu_gate),
        wrong(
            "attn1, attn2 and ff are added to the normed tokens, not to those before the LayerNorm",
            block,
            of_layers={layers.transformer_block: net.sums_of_normed_tokens},
        ),
        wrong(
            "LayerNorm comes after each sum; it comes before attn1, attn2 and ff",
            block,
            of_layers={layers.transformer_block: net.norms_of_sums},
        ),
    ]
