"""The table of known faults of layers: operation, function, source.

Each function takes the `LayerCall` of an operation and yields variants of it. The locator computes
the part of the network that is wrong with each variant, and reports the one that explains the
port's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from ldmref.backends.named import LayerCall
from ldmref.locate.faults import (
    activations,
    attention,
    between,
    embedding,
    joint,
    masks,
    modulation,
    norms,
    packing,
    products,
    rotary,
    scales,
    tensors,
    text,
    tokens,
)
from ldmref.locate.faults.variants import Given, Variant
from ldmref.locate.replay.points import FollowedRun, Point

NORMS = ("group_norm", "layer_norm")
RMS = ("divide_by_rms",)
BY_POSITIONS = ("rotate", "rotate_halves")
ROTATIONS = (*BY_POSITIONS, "turn_pairs")
PRODUCTS = ("linear", "conv2d", "grouped_conv2d")
ACTIVATIONS = ("silu", "gelu", "quick_gelu", "tanh_gelu", "sigmoid", "relu", "tanh")


class Fault(NamedTuple):
    """A kind of fault.

    Attributes:
        operations: The operations that it concerns.
        variants: Yields the variants of an operation.
        source: Where it happened, or why it happens.

    >>> from ldmref.locate.faults import FAULTS
    >>> FAULTS[0].operations
    ('group_norm', 'layer_norm')
    """

    operations: tuple[str, ...]
    variants: Callable[[LayerCall], Iterator[Variant]]
    source: str


FAULTS = (
    Fault(NORMS, norms.other_eps, "CompVis uses 1e-6 and diffusers 1e-5 in one U-Net"),
    Fault(NORMS, norms.unbiased_variance, "torch.var divides by n - 1"),
    Fault(NORMS, norms.missing_affine, "norms without parameters in other networks"),
    Fault(NORMS, norms.eps_outside, "norms of other libraries"),
    Fault(NORMS, norms.root_mean_square, "RMS norms of newer networks"),
    Fault(("group_norm",), norms.other_groups, "norm_num_groups of small networks"),
    Fault(("group_norm",), norms.interleaved_groups, "channels-last kernels"),
    Fault(("layer_norm",), norms.other_axis, "axis of the norm in another order in memory"),
    Fault(("divide_by_deviation",), norms.other_eps, "defaults of norms: 1e-5 in most libraries"),
    Fault(RMS, norms.other_eps, "torch.nn.RMSNorm takes the epsilon of the number format"),
    Fault(RMS, norms.missing_affine, "norms of queries and keys without their weights"),
    Fault(RMS, norms.other_mean_square, "norms over all heads: NVIDIA's and Lightricks' networks"),
    Fault(ACTIVATIONS, activations.other_activation, "gelu_new: stable-diffusion-webui-forge#1817"),
    Fault(ACTIVATIONS, activations.activation_twice, "an activation in the norm and after it"),
    Fault(("add",), activations.missing_term, "residual connections"),
    Fault((*PRODUCTS, "convolution"), products.missing_bias, "bias=False in a port"),
    Fault(("linear",), products.left_out, "arguments of time embeddings: sglang#17988"),
    Fault(("linear", "conv2d"), products.transposed_weight, "(in, out) weights of JAX and Keras"),
    Fault(("linear",), products.swapped_halves, "order of value and gate in GEGLU"),
    Fault(("conv2d",), products.other_edges, "downsamplers: pad (0, 1, 0, 1), or 'SAME' of JAX"),
    Fault(("conv2d",), products.other_padding, "padding modes for tiled images"),
    Fault(
        ("conv2d", "grouped_conv2d"),
        products.flipped_kernel,
        "convolution in the mathematical sense",
    ),
    Fault(("conv2d",), products.other_stride, "resampling in another place"),
    Fault(("upsample2x",), products.bilinear_upsampling, "defaults of interpolation"),
    Fault(("pad_bottom_right",), products.other_corner, "'SAME' padding of JAX and TensorFlow"),
    Fault(("attention",), attention.swapped_inputs, "FastVideo#1321, fused projections"),
    Fault(("attention",), attention.other_scale, "kernels that scale, and callers that scale too"),
    Fault(("attention",), attention.other_mask, "causal masks of text encoders"),
    Fault(("attention",), attention.permuted_heads, "FastVideo#1321"),
    Fault(("attention",), attention.tiled_heads, "repeat of NumPy and PyTorch are not the same"),
    Fault(("attention",), attention.other_heads, "attention_head_dim: diffusers#2011"),
    Fault(("attention",), attention.other_softmax, "axis of the softmax"),
    Fault(("attention",), attention.other_bias, "TensorRT-LLM#1343, diffusers#12294"),
    Fault(("attention",), masks.other_masks, "masks of a batch of texts"),
    Fault(BY_POSITIONS, rotary.other_layout, "flashinfer#3819, FastVideo#1321, candle#3520"),
    Fault(BY_POSITIONS, rotary.other_frequencies, "theta and axes of other models"),
    Fault(
        BY_POSITIONS,
        rotary.other_positions,
        "vllm-omni#4443, diffusion-4k#17, diffusers#13920, DiffSynth-Studio#753",
    ),
    Fault(("turn_pairs",), rotary.other_waves, "flashinfer#3819, FastVideo#1321, candle#3520"),
    Fault(("timestep_embedding",), embedding.sine_first, "flip_sin_to_cos"),
    Fault(("timestep_embedding",), embedding.frequency_shift, "downscale_freq_shift"),
    Fault(("timestep_embedding",), embedding.scaled_timestep, "maxdiffusion#482"),
    Fault(("timestep_embedding",), embedding.other_period, "max_period"),
    Fault(("embedding",), embedding.shifted_ids, "vocabularies with another padding token"),
    Fault(("add_number",), tensors.other_constant, "1 + scale of adaptive norms, eps of norms"),
    Fault(("multiply_number",), tensors.other_factor, "scales of times, scores and embeddings"),
    Fault(("divide_number",), tensors.other_divisor, "patches and frequencies that are divided"),
    Fault(("multiply",), tensors.missing_factor, "gates, and scales of adaptive norms"),
    Fault(("subtract",), tensors.other_difference, "rotations, and norms by hand"),
    Fault(("negate",), tensors.other_sign, "rotations of two halves"),
    Fault(("power",), tensors.other_base, "theta of other models"),
    Fault(("sine", "cosine"), tensors.other_angles, "angles in bfloat16, rotations backwards"),
    Fault(("polar",), tensors.other_turn, "angles in bfloat16, rotations backwards"),
    Fault(("split",), tensors.exchanged_parts, "diffusers#10198: scale and shift at the end"),
    Fault(("join",), tensors.other_order, "SD3 joins the image before the text, Flux.1 after it"),
    Fault(("softmax",), tensors.other_softmax_axis, "axis of the softmax"),
    Fault(("masked",), tensors.other_masking, "masks of padding"),
    Fault(("repeat_each",), tensors.other_repeats, "tables of rotations: flashinfer#3819"),
    Fault(("axes",), tensors.other_axes, "rearrange of patches, rows and columns"),
)
"""Every known fault; a row that differs names those that explain its error."""


class BetweenLayers(NamedTuple):
    """A kind of fault between layers: `variants(replay, point)` yields words and arrays."""

    variants: Callable[[FollowedRun, Point], Iterator[Given]]
    source: str


BETWEEN = (
    BetweenLayers(between.other_skip, "lists of skip connections that are read from the wrong end"),
    BetweenLayers(between.rounded_times, "1000 - t of a timestep in bfloat16"),
    BetweenLayers(between.other_times, "times from 0 to 1, from the noise to the image"),
    BetweenLayers(tokens.other_filling, "pad tokens that a port loads and does not use"),
    BetweenLayers(between.shifted_positions, "positions from 1, or after a padding token: fairseq"),
    BetweenLayers(masks.unmasked_rows, "texts of a batch that are filled up to one length"),
    BetweenLayers(attention.tiled_arrays, "repeat of NumPy and PyTorch are not the same"),
    BetweenLayers(between.other_gate, "gates of what attention returns"),
    BetweenLayers(between.missing_residual, "residual connections"),
    BetweenLayers(between.other_half, "order of value and gate in GEGLU"),
    BetweenLayers(packing.other_packing, "rearrange of black-forest-labs/flux against others"),
    BetweenLayers(packing.other_unpacking, "SD3 keeps the channels last in a patch, Flux first"),
    BetweenLayers(joint.other_table, "tables of positions that are cropped in their middle"),
    BetweenLayers(text.other_buckets, "decoders of T5 count distances one way"),
    BetweenLayers(text.exchanged_gate, "T5 1.1 applies GELU to wi_0"),
    BetweenLayers(text.exchanged_silu, "fused projections with the value first"),
    BetweenLayers(text.other_pooling, "the padding of CLIP is its end token"),
    BetweenLayers(scales.forgotten_scale, "scale_weight of float8 files"),
)
"""Known faults of what is joined, added or multiplied between layers."""


class InBlock(NamedTuple):
    """A kind of fault in a block: `variants(replay, point)` yields words and changed operations."""

    variants: Callable[[FollowedRun, Point], Iterator[modulation.ChangedOperations]]
    source: str


IN_BLOCKS = (
    InBlock(modulation.other_modulation, "diffusers#10198: scale and shift at the end"),
    InBlock(modulation.unused_embedding, "pooled texts and second times that are not added"),
    InBlock(joint.other_table_before, "tables of positions that are cropped in their middle"),
    InBlock(joint.other_split, "SD3 joins the image before the text, Flux.1 after it"),
    InBlock(text.other_bias_of_positions, "decoders of T5 count distances one way"),
    InBlock(tensors.other_pairs, "flashinfer#3819, FastVideo#1321, candle#3520"),
    InBlock(text.exchanged_halves, "chunk(2) of fused projections: diffusers has the gate first"),
    InBlock(text.exchanged_projections, "T5 1.1 applies GELU to wi_0"),
)
"""Known faults that change recorded operations of a block, which is then computed again."""


def faults_of(operation: str) -> Iterator[Fault]:
    """Yield the known faults of an operation.

    Args:
        operation: The name of an operation of `Backend`.

    Returns:
        An iterator of the faults in the order of the table.

    >>> from ldmref.locate.faults import faults_of
    >>> next(faults_of("group_norm")).source
    'CompVis uses 1e-6 and diffusers 1e-5 in one U-Net'
    """
    return (fault for fault in FAULTS if operation in fault.operations)
