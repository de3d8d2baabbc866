"""Questions of piece 1: the weights' file, the residual and attention blocks, the U-Net."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import reduce
from operator import getitem
from typing import Any

import numpy as np

from ldmref.check.capstone import networks as net
from ldmref.check.capstone.networks import MistakenBackend, config_of, random, weights_of, wrong
from ldmref.check.capstone.questions import Mistake, Question, Student, WeightsAt
from ldmref.math import timestep_embedding
from ldmref.models import layers
from ldmref.models.unet import unet

SHORTCUT = (
    "where a block changes the number of channels, x is added through conv_shortcut; without a "
    "time, emb is None"
)
TOKENS = "tokens are (n, positions, channels): reshape (n, c, h, w) to (n, c, h w), then transpose"
SKIPS = (
    "conv_in, each residual block (with its attention) and each downsampling of the way down leave "
    "one skip connection; each residual block of the way up takes the last one left; num_heads are "
    "those of the levels on the way down, so the way up begins with the last"
)


def residual_blocks(student: Student) -> Iterator[Question]:
    """Yield a block with a time and a shortcut, and one without."""
    rng = student.rng("residual_block")
    # small numbers, beside which epsilon counts
    x, emb = random(rng, 2, 96, 8, 6, scale=0.01), random(rng, 2, 384)
    where = "unet.down_blocks.1.resnets.0"
    yield _residual_block("with a time and a shortcut", where, x, emb)
    x = random(rng, 1, 96, 4, 6, scale=0.01)
    yield _residual_block("without a time", "vae.decoder.mid_block.resnets.0", x, None)


def _residual_block(law: str, where: str, x: Any, emb: Any) -> Question:
    network, _, name = where.partition(".")
    p = reduce(getitem, name.split("."), weights_of(network))
    groups, eps = config_of(network)["norm_num_groups"], config_of(network)["norm_eps"]

    def block(ops: Any = net.RIGHT, emb: Any = emb, eps: float = eps, groups: int = groups) -> dict:
        return {"result": layers.resnet_block(ops, p, x, emb, groups, eps)}

    def with_late_time() -> dict:
        time = layers.linear(net.RIGHT, p.time_emb_proj, net.RIGHT.silu(emb))
        return {"result": block(emb=None)["result"] + time[:, :, None, None]}

    of_time = [
        wrong("the time gets no SiLU before time_emb_proj", block, silu=net.silu_not_for_the_time),
        Mistake("the time is not added", lambda: block(emb=None)),
        Mistake(
            "the time is added after conv2; it belongs between conv1 and norm2", with_late_time
        ),
    ]
    mistakes = [
        *(of_time if emb is not None else ()),
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

    def of_mixed_positions(mixed_at_the_end: bool) -> dict:
        y = layers.group_norm(net.RIGHT, p.norm, x, groups, 1e-6)
        y = layers.conv2d(net.RIGHT, p.proj_in, y).reshape(2, 24, 128)
        y = layers.transformer_block(net.RIGHT, p.transformer_blocks["0"], y, context, heads)
        y = (y if mixed_at_the_end else y.transpose(0, 2, 1)).reshape(x.shape)
        return {"result": x + layers.conv2d(net.RIGHT, p.proj_out, y)}

    def eps_of_norm(value: float) -> dict:
        def group_norm(x: Any, weight: Any, bias: Any, groups: int, eps: float) -> Any:
            return net.RIGHT.group_norm(x, weight, bias, groups, value)

        return block(MistakenBackend(group_norm=group_norm))

    mistakes = [
        wrong(
            "ff multiplies gates by gelu(values), instead of values by gelu(gates): the first half "
            "of its first layer are the values",
            block,
            geglu=net.gate_for_value,
        ),
        wrong("ff has SiLU in place of GELU", block, geglu=net.silu_gate),
        *(
            Mistake(f"epsilon of GroupNorm is {e:g}; here it is 1e-6", lambda e=e: eps_of_norm(e))
            for e in (1e-5, 1e-3, 1e-2, 0.0)
        ),
        Mistake("x is not added at the end", lambda: {"result": block()["result"] - x}),
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
        wrong(
            "heads are cut by a reshape alone: (n, l, d) is (n, l, heads, d / heads) first, and "
            "then transposed to (n, heads, l, d / heads)",
            block,
            attention=net.attention_of_cut_rows,
        ),
        wrong("all channels are one head", block, attention=net.attention_of_one_head),
        *(
            Mistake(
                "the image is reshaped to tokens without a transpose: " + TOKENS,
                lambda end=end: of_mixed_positions(end),
            )
            for end in (False, True)
        ),
    ]
    arguments = {"x": x, "context": context, "heads": heads, "groups": groups}
    where = WeightsAt("unet.down_blocks.1.attentions.0")
    yield Question(
        "attention_block", "of the second level", {"p": where, **arguments}, block(), mistakes,
        TOKENS,
    )  # fmt: skip


def unets(student: Student) -> Iterator[Question]:
    """Yield the whole U-Net on random input."""
    rng = student.rng("unet")
    config, p = net.embedded_model().config.unet, weights_of("unet")
    x, context = random(rng, 2, 16, 16, 8), random(rng, 2, 24, 192)
    t = np.asarray([20.0, 700.0], np.float32)

    def network(ops: Any = net.RIGHT, config: Any = config, t: Any = t) -> dict:
        return {"result": unet(ops, p, config, x, t, context)}

    def of_first_token(x: Any, weight: Any, bias: Any = None) -> Any:
        x = context[:, 0] if weight is p.class_embedding.weight else x
        return net.RIGHT.linear(x, weight, bias)

    def sines_first(name: str, function: Any, t: Any, dim: int) -> Any:
        return timestep_embedding(t, dim, flip_sin_to_cos=False)

    def without_silu(ops: Any, p: Any, x: Any) -> Any:
        return layers.linear(ops, p.linear_2, layers.linear(ops, p.linear_1, x))

    def end_without_silu(x: Any, weight: Any, bias: Any, groups: int, eps: float) -> Any:
        is_end = weight is p.conv_norm_out.weight
        norm = net.RIGHT.group_norm if is_end else net.RIGHT.group_norm_silu
        return norm(x, weight, bias, groups, eps)

    mistakes = [
        wrong(
            "skip connections come before x where both are put together", network,
            xp=net.ReversedConcat(),
        ),
        wrong(
            "class_embedding reads the prompt's first token, not its last", network,
            linear=of_first_token,
        ),
        Mistake(
            "class_embedding of the prompt's last token is not added to the time",
            lambda: network(config=replace(config, class_embed_type="")),
        ),
        wrong("the time has its sines first", network, call_function=sines_first),
        wrong(
            "there is no SiLU between linear_1 and linear_2 of the time", network,
            of_layers={layers.mlp: without_silu},
        ),
        wrong("the time gets no SiLU before time_emb_proj", network,
               of_layers={layers.resnet_block: _without_silu_of_time}),
        wrong("there is no SiLU after conv_norm_out", network, group_norm_silu=end_without_silu),
        Mistake("t is divided by 1000", lambda: network(t=t / 1000)),
        wrong(
            "ff multiplies gates by gelu(values), instead of values by gelu(gates)", network,
            geglu=net.gate_for_value,
        ),
    ]  # fmt: skip
    arguments = {"config": config_of("unet"), "x": x, "t": t, "context": context}
    yield Question(
        "unet", "on random input", {"p": WeightsAt("unet"), **arguments}, network(), mistakes, SKIPS
    )


def _without_silu_of_time(ops: Any, p: Any, *args: Any) -> Any:
    mistaken = MistakenBackend(silu=net.silu_not_for_the_time)
    return layers.resnet_block(mistaken, p, *args)
