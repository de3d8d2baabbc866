"""The table of known faults: what is tried of each operation, and in which order."""

from __future__ import annotations

import re

import pytest

from ldmref.locate.faults import activations
from ldmref.locate.faults.table import ACTIVATIONS, BETWEEN, FAULTS, IN_BLOCKS, faults_of

OF_ACTIVATIONS = ["activations.other_activation", "activations.activation_twice"]
OF_ROTATIONS = ["rotary.other_layout", "rotary.other_frequencies", "rotary.other_positions"]
ORDER = {  # by operation
    "group_norm": [
        "norms.other_eps", "norms.unbiased_variance", "norms.missing_affine", "norms.eps_outside",
        "norms.root_mean_square", "norms.other_groups", "norms.interleaved_groups",
    ],
    "layer_norm": [
        "norms.other_eps", "norms.unbiased_variance", "norms.missing_affine", "norms.eps_outside",
        "norms.root_mean_square", "norms.other_axis",
    ],
    "divide_by_rms": ["norms.other_eps", "norms.missing_affine", "norms.other_mean_square"],
    "divide_by_deviation": ["norms.other_eps"],
    "silu": OF_ACTIVATIONS,
    "gelu": OF_ACTIVATIONS,
    "quick_gelu": OF_ACTIVATIONS,
    "tanh_gelu": OF_ACTIVATIONS,
    "sigmoid": OF_ACTIVATIONS,
    "relu": OF_ACTIVATIONS,
    "tanh": OF_ACTIVATIONS,
    "add": ["activations.missing_term"],
    "linear": [
        "products.missing_bias", "products.left_out", "products.transposed_weight",
        "products.swapped_halves",
    ],
    "conv2d": [
        "products.missing_bias", "products.transposed_weight", "products.other_edges",
        "products.other_padding", "products.flipped_kernel", "products.other_stride",
    ],
    "grouped_conv2d": ["products.missing_bias", "products.flipped_kernel"],
    "convolution": ["products.missing_bias"],
    "upsample2x": ["products.bilinear_upsampling"],
    "pad_bottom_right": ["products.other_corner"],
    "attention": [
        "attention.swapped_inputs", "attention.other_scale", "attention.other_mask",
        "attention.permuted_heads", "attention.tiled_heads", "attention.other_heads",
        "attention.other_softmax", "attention.other_bias", "masks.other_masks",
    ],
    "rotate": OF_ROTATIONS,
    "rotate_halves": OF_ROTATIONS,
    "turn_pairs": ["rotary.other_waves"],
    "timestep_embedding": [
        "embedding.sine_first", "embedding.frequency_shift", "embedding.scaled_timestep",
        "embedding.other_period",
    ],
    "embedding": ["embedding.shifted_ids"],
    "add_number": ["tensors.other_constant"],
    "multiply_number": ["tensors.other_factor"],
    "divide_number": ["tensors.other_divisor"],
    "multiply": ["tensors.missing_factor"],
    "subtract": ["tensors.other_difference"],
    "negate": ["tensors.other_sign"],
    "power": ["tensors.other_base"],
    "sine": ["tensors.other_angles"],
    "cosine": ["tensors.other_angles"],
    "polar": ["tensors.other_turn"],
    "split": ["tensors.exchanged_parts"],
    "join": ["tensors.other_order"],
    "softmax": ["tensors.other_softmax_axis"],
    "masked": ["tensors.other_masking"],
    "repeat_each": ["tensors.other_repeats"],
    "axes": ["tensors.other_axes"],
}  # fmt: skip


def name_of(fault):
    function = fault.variants
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


@pytest.mark.parametrize("operation", ORDER)
def test_the_faults_of_an_operation_are_tried_in_their_order(operation):
    assert [name_of(fault) for fault in faults_of(operation)] == ORDER[operation]


def test_no_other_operation_has_faults():
    assert {name for fault in FAULTS for name in fault.operations} == {*ORDER}


def test_activations_are_exchanged_for_all_others_and_for_none():
    assert [*activations.FUNCTIONS] == [
        "gelu", "tanh_gelu", "quick_gelu", "silu", "sigmoid", "relu", "tanh", "none",
    ]  # fmt: skip
    assert {*ACTIVATIONS, "none"} == {*activations.FUNCTIONS}


def test_each_kind_of_fault_is_listed_once():
    for table in (FAULTS, BETWEEN, IN_BLOCKS):
        pairs = [
            (name_of(fault), operation)
            for fault in table
            for operation in getattr(fault, "operations", ("",))
        ]
        assert len({*pairs}) == len(pairs)


def test_a_source_of_one_word_is_an_issue_or_an_argument_of_embeddings():
    sources = {fault.source for fault in (*FAULTS, *BETWEEN, *IN_BLOCKS)}
    words = {source for source in sources if " " not in source and "#" not in source}
    assert words == {"flip_sin_to_cos", "downscale_freq_shift", "max_period"}
    for source in sources:
        for issue in re.findall(r"\S*#\S*", source):
            assert re.fullmatch(r"[a-zA-Z][\w-]*#\d+[,:]?", issue), source
