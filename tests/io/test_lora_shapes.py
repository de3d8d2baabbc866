"""The shapes that each form of an adapter needs, the ranks that divide alpha, PEFT's factors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldmref.errors import CorruptModelError
from ldmref.io.adapters.formulas import kronecker_change, tucker_kernel
from ldmref.io.adapters.lora_file import MAX_ALPHA, MAX_RANK, LayerConfig, layer_config, matches
from ldmref.io.adapters.lora_forms import (
    FACTORED,
    FORMS,
    bare,
    compute_change,
    expected_shapes,
    find_form,
    rank_of,
)

LAYER = (6, 8)
KERNEL = (6, 8, 3, 3)
R = 2


def fits(form, have, layer=LAYER):
    """Whether these shapes are just what the form needs."""
    return expected_shapes(form, have, layer) == have


HADAMARD = {"hada_w1_a": (6, R), "hada_w1_b": (R, 8), "hada_w2_a": (6, 3), "hada_w2_b": (3, 8)}
TUCKER = {
    "hada_w1_a": (R, 6),
    "hada_w1_b": (R, 8),
    "hada_t1": (R, R, 3, 3),
    "hada_w2_a": (3, 6),
    "hada_w2_b": (3, 8),
    "hada_t2": (3, 3, 3, 3),
}
FITTING = {
    "LoRA": ("LoRA", {"down": (R, 8), "up": (6, R)}, LAYER),
    "LoRA of a kernel": ("LoRA", {"down": (R, 8, 3, 3), "up": (6, R)}, KERNEL),
    "LoRA with a core": ("LoRA", {"down": (R, 8), "up": (6, R), "mid": (R, R, 3, 3)}, KERNEL),
    "LoRA of 1 x 1": ("LoRA", {"down": (R, 8), "up": (6, R), "mid": (R, R)}, LAYER),
    "LoHa": ("LoHa", HADAMARD, LAYER),
    "LoHa of a kernel": (
        "LoHa", HADAMARD | {"hada_w1_b": (R, 72), "hada_w2_b": (3, 72)}, KERNEL,
    ),
    "LoHa with cores": ("LoHa", TUCKER, KERNEL),
    "LoKr": ("LoKr", {"lokr_w1": (2, 4), "lokr_w2": (3, 2)}, LAYER),
    "LoKr of a kernel": ("LoKr", {"lokr_w1": (2, 4), "lokr_w2": (3, 2, 3, 3)}, KERNEL),
    "LoKr of a small product": (
        "LoKr", {"lokr_w1_a": (2, R), "lokr_w1_b": (R, 4), "lokr_w2": (3, 2)}, LAYER,
    ),
    "LoKr of a large product": (
        "LoKr", {"lokr_w1": (2, 4), "lokr_w2_a": (3, R), "lokr_w2_b": (R, 2)}, LAYER,
    ),
    "LoKr of a flat kernel": (
        "LoKr", {"lokr_w1": (2, 4), "lokr_w2_a": (3, R), "lokr_w2_b": (R, 18)}, KERNEL,
    ),
    "LoKr of a whole kernel": (
        "LoKr", {"lokr_w1": (2, 4), "lokr_w2_a": (3, R), "lokr_w2_b": (R, 2, 3, 3)}, KERNEL,
    ),
    "LoKr with a core": (
        "LoKr",
        {"lokr_w1": (2, 4), "lokr_w2_a": (R, 3), "lokr_w2_b": (R, 2), "lokr_t2": (R, R, 3, 3)},
        KERNEL,
    ),
    "whole": ("whole", {"whole": LAYER}, LAYER),
    "difference": ("difference", {"diff": KERNEL}, KERNEL),
}  # fmt: skip


@pytest.mark.parametrize("name", FITTING)
def test_fitting_shapes_are_expected(name):
    form, have, layer = FITTING[name]
    assert fits(form, have, layer) and find_form(have) == form
    if form in FACTORED:
        assert fits(form, have | {"alpha": ()}, layer)
        assert fits(form, have | {"alpha": (1,)}, layer)
        assert not fits(form, have | {"alpha": (2,)}, layer)


@pytest.mark.parametrize("name", FITTING)
def test_a_missing_or_another_shape_is_noticed(name):
    form, have, layer = FITTING[name]
    for role in have:
        if len(have) > 1 and name != "LoRA of 1 x 1":  # whose core may be missing
            less = {other: shape for other, shape in have.items() if other != role}
            assert not fits(form, less, layer), role
            if role not in ("mid", "lokr_t2"):  # without which the layer has another form
                assert role in expected_shapes(form, less, layer)
        for axis in range(len(have[role])):
            shape = [*have[role]]
            shape[axis] += 5
            assert not fits(form, have | {role: tuple(shape)}, layer), (role, axis)


@pytest.mark.parametrize("role", ["magnitude", "row_magnitude"])
def test_a_magnitude_is_one_of_rows_or_of_columns(role):
    have = {"down": (R, 8), "up": (6, R)}
    allowed = {"magnitude": [(6, 1), (6,), (1, 8)], "row_magnitude": [(6,), (1, 6)]}[role]
    for shape in [(6, 1), (6,), (1, 8), (1, 6), (8,), (8, 1)]:
        assert fits("LoRA", have | {role: shape}) == (shape in allowed)
    both = have | {"magnitude": (6,), "row_magnitude": (6,)}
    assert not fits("LoRA", both)


def test_a_layer_with_alpha_alone_lacks_a_lora():
    assert find_form({"alpha"}) == find_form({"magnitude"}) == "LoRA"
    assert {*expected_shapes("LoRA", {"alpha": ()}, LAYER)} == {"down", "up", "alpha"}
    assert {*expected_shapes("LoKr", {"alpha": ()}, LAYER)} == {"lokr_w1", "lokr_w2", "alpha"}


def test_a_1x1_kernel_is_a_matrix():
    assert bare((6, 8, 1, 1)) == (6, 8)
    assert bare((6, 8, 3, 3)) == (6, 8, 3, 3)
    assert bare((6, 8, 1, 3)) == (6, 8, 1, 3)
    assert bare((6,)) == (6,)


def arrays(have):
    rng = np.random.default_rng(1)
    return {role: rng.standard_normal(shape) for role, shape in have.items()}


def test_the_rank_is_that_of_the_second_factor():
    for name, (form, have, _) in FITTING.items():
        if form in FACTORED:
            products = {"lokr_w1_a", "lokr_w2_a"} & have.keys()
            wanted = None if form == "LoKr" and not products else R
            assert rank_of(form, arrays(have)) == wanted, name
    both = {"lokr_w1_b": np.zeros((5, 4)), "lokr_w2_b": np.zeros((3, 2))}
    assert rank_of("LoKr", both) == 3


def test_changes_are_their_formulas():
    assert {*FACTORED} < {*FORMS}
    for name, (form, have, layer) in FITTING.items():
        if form not in FACTORED:
            continue
        x = arrays(have)
        y = dict(x)
        if name == "LoHa with cores":  # the rows first, as `lora_changes` passes them
            y |= {role: x[role].T for role in ("hada_w1_a", "hada_w2_a")}
        got = compute_change(form, y, layer)
        assert got.shape == layer and got.dtype == np.float64
        np.testing.assert_allclose(got, _by_hand(name, x).reshape(layer), atol=1e-12)


def _by_hand(name, x):
    if name == "LoHa with cores":
        one, two = (
            np.einsum("pqxy,po,qi->oixy", x[f"hada_t{n}"], x[f"hada_w{n}_a"], x[f"hada_w{n}_b"])
            for n in (1, 2)
        )
        return one * two
    if name.startswith("LoHa"):
        return (x["hada_w1_a"] @ x["hada_w1_b"]) * (x["hada_w2_a"] @ x["hada_w2_b"])
    if name.startswith("LoRA"):
        if "mid" in x:
            mid = x["mid"].reshape(R, R, -1)
            return np.einsum("op,pqz,qi->oiz", x["up"], mid, x["down"])
        return np.tensordot(x["up"], x["down"], 1)
    small = x["lokr_w1"] if "lokr_w1" in x else x["lokr_w1_a"] @ x["lokr_w1_b"]
    if "lokr_t2" in x:
        large = tucker_kernel(x["lokr_t2"], x["lokr_w2_a"].T, x["lokr_w2_b"])
    elif "lokr_w2" in x:
        large = x["lokr_w2"]
    else:
        large = np.tensordot(x["lokr_w2_a"], x["lokr_w2_b"], 1)
        large = large.reshape(3, 2, 3, 3) if large.size > 6 else large
    return kronecker_change(small, large)


# -- what PEFT records ----------------------------------------------------------------------------


def config(adapter, tensor="unet.mid.to_q.weight", name="unet.mid.to_q.lora_A.weight"):
    return layer_config(adapter, tensor, name)


def test_alpha_and_rank_of_every_kind():
    recorded = {"lora_alpha": 8, "alpha": 3, "r": 4}
    assert config(recorded) == LayerConfig(8.0, 4.0)
    assert config(recorded | {"peft_type": "LORA"}) == LayerConfig(8.0, 4.0)
    for kind in ("LOHA", "LOKR"):
        assert config(recorded | {"peft_type": kind}) == LayerConfig(3.0, 4.0)
    assert config({}) == LayerConfig()
    assert config({"r": 0}).rank is None
    flags = config({"use_rslora": True, "use_dora": True})
    assert flags.use_rslora and flags.use_dora
    with pytest.raises(CorruptModelError) as caught:
        config({"peft_type": "OFT"})
    assert caught.value.code == "E-LORA"


def test_each_network_has_its_own():
    both = {"unet.lora_alpha": 8, "text_encoder.lora_alpha": 2, "lora_alpha": 1}
    assert config(both).alpha == 8.0
    assert config(both, "text_encoder.a.q_proj.weight").alpha == 2.0
    assert config(both, "text_encoder_2.a.q_proj.weight").alpha == 1.0


def test_a_pattern_comes_before_what_holds_for_all():
    recorded = {
        "lora_alpha": 8,
        "r": 4,
        "alpha_pattern": {"to_k": 1, "to_q": 2, "mid.to_q": 3},
        "rank_pattern": {"up.*": 16},
    }
    assert config(recorded) == LayerConfig(2.0, 4.0)
    assert config(recorded, "unet.up.0.to_v.weight") == LayerConfig(2.0, 16.0)
    other = config(recorded, "unet.up.0.to_v.weight", "unet.up.0.to_v.lora_A.weight")
    assert other == LayerConfig(8.0, 16.0)
    with pytest.raises(CorruptModelError):
        config({"alpha_pattern": ["to_q"]})


@pytest.mark.parametrize("kind", ["lora_A", "hada_w1_a", "lokr_w2"])
def test_patterns_are_of_the_files_own_paths_too(kind):
    recorded = {"lora_alpha": 8, "alpha": 8, "alpha_pattern": {"blocks.0.qkv": 2}}
    name = f"blocks.0.qkv.{kind}.weight"
    assert layer_config(recorded, "transformer.a.to_q.weight", name).alpha == 2.0


@pytest.mark.parametrize("value", ["8", True, [8], math.nan, math.inf, 2 * MAX_ALPHA])
def test_an_alpha_is_a_number(value):
    with pytest.raises(CorruptModelError) as caught:
        config({"lora_alpha": value})
    assert caught.value.code == "E-LORA"


def test_ranks_and_alphas_have_ends():
    assert config({"lora_alpha": -MAX_ALPHA, "r": MAX_RANK}) == LayerConfig(-MAX_ALPHA, 2.0**24)
    with pytest.raises(CorruptModelError):
        config({"r": MAX_RANK + 1})


def test_the_factor_of_a_change():
    assert LayerConfig(8.0, 16.0).scale(4) == 2.0
    assert LayerConfig(8.0, 16.0).scale(None) == 0.5
    assert LayerConfig(8.0).scale(None) == LayerConfig(None, 16.0).scale(4) == 1.0
    assert LayerConfig(8.0, 16.0, use_rslora=True).scale(4) == 4.0
    assert LayerConfig(8.0, 16.0, use_rslora=True).scale(None) == 2.0


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("to_q", "attn.to_q", True), ("to_q", "to_q", True), ("o_q", "attn.to_q", False),
        ("attn", "attn.to_q", False), ("to__q", "a.to__q", True), ("a.*q", "x.ab.q", True),
        ("[ab]\\d", "x.a1", True), ("[ab]\\d", "x.ca1", False), ("a|b", "x.b", True),
        ("a*b*", "x.aab", True),
    ],
)  # fmt: skip
def test_patterns_match_whole_ends_of_paths(pattern, path, expected):
    assert matches(pattern, path) == expected


@pytest.mark.parametrize("pattern", ["a*b*c*", "(ab)*", "(ab)+", "(a){3}", "[" + "a" * 300, "["])
def test_patterns_that_are_too_involved_or_none_are_refused(pattern):
    with pytest.raises(CorruptModelError) as caught:
        matches(pattern, "a.b")
    assert caught.value.code == "E-LORA"
    assert not matches("[a]" + "b" * 297, "a")
