"""The table of known faults: what is tried of each operation, and in which order."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from ldmref.backends.named import LayerCall
from ldmref.locate.faults import activations
from ldmref.locate.faults.hypothesis import Hypothesis
from ldmref.locate.faults.table import ACTIVATIONS, BETWEEN, BLOCK, FAULTS, Fault

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
    tried = [fault for fault in FAULTS if operation in fault.applies_to]
    assert [name_of(fault) for fault in tried] == ORDER[operation]


def test_no_other_operation_has_faults():
    known = {name for fault in FAULTS for name in fault.applies_to}
    assert known == {*ORDER, *BETWEEN, *BLOCK}


def test_activations_are_exchanged_for_all_others_and_for_none():
    assert [*activations.FUNCTIONS] == [
        "gelu", "tanh_gelu", "quick_gelu", "silu", "sigmoid", "relu", "tanh", "none",
    ]  # fmt: skip
    assert {*ACTIVATIONS, "none"} == {*activations.FUNCTIONS}


def test_each_kind_of_fault_is_listed_once():
    pairs = [(name_of(fault), where) for fault in FAULTS for where in fault.applies_to]
    assert len({*pairs}) == len(pairs)


def test_a_source_of_one_word_is_an_issue_or_an_argument_of_embeddings():
    sources = {fault.source for fault in FAULTS}
    words = {source for source in sources if " " not in source and "#" not in source}
    assert words == {"flip_sin_to_cos", "downscale_freq_shift", "max_period"}
    for source in sources:
        for issue in re.findall(r"\S*#\S*", source):
            assert re.fullmatch(r"[a-zA-Z][\w-]*#\d+[,:]?", issue), source


def tried(fault, *calls):
    return [*fault.hypotheses("replay", "point", calls)]


def test_a_fault_is_tried_where_it_applies_and_nowhere_else():
    def variants(*what):
        yield "a fault", what

    a, b = (LayerCall(name, "add", {}, {}, {}, np.negative) for name in "ab")
    whole = ("replay", "point")
    of_add = Fault(("add", "negate"), variants, "a test")
    assert tried(of_add, a, b) == [Hypothesis("a fault", {"a": (a,), "b": (a,)})]
    assert tried(of_add) == tried(of_add, replace(a, kind="multiply")) == []
    between, block = (Fault(where, variants, "a test") for where in (BETWEEN, BLOCK))
    assert tried(between) == [Hypothesis("a fault", array=whole)]
    assert tried(block) == [Hypothesis("a fault", changes=whole)]
    assert tried(between, a) == tried(block, a) == []
