"""The table of known faults of layers: what each applies to, a function, its source.

The function yields variants: of an operation, of an array between layers, or of the operations of a
block. The locator computes the part of the network that is wrong with each variant, and reports the
one that explains the port's numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from ldmref.locate.faults.hypothesis import Hypothesis, together
from ldmref.locate.replay.points import FollowedRun, Point

NORMS = ("group_norm", "layer_norm")
RMS = ("divide_by_rms",)
BY_POSITIONS = ("rotate", "rotate_halves")
ROTATIONS = (*BY_POSITIONS, "turn_pairs")
PRODUCTS = ("linear", "conv2d", "grouped_conv2d")
ACTIVATIONS = ("silu", "gelu", "quick_gelu", "tanh_gelu", "sigmoid", "relu", "tanh")
BETWEEN = ("between layers",)
BLOCK = ("a block",)
IN_KITS = {BETWEEN: "between", BLOCK: "block"}  # of names in kits; else an operation


@dataclass(frozen=True)
class Fault:
    """A kind of fault of a part of a network.

    Attributes:
        applies_to: The operations that it concerns. `BETWEEN`: what is joined, added or multiplied
            between layers. `BLOCK`: recorded operations of a block, which is then computed again.
        variants: Yields the fault in words, and what it makes. For operations, `variants(call)`
            yields what is computed instead; `BETWEEN` layers, `variants(replay, point)` yields the
            array, and of a `BLOCK` functions by the names of the operations that they replace.
        source: Where it happened, or why it happens.

    >>> from ldmref.locate.faults import FAULTS
    >>> FAULTS[0].applies_to, FAULTS[0].name
    (('group_norm', 'layer_norm'), 'group_norm.other_eps')
    """

    applies_to: tuple[str, ...]
    variants: Callable[..., Iterator[tuple[str, Any]]]
    source: str

    @property
    def name(self) -> str:
        """Its name in kits."""
        return f"{IN_KITS.get(self.applies_to, self.applies_to[0])}.{self.variants.__name__}"

    def hypotheses(
        self, replay: FollowedRun, point: Point, calls: Sequence[LayerCall] = ()
    ) -> Iterator[Hypothesis]:
        """Yield what the fault may be at a point; nothing where it does not apply.

        Args:
            replay: The replay that computed the point.
            point: The recorded array.
            calls: Operations of one kind that have the fault together. Empty: the part as a whole.
        """
        if calls and calls[0].kind in self.applies_to:
            yield from together(calls, self.variants(calls[0]))
        elif not calls and self.applies_to == BETWEEN:
            for text, array in self.variants(replay, point):
                yield Hypothesis(text, array=array)
        elif not calls and self.applies_to == BLOCK:
            for text, changes in self.variants(replay, point):
                yield Hypothesis(text, changes)


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
    Fault(
        BETWEEN, between.other_skip, "lists of skip connections that are read from the wrong end"
    ),
    Fault(BETWEEN, between.rounded_times, "1000 - t of a timestep in bfloat16"),
    Fault(BETWEEN, between.other_times, "times from 0 to 1, from the noise to the image"),
    Fault(BETWEEN, tokens.other_filling, "pad tokens that a port loads and does not use"),
    Fault(
        BETWEEN, between.shifted_positions, "positions from 1, or after a padding token: fairseq"
    ),
    Fault(BETWEEN, masks.unmasked_rows, "texts of a batch that are filled up to one length"),
    Fault(BETWEEN, attention.tiled_arrays, "repeat of NumPy and PyTorch are not the same"),
    Fault(BETWEEN, between.other_gate, "gates of what attention returns"),
    Fault(BETWEEN, between.missing_residual, "residual connections"),
    Fault(BETWEEN, between.other_half, "order of value and gate in GEGLU"),
    Fault(BETWEEN, packing.other_packing, "rearrange of black-forest-labs/flux against others"),
    Fault(BETWEEN, packing.other_unpacking, "SD3 keeps the channels last in a patch, Flux first"),
    Fault(BETWEEN, joint.other_table, "tables of positions that are cropped in their middle"),
    Fault(BETWEEN, text.other_buckets, "decoders of T5 count distances one way"),
    Fault(BETWEEN, text.exchanged_gate, "T5 1.1 applies GELU to wi_0"),
    Fault(BETWEEN, text.exchanged_silu, "fused projections with the value first"),
    Fault(BETWEEN, text.other_pooling, "the padding of CLIP is its end token"),
    Fault(BETWEEN, scales.forgotten_scale, "scale_weight of float8 files"),
    Fault(BLOCK, modulation.other_modulation, "diffusers#10198: scale and shift at the end"),
    Fault(BLOCK, modulation.unused_embedding, "pooled texts and second times that are not added"),
    Fault(BLOCK, joint.other_table_before, "tables of positions that are cropped in their middle"),
    Fault(BLOCK, joint.other_split, "SD3 joins the image before the text, Flux.1 after it"),
    Fault(BLOCK, text.other_bias_of_positions, "decoders of T5 count distances one way"),
    Fault(BLOCK, tensors.other_pairs, "flashinfer#3819, FastVideo#1321, candle#3520"),
    Fault(
        BLOCK, text.exchanged_halves, "chunk(2) of fused projections: diffusers has the gate first"
    ),
    Fault(BLOCK, text.exchanged_projections, "T5 1.1 applies GELU to wi_0"),
)
"""Every known fault; a row that differs names those that explain its error."""
