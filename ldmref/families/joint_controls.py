"""What the ControlNets of transformers of image and text share: SD3's and Flux.1's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ldmref.families.joint_transformers import declare_transformer, list_inputs
from ldmref.models.declared import (
    BATCH,
    HEIGHT,
    WIDTH,
    CallSize,
    DeclaredNetwork,
    NetworkInput,
    NetworkOutput,
)
from ldmref.models.declared_control import Difference
from ldmref.models.params import Spec

PATCHES = CallSize("patches")


class BlockResiduals(NamedTuple):
    """The arrays that a ControlNet adds to the tokens of the image, (n, l, d) each.

    Attributes:
        blocks: Those that follow blocks of two streams.
        single_blocks: Those that follow blocks of one stream.
    """

    blocks: tuple[Any, ...] = ()
    single_blocks: tuple[Any, ...] = ()


def block_inputs(width: int, blocks: int, single_blocks: int = 0) -> BlockResiduals:
    """Return the inputs of a transformer for residuals after so many blocks of each kind.

    They have the names of diffusers' outputs; l, the number of patches, is open.
    """

    def describe(field: str, count: int) -> tuple[NetworkInput, ...]:
        shape = BATCH, PATCHES, width
        return tuple(
            NetworkInput("control", f"control.{field}.{i}", shape, exported=name_sample(field, i))
            for i in range(count)
        )

    return BlockResiduals(describe("blocks", blocks), describe("single_blocks", single_blocks))


def name_sample(field: str, number: int) -> str:
    """Return the name of a residual in exported graphs."""
    return f"controlnet_{field.removesuffix('s')}_samples.{number}"


def declare_controlnet(
    net: Any,
    function: Callable[..., BlockResiduals],
    spec: Callable[[], Spec],
    hint_channels: int,
    counts: BlockResiduals,
    more: Sequence[NetworkInput] = (),
) -> DeclaredNetwork:
    """Return the network of a ControlNet, whose inputs have diffusers' names.

    Args:
        net: Its configuration. It reads no text if its `joint_attention_dim` is 0.
        function: The network.
        spec: Returns the shapes of its parameters.
        hint_channels: Number of channels of the hint.
        counts: For each kind of block, a range of the length of its residuals.
        more: Inputs after latents, time, hidden states, hint and pooled text.
    """
    network = declare_transformer(net, function, spec, (*list_inputs(net), *more))
    hint = NetworkInput(
        "hint",
        "hint",
        (BATCH, hint_channels, HEIGHT, WIDTH),
    )
    without = () if net.joint_attention_dim else ("context",)
    inputs = [x for x in network.inputs if x.argument not in without]
    inputs.insert([x.argument for x in inputs].index("pooled"), hint)
    outputs = (
        NetworkOutput(f"{field}.{i}", name_sample(field, i))
        for field, numbers in counts._asdict().items()
        for i in numbers
    )
    return replace(
        network,
        name="controlnet",
        params="controlnet",
        description="ControlNet",
        settings={**network.settings, **dict.fromkeys(without)},
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        exported="controlnet",
    )


def compare(ours: object, theirs: object, names: Sequence[str]) -> Iterator[Difference]:
    """Yield the fields in which a ControlNet's configuration differs from the denoiser's."""
    for name in names:
        have, want = getattr(theirs, name), getattr(ours, name)
        if have != want:
            yield name, have, want


def compare_depth(ours: object, theirs: object, name: str) -> Iterator[Difference]:
    """Yield a number of blocks that is larger than the denoiser's."""
    have, want = getattr(theirs, name), getattr(ours, name)
    if have > want:
        yield name, have, f"{want} or fewer"
