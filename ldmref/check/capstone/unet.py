"""The question of piece 1's end: the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.check.capstone import networks as net
from ldmref.check.capstone.networks import MistakenBackend, random, weights_of, wrong
from ldmref.check.capstone.questions import ConfigAt, Mistake, Question, Student, WeightsAt
from ldmref.math import timestep_embedding
from ldmref.math.arrays import Array
from ldmref.models import layers
from ldmref.models.unet import unet

SKIPS = (
    "conv_in, each residual block (with its attention) and each downsampling of the way down leave "
    "one skip connection; each residual block of the way up takes the last one left; num_heads are "
    "those of the levels on the way down, so the way up begins with the last"
)


def unets(student: Student) -> Iterator[Question]:
    """Yield the whole U-Net on random input."""
    rng = student.rng("unet")
    config, p = net.embedded_model().config.unet, weights_of("unet")
    x, context = random(rng, 2, 16, 16, 8), random(rng, 2, 24, 192)
    t = np.asarray([20.0, 700.0], np.float32)

    def network(ops: Any = net.RIGHT, config: Any = config, t: Array = t) -> dict:
        return {"result": unet(ops, p, config, x, t, context)}

    mistakes = [
        *_mistakes_of_conditions(network, p, context),
        Mistake(
            "class_embedding of the prompt's last token is not added to the time",
            lambda: network(config=replace(config, class_embed_type="")),
        ),
        Mistake("t is divided by 1000", lambda: network(t=t / 1000)),
        *_mistakes_of_levels(network, p),
        *_mistakes_of_the_end(network, p),
    ]
    arguments = {"config": ConfigAt("unet"), "x": x, "t": t, "context": context}
    yield Question(
        "unet", "on random input", {"p": WeightsAt("unet"), **arguments}, network(), mistakes, SKIPS
    )


def _mistakes_of_conditions(network: Callable[..., dict], p: Any, context: Array) -> list[Mistake]:
    """Return mistakes in what the time and the prompt's last token become."""

    def of_first_token(x: Array, weight: Array, bias: Array | None = None) -> Any:
        x = context[:, 0] if weight is p.class_embedding.weight else x
        return net.RIGHT.linear(x, weight, bias)

    def of_mean_token(x: Array, weight: Array, bias: Array | None = None) -> Any:
        x = context.mean(axis=1) if weight is p.class_embedding.weight else x
        return net.RIGHT.linear(x, weight, bias)

    def sines_first(name: str, function: object, t: Array, dim: int) -> Any:
        return timestep_embedding(t, dim, flip_sin_to_cos=False)

    def without_silu(ops: Any, p: Any, x: Array) -> Any:
        return layers.linear(ops, p.linear_2, layers.linear(ops, p.linear_1, x))

    return [
        wrong(
            "class_embedding reads the prompt's first token, not its last",
            network,
            linear=of_first_token,
        ),
        wrong(
            "class_embedding reads the mean of the tokens, not the last one",
            network,
            linear=of_mean_token,
        ),
        wrong("the time has its sines first", network, call_function=sines_first),
        wrong(
            "there is no SiLU between linear_1 and linear_2 of the time",
            network,
            of_layers={layers.mlp: without_silu},
        ),
        wrong(
            "the time gets no SiLU before time_emb_proj",
            network,
            of_layers={layers.resnet_block: _without_silu_of_time},
        ),
    ]


def _mistakes_of_levels(network: Callable[..., dict], p: Any) -> list[Mistake]:
    """Return mistakes on the way down, in the middle and on the way up."""

    def none_in_the_middle(ops: object, q: Array, x: Array, *args: Any) -> Any:
        is_middle = q.proj_in.weight is p.mid_block.attentions["0"].proj_in.weight
        return x if is_middle else layers.spatial_transformer(net.RIGHT, q, x, *args)

    return [
        wrong(
            "skip connections come before x where both are put together",
            network,
            xp=net.OtherConcat(lambda below, skip: [skip, below]),
        ),
        Mistake(
            "a skip connection is kept before the attention of its level, not after it",
            lambda: network(_SkipsBeforeAttention()),
        ),
        wrong(
            "the way down pads as the encoder does before it halves a grid; here the convolution "
            "of stride 2 pads all four sides",
            network,
            of_layers={layers.downsample: layers.downsample_padded},
        ),
        wrong(
            "the way up convolves before it doubles a grid; it repeats positions first",
            network,
            of_layers={layers.upsample: _convolved_and_doubled},
        ),
        wrong(
            "the middle has no attention",
            network,
            of_layers={layers.spatial_transformer: none_in_the_middle},
        ),
        wrong(
            "ff multiplies gates by gelu(values), instead of values by gelu(gates)",
            network,
            geglu=net.gate_for_value,
        ),
    ]


def _mistakes_of_the_end(network: Callable[..., dict], p: Any) -> list[Mistake]:
    """Return mistakes between the last level and conv_out."""

    def without_silu(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Any:
        is_end = weight is p.conv_norm_out.weight
        norm = net.RIGHT.group_norm if is_end else net.RIGHT.group_norm_silu
        return norm(x, weight, bias, groups, eps)

    def without_both(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Any:
        is_end = weight is p.conv_norm_out.weight
        return x if is_end else net.RIGHT.group_norm_silu(x, weight, bias, groups, eps)

    return [
        wrong("there is no SiLU after conv_norm_out", network, group_norm_silu=without_silu),
        wrong(
            "GroupNorm and SiLU before conv_out are left out", network, group_norm_silu=without_both
        ),
    ]


def _without_silu_of_time(ops: object, p: Any, *args: Any) -> Any:
    mistaken = MistakenBackend(silu=net.silu_not_for_the_time)
    return layers.resnet_block(mistaken, p, *args)


def _convolved_and_doubled(ops: Any, p: Any, x: Array, size: object = None) -> Any:
    return ops.upsample2x(layers.conv2d(ops, p.conv, x))


class _SkipsBeforeAttention(MistakenBackend):
    """Operations that remember what each attention block read, and concatenate that."""

    def __init__(self) -> None:
        super().__init__({layers.spatial_transformer: self._attend})
        self._read: dict[int, tuple[Any, Any]] = {}  # by the result's id: what was read, the result
        self.xp = net.OtherConcat(self._concat)

    def _attend(self, ops: object, p: Any, x: Array, *args: Any) -> Any:
        y = layers.spatial_transformer(net.RIGHT, p, x, *args)
        self._read[id(y)] = (x, y)
        return y

    def _concat(self, below: object, skip: object) -> list[Any]:
        return [below, self._read.get(id(skip), (skip, skip))[0]]
