"""Small rules of the locator: verdicts, names, shapes, formats, rows of a report."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

import ldmref
from ldmref.errors import UsageError
from ldmref.locate import DiffReport, Row, diff_traces, law, report
from ldmref.locate.alignment import align
from ldmref.locate.arguments import RecordedArguments
from ldmref.locate.layouts import recognise, relative_error
from ldmref.locate.names import find_entry, latent_scale, layers_of, read_array, read_role
from ldmref.locate.nonfinite import explain_nonfinite
from ldmref.locate.pairs import Hypothesis, Tried, likely_pairs, sample
from ldmref.locate.precision import EPSILONS, UNITS, port_dtype, round_to
from ldmref.locate.rotations import TABLES, read_positions
from ldmref.locate.rows import (
    REFERENCE_ALONE,
    compare_reference,
    identical_dumps,
    is_within,
    less_strict,
)
from ldmref.trace import build_trace


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


# -- the law --------------------------------------------------------------------------------------


def test_a_cause_leaves_rounding_and_a_quarter_of_the_error_at_most():
    assert law.explains(1.0, 8.0, 1.0) and not law.explains(1.0 + 1e-9, 8.0, 1.0)
    assert law.explains(1.0, 4.0, 9.0) and not law.explains(1.0 + 1e-9, 4.0, 9.0)
    assert law.explains(0.0, 1.0, 0.0) and not law.explains(0.0, 0.0, 1.0)
    assert law.is_clearly_better(0.49, 1.0) and not law.is_clearly_better(0.5, 1.0)


def test_floors_are_half_a_unit_at_least():
    assert law.noise_floor(3.0, 2.0) == 3.0 and law.noise_floor(0.5, 2.0) == 1.0
    assert law.noise_floor(math.inf, 2.0) == law.noise_floor(math.nan, 2.0) == 2.0
    assert law.allowed_error(3.0, 2.0) == 48.0 and law.allowed_error(0.5, 2.0) == 16.0
    assert law.allowed_error(3.0) == 48.0 and law.allowed_error(0.0) == 0.0


def test_the_first_cause_is_taken_unless_a_later_one_is_clearly_better():
    tried = [("bad", 0.9), ("first", 1e-7), ("alike", 0.6e-7), ("best", 0.4e-7)]
    assert law.choose_cause(tried, 1.0, 1e-6) == ("best", 0.4e-7)
    assert law.choose_cause(tried[:3], 1.0, 1e-6) == ("first", 1e-7)
    assert law.choose_cause(tried[:1], 1.0, 1e-6) is None and law.choose_cause([], 1.0, 1.0) is None


# -- relations of arrays --------------------------------------------------------------------------


def test_tokens_whose_zeros_are_in_front():
    right = normal(0, 2, 4, 6)
    right[:, 1:3, 4:] = 0.0
    got = right.copy()
    got[:, 1:3] = np.roll(right[:, 1:3], 2, axis=2)
    found = recognise(got, right, 1e-9)
    assert found is not None
    assert found.text == "the zeros of tokens [1:3] are in front instead of behind"
    assert np.array_equal(found.array, right)
    empty = right.copy()
    empty[:, 3] = 0.0  # a token without any number has no place for its zeros
    got[:, 3] = 0.0
    assert "[1:3]" in recognise(got, empty, 1e-9).text


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (1.5, "scaled by 1.5"),
        (-1.0, "sign reversed"),
        (-1.0002, "scaled by -1.0002"),
        (-2.0, "scaled by -2"),
        (1 / 3, "scaled by 0.33333 = 1/3"),
        (0.5, "scaled by 0.5"),
        (1 / 0.18215, "scaled by 5.49"),
        (0.25, "scaled by 0.25"),
    ],
)
def test_factors_are_written_as_the_rounder_number(factor, text):
    right = normal(0, 3, 5)
    found = recognise(factor * right, right, 1e-9)
    assert found is not None and found.text.startswith(text)
    assert relative_error(found.array, right) < 1e-12


def test_one_number_is_not_shifted():
    assert recognise(np.array([5.0]), np.array([2.0]), 1e-9).text == "scaled by 2.5"
    two = recognise(np.array([3.0, 4.0]), np.array([2.0, 3.0]), 1e-9)
    assert two is not None and two.text == "shifted by 1"


def test_pixels_of_another_range():
    right = np.linspace(-0.9, 0.8, 32).reshape(1, 2, 4, 4)
    for factor, constant, words in (
        (0.5, 0.5, "pixels in [0, 1]"),
        (2.0, -1.0, "pixels in [-1, 1] instead of [0, 1]"),
        (127.5, 127.5, "pixels from 0 to 255"),
    ):
        found = recognise(factor * right + constant, right, 1e-9)
        assert found is not None and found.text.startswith(words)
        assert relative_error(found.array, right) < 1e-12


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "scale"),
    [
        ("conv_in", 1.0),
        ("conv_out", 1.0),
        ("down_blocks.0.resnets.0", 1.0),
        ("down_blocks.2.resnets.0", 4.0),
        ("mid_block.resnets.0", 4.0),
        ("up_blocks.0.resnets.0", 4.0),
        ("up_blocks.2.resnets.0", 1.0),
        ("up_blocks.0.upsamplers.0", 4.0),
        ("up_blocks.0.upsamplers.0.conv", 2.0),
        ("encoder.conv_in", 0.25),
        ("encoder.conv_out", 1.0),
        ("encoder.down_blocks.0.resnets.0", 0.25),
        ("encoder.down_blocks.2.resnets.0", 1.0),
        ("encoder.mid_block.resnets.0", 1.0),
        ("encoder.down_blocks.0.resnets.0", 0.25),
        ("encoder.down_blocks.2.resnets.0", 1.0),
        ("decoder.conv_in", 1.0),
        ("decoder.mid_block.resnets.0", 1.0),
        ("decoder.up_blocks.0.resnets.0", 1.0),
        ("decoder.up_blocks.2.resnets.0", 0.25),
        ("decoder.up_blocks.0.upsamplers.0.conv", 0.5),
        ("decoder.conv_out", 0.25),
        ("time_embedding.linear_1", None),
        ("down_blocks.0.resnets.0.time_emb_proj", None),
        ("add_embedding.linear_1", None),
        ("class_embedding", None),
        ("text_model.embeddings", None),
    ],
)
def test_how_many_latent_pixels_a_pixel_spans(layer, scale):
    assert latent_scale(layer, 3) == scale


def test_names_of_other_programs():
    names = {
        "a.silu~1": ("a.nonlinearity~1", "a.act~1", "a.silu~1"),
        "silu": ("nonlinearity", "act", "conv_act", "activation"),
        "gelu": ("activation_fn", "act_fn"),
        "quick_gelu": ("activation_fn", "act_fn"),
        "gelu_tanh": ("gelu", "act", "activation_fn", "act_fn"),
        "act_mlp": ("gelu",),
        "act": ("gelu",),
        "layer_norm": ("norm", "norm2"),
        "unet.conv_in": ("conv_in",),
        "model.layers.0": ("layers.0",),
        "a.shared": ("a.encoder.embed_tokens",),
        "b.layer_norm~1": ("b.norm2_context", "b.norm~1", "b.norm2~1"),
        "text_model.final_layer_norm": ("final_layer_norm",),
        "encoder.layers.0": ("text_model.encoder.layers.0",),
        "vae.decoder": ("decoder",),
    }
    for own, others in names.items():
        for name in (own, *others):
            port = build_trace({f"unet.000/{name}/output": np.zeros(2)})
            found = find_entry(port, "unet.000", SimpleNamespace(name=own))
            assert found is not None and found.layer == name
    port = build_trace({"unet.000/a.norm/output": np.zeros(2)})
    assert find_entry(port, "unet.000", SimpleNamespace(name="a.silu")) is None


def test_roles_of_other_programs():
    x = np.arange(3.0)
    port = build_trace({"unet.000/a/input": x})
    name = "unet.000/a/input"
    names = {
        "emb": ("temb", "conditioning_embedding"),
        "pooled": ("pooled_projection",),
        "context": ("encoder_hidden_states",),
        "modulation": ("temb_mod",),
        "text_modulation": ("temb_mod_context",),
        "ids": ("input_ids",),
        "input": ("hidden_states", "sample", "timestep", "latent", "x", "0"),
    }
    for role, other in ((role, other) for role, others in names.items() for other in others):
        assert np.array_equal(read_role(port, {other: name}, role), x)
        assert np.array_equal(read_role(port, {role: name}, role), x)
    assert read_role(port, {"1": name}, "k", ["input", "k"]) is not None
    assert read_role(port, {"1": name}, "input", ["input", "k"]) is None
    assert read_role(port, {"0": name}, "output") is not None


def test_whole_numbers_are_floats_unless_they_select():
    kinds = {
        "text_encoder.000//input.input_ids": np.int64,
        "text_encoder.000//input.attention_mask": np.int64,
        "a.000/token_embedding/input": np.int64,
        "a.000/conv/input": np.float64,
        "a.000//input.timestep": np.int64,
    }
    for name, kind in kinds.items():
        port = build_trace({name: np.arange(3, dtype=np.int32)})
        assert read_array(port, name).dtype == kind, name
    port = build_trace({"a.000/x/input": np.ones(2, np.float16)})
    assert read_array(port, "a.000/x/input").dtype == np.float64


def test_layers_of_a_tree():
    tree = {"a": {"weight": 1, "b": {"bias": 2}}, "c": {"weight": 3}}
    assert dict(layers_of(tree, "")) == {"a": {"weight": 1}, "a.b": {"bias": 2}, "c": {"weight": 3}}
    assert dict(layers_of({"weight": 1}, "x")) == {"x": {"weight": 1}}


# -- arguments ------------------------------------------------------------------------------------


def arguments_of(tensors):
    return RecordedArguments(build_trace(tensors), "unet.000", None)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("conv_in/input", (2, 4, 6, 8), (2, 6, 8)),
        ("down_blocks.1.resnets.0/input", (2, 4, 3, 4), (2, 6, 8)),
        ("down_blocks.1.attentions.0/input", (3, 9, 4), (3, 6, 6)),
        ("down_blocks.1.attentions.0/input", (3, 8, 4), (3, 4, 4)),
        ("down_blocks.0.downsamplers.0/output", (1, 4, 3, 4), (1, 6, 8)),
        ("up_blocks.0.upsamplers.0/output", (1, 4, 6, 8), (1, 6, 8)),
        ("time_embedding.linear_1/input", (5, 4), (5, 4, 4)),
    ],
)
def test_the_size_of_latents_follows_from_a_layer(name, shape, expected):
    found = arguments_of({f"unet.000/{name}": np.zeros(shape)})
    assert found.batch_and_size(2) == expected


def test_the_number_of_tokens_follows_from_a_layer():
    def shape_of(**layers):
        tensors = {
            f"unet.000/{name.replace('_of_', '.')}/input": np.zeros(x) for name, x in layers.items()
        }
        return arguments_of(tensors).text_shape()

    assert shape_of(a=(2, 7, 3)) == (2, 7)
    assert shape_of(a=(2, 3, 7, 4)) == (2, 7)
    assert shape_of(a=(2, 7)) is None
    assert shape_of(relative_attention_bias=(7, 7)) == (1, 7)
    assert shape_of(relative_attention_bias=(7, 7), z=(2, 5, 3)) == (2, 5)
    tokens = arguments_of(
        {"unet.000/a.x/output": np.zeros((1, 6, 2)), "unet.000/b/output": np.zeros((1, 2))}
    )
    assert tokens.length("x") == 6 and tokens.length("b") == tokens.length("c") == 1
    assert tokens.layer_output("b").shape == (1, 2) and tokens.layer_output("c") is None


def test_numbered_arguments():
    found = arguments_of({f"unet.000//input.r.{i}": np.full(1, i) for i in (0, 1, 3)})
    assert [int(x[0]) for x in found.read_numbered("r")] == [0, 1]
    assert found.complete
    missing = found.missing((2, 3))
    assert missing.shape == (2, 3) and np.isnan(missing).all() and not found.complete


# -- operations that are left out -----------------------------------------------------------------


def test_operations_are_aligned_by_their_numbers():
    arrays = [{"input": np.full(2, float(i + 1))} for i in range(5)]
    assert align(arrays, [arrays[1], arrays[4]]) == (None, 0, None, None, 1)
    assert align(arrays, arrays) == (0, 1, 2, 3, 4)
    assert align(arrays[:2], []) == (None, None)
    other = {"output": np.zeros(3)}  # which shares no role with the others
    assert align([arrays[0], arrays[1]], [other]) == (0, None)
    many = [{"input": np.full(1, float(i))} for i in range(30)]
    assert align(many, many[15:]) == (*range(15), *[None] * 15)  # too many to try


# -- what is not finite ---------------------------------------------------------------------------


def test_why_an_array_is_not_finite():
    inf = np.array([1.0, np.inf])
    assert explain_nonfinite(inf, np.array([1.0, 65505.0]), "").endswith("2^-1")
    assert explain_nonfinite(inf, np.array([1.0, 65504.0 * 4]), "").endswith("2^-2")
    assert explain_nonfinite(inf, np.array([1.0, -65504.0 * 4.1]), "").endswith("2^-3")
    assert explain_nonfinite(inf, np.array([1.0, 65504.0]), "") == ""
    assert explain_nonfinite(inf, np.array([1e9, 3.0]), "") == ""
    assert explain_nonfinite(inf, np.array([1.0, np.inf]), "") == ""
    assert explain_nonfinite(inf, np.array([[1.0, 1e9]]), "") == ""
    rows = np.array([[np.nan, np.nan], [1.0, 2.0]])
    masked = "all keys of these queries are masked: the softmax of -inf alone is NaN"
    assert explain_nonfinite(rows, np.ones((2, 2)), "attention") == masked
    assert explain_nonfinite(rows, np.ones((2, 2)), "linear") == ""
    assert explain_nonfinite(rows.T, np.ones((2, 2)), "attention") == ""


# -- positions ------------------------------------------------------------------------------------


def positions_of(positions, dims=(4, 6), change=lambda c, s: (c, s), theta=10000.0):
    angles = np.concatenate(
        [
            np.repeat(positions[:, i : i + 1] * theta ** (-np.arange(0, d, 2) / d), 2, axis=1)
            for i, d in enumerate(dims)
        ],
        axis=1,
    )
    tables = change(np.cos(angles), np.sin(angles))
    roles = dict(zip(TABLES, ("a.000/x/input.c", "a.000/x/input.s"), strict=True))
    port = build_trace(dict(zip(roles.values(), tables, strict=True)))
    return read_positions(port, SimpleNamespace(inputs=roles), dims)


def test_positions_are_read_from_tables_of_angles():
    positions = np.array([[0.0, 0.0], [1.0, 5.0], [7.0, 40.0]])
    assert np.array_equal(positions_of(positions), positions)
    fast = np.arange(10) == 4  # the channel of the largest angles of the second axis
    for table in (0, 1):
        for factor, known in ((0.99, True), (1.01, False)):
            moved = factor * 2.0**-6 * fast * np.array([[table == 0], [table == 1]])
            found = positions_of(
                positions, change=lambda c, s, moved=moved: (c + moved[0], s + moved[1])
            )
            assert (found is not None) == known
    assert positions_of(positions, change=lambda c, s: (c, s[:, :-1])) is None
    assert positions_of(positions, change=lambda c, s: (c[:, 2:], s[:, 2:])) is None
    assert positions_of(positions, theta=500.0) is None
    assert read_positions(None, SimpleNamespace(inputs={}), (4, 6)) is None


# -- formats --------------------------------------------------------------------------------------


def test_numbers_are_rounded_to_a_format():
    x = np.array([1.0 + 2.0**-9, 1.0 + 3 * 2.0**-9])
    assert round_to(x, "bfloat16").tolist() == [1.0, 1.0 + 2.0**-7]
    assert np.array_equal(round_to(x, "float16"), x) and round_to(x, "float64") is x
    assert round_to(np.array([1e6]), "float16").tolist() == [np.inf]
    ids = np.array([3, 4])
    assert round_to(ids, "float16") is ids
    assert round_to(x, "float32").dtype == np.float64


def test_the_format_of_a_port():
    tensors = {
        "unet.000/a/output": np.zeros(2, np.float16),
        "unet.000/b/output": np.zeros(2, np.float16),
    }
    tensors["unet.000/c/output"] = np.zeros(2, np.float32)
    assert port_dtype(build_trace(tensors)) == "float16"
    assert port_dtype(build_trace(tensors), "bfloat16") == "bfloat16"
    assert port_dtype(build_trace(tensors, {"dtype": "float32"})) == "float32"
    assert port_dtype(build_trace(tensors, {"backend": {"dtype": "float64"}})) == "float64"
    assert port_dtype(build_trace(tensors, {"dtype": "float32"}), "bfloat16") == "bfloat16"
    assert port_dtype(build_trace({})) == "float32"
    kinds = {name: "BF16" for name in tensors}
    assert port_dtype(build_trace(tensors, kinds=kinds)) == "bfloat16"
    with pytest.raises(UsageError, match="int8"):
        port_dtype(build_trace(tensors), "int8")


# -- rows -----------------------------------------------------------------------------------------


def test_parts_of_layers():
    assert is_within("a.b", ["a"]) and is_within("a", ["a"]) and is_within("a.b.c", ["x", "a.b"])
    assert not is_within("ab", ["a"]) and not is_within("a", ["a.b"]) and not is_within("a", [])


def test_rounding_of_float32_in_float64():
    rows = [Row("u", x, verdict="differs") for x in "abc"] + [Row("u", "d")]
    again = [Row("u", "a"), Row("u", "b", verdict="differs"), Row("u", "c", verdict="noisy")]
    found = less_strict(rows, lambda: again, "float64")
    assert [row.verdict for row in found] == ["noisy", "differs", "noisy", "equal"]
    assert "float32" in found[0].note and found[1] is rows[1] and found[3] is rows[3]
    assert less_strict(rows, lambda: again, "float32") is rows
    equal = rows[3:]
    assert less_strict(equal, lambda: 1 / 0, "float64") is equal


def test_layers_that_recorded_one_buffer():
    same = np.arange(3.0)
    tensors = {f"u.000/{x}/output": same for x in ("a", "b", "c", "c.d")}
    tensors["u.000/e/output"] = same + 1.0
    rows = [Row("u.000", x, verdict="differs") for x in ("a", "c", "e")] + [Row("u.000", "b")]
    found = {row.layer: row.cause for row in identical_dumps(build_trace(tensors), rows)}
    text = "identical dumps: the same numbers as"
    assert found == {"a": f"{text} b and 2 more", "c": f"{text} a and 1 more", "e": "", "b": ""}
    known = [
        Row("u.000", "a", verdict="differs", cause="x"),
        Row("u.000", "b", "wiring", verdict="differs"),
    ]
    assert identical_dumps(build_trace(tensors), known) == known
    reshaped = {"u.000/a/output": same, "u.000/b/output": same[None]}
    assert identical_dumps(build_trace(reshaped), rows[:1]) == rows[:1]


def test_differences_from_a_reference():
    port = build_trace(
        {
            "u.000/0/output": np.ones(2),
            "u.000/a/output": np.array([1.0, 2.0]),
            "u.000/b/output": np.ones(2),
            "u.000/c/output": np.ones(3),
        }
    )
    other = build_trace(
        {
            "u.000/a/output": np.array([1.0, 4.0]),
            "u.000/b/output": np.ones(2),
            "u.000/c/output": np.ones(2),
        }
    )
    rows, doubts = compare_reference(port, other, [Row("u.000", "a"), Row("u.000", "a", "wiring")])
    assert [(row.layer, row.kind, row.inherited, row.verdict) for row in rows] == [
        ("a", "own", 0.5, "equal"),
        ("a", "wiring", None, "equal"),
        ("b", "own", 0.0, "not judged"),
    ]
    assert [row.note for row in rows] == ["", "", REFERENCE_ALONE]
    assert len(doubts) == 1 and doubts[0].startswith("1 layer ")
    parts = [Row("u.000", "", "a"), Row("u.000", "b", "wiring")]  # a part of a step is judged
    rest = compare_reference(port, other, parts)[0][2:]
    assert [(row.layer, row.verdict, row.inherited) for row in rest] == [("b", "not judged", 0.0)]
    wrong = Row("u.000", "a", verdict="differs")
    assert compare_reference(port, other, [wrong])[1] == []
    near = build_trace({"u.000/a/output": np.array([1.0, 2.0 * 1.0101])})
    assert compare_reference(port, near, [Row("u.000", "a")])[1] == []


# -- pairs of faults ------------------------------------------------------------------------------


def test_pairs_whose_effects_add_up_come_first():
    effects = [normal(i, 50) for i in range(5)]
    tried = [Tried(Hypothesis(str(i)), 1.0 + i, x) for i, x in enumerate(effects)]

    def names(difference, tried=tried):
        return [a.hypothesis.text + b.hypothesis.text for a, b in likely_pairs(difference, tried)]

    assert names(effects[0] + effects[3])[0] == "03"
    found = names(effects[2] + effects[4])
    assert found[4] == "24"  # after the four pairs of the one that leaves least
    assert sorted("".join(sorted(x)) for x in found) == [
        "01", "02", "03", "04", "12", "13", "14", "23", "24", "34",
    ]  # fmt: skip
    assert names(effects[0], tried[:1]) == []
    small = Tried(Hypothesis("s"), 0.0, 1e-4 * effects[0])
    short = Tried(Hypothesis("t"), 0.0, effects[0][:3])
    bad = Tried(Hypothesis("n"), 0.0, effects[0] * np.nan)
    assert "".join(names(effects[0] + effects[1], [*tried[:2], small, short, bad])) == "01"


def test_faults_that_are_joined():
    def add(call, x):
        return call.compute(x) + 1

    a = Hypothesis("a", {"x": add, "y": add}, {"p": 1})
    b = Hypothesis("b", {"x": lambda call, x: 2 * call.compute(x)}, {"q": 2}, True)
    both = a.joined(b)
    assert both is not None and both.text == "a, and b" and both.free
    assert both.arguments == {"p": 1, "q": 2} and set(both.changes) == {"x", "y"}
    assert a.joined(Hypothesis("c", arguments={"p": 3})) is None
    assert a.joined(Hypothesis("c", array=np.zeros(1))) is None
    assert Hypothesis("c", array=np.zeros(1)).joined(a) is None
    alone = Hypothesis("c", {"x": add}).joined(Hypothesis("d", {"y": add}))
    assert alone is not None and alone.arguments is None and not alone.free


def test_samples_of_arrays():
    x = np.arange(10000.0).reshape(100, 100)
    found = sample(x)
    assert np.array_equal(found, np.arange(0.0, 10000.0, 4.0))
    assert np.array_equal(sample(x[0]), x[0]) and len(sample(np.zeros(0))) == 0


# -- the report -----------------------------------------------------------------------------------


def test_rows_of_several_calls_are_one_fault():
    rows = [
        Row(
            f"unet.{i:03}",
            "a",
            error=float(i),
            allowed=1.0,
            verdict="differs",
            cause=f"scaled by 1.{i}",
        )
        for i in range(3)
    ]
    rows.insert(1, Row("unet.000", "b", error=9.0, allowed=1.0, verdict="differs"))
    groups = report.group_rows(rows)
    assert [group.name for group in groups] == ["unet.000 to unet.002/a", "unet.000/b"]
    assert groups[0].worst.error == 2.0
    assert [g.worst.layer for g in report.group_rows(rows, worst_first=True)] == ["b", "a"]
    assert report.summary(DiffReport(tuple(rows))).startswith(
        "2 faults in 4 layers and computations, 1 explained"
    )


def test_excess_and_verdicts():
    assert Row("u", "a", error=2.0, allowed=0.5).excess == 4.0
    assert Row("u", "a", error=1.0).excess == math.inf and math.isnan(Row("u", "a").excess)
    assert Row("u", "a", error=1.0, verdict="not judged").excess == 0.0
    unknown, equal, noisy = (Row("u", "a", verdict=x) for x in ("not judged", "equal", "noisy"))
    for rows, gaps, verdict in (
        ([equal], (), "equal"),
        ([noisy], (), "equal"),
        ([equal, unknown], (), "incomplete"),
        ([equal], ("gap",), "incomplete"),
        ([unknown], (), "nothing compared"),
        ([], ("gap",), "nothing compared"),
    ):
        assert DiffReport(tuple(rows), gaps=gaps).verdict == verdict
    alone = DiffReport((Row("u", "a", verdict="not judged", inherited=0.5),))
    assert (
        alone.verdict == "incomplete"
        and "the largest difference is 0.5, of u/a" in report.summary(alone)
    )


def test_the_largest_difference_from_a_reference_is_named():
    rows = [
        Row("u", name, verdict="not judged", inherited=x)
        for name, x in (("a", 0.0), ("b", 0.25), ("c", 0.5), ("d", 0.125), ("e", None))
    ]
    for order in (rows, rows[::-1], [*rows[2:], *rows[:2]]):
        text = report.summary(DiffReport(tuple(order)))
        assert text.startswith("4 layers compared with the reference alone")
        assert "the largest difference is 0.5, of u/c" in text
    assert report.summary(DiffReport(())).startswith("nothing was compared")


def test_what_was_not_judged_has_no_errors_in_the_table():
    numbers = {"error": 1.0, "allowed": 2.0, "bound": 3.0, "inherited": 4.0}
    for verdict, shown in (("differs", ["1", "2", "3", "4"]), ("not judged", ["", "", "", "4"])):
        row = Row("u", "a", "wiring", verdict=verdict, **numbers)
        cells = report.table(DiffReport((row,)))[1]
        assert cells[0] == "u/a (wiring)" and cells[1:5] == shown
    assert report.table(DiffReport((Row("u", "", verdict="differs"),)))[1][0] == "u"


def test_what_a_summary_adds():
    equal, unknown = Row("u", "a"), Row("u", "b", verdict="not judged")
    said = report.summary(DiffReport((equal, equal), dtype="float16"))
    assert said == "2 layers and computations agree within the rounding of float16"
    said = report.summary(DiffReport((equal, equal, unknown, unknown)))
    assert "2 layers and computations agree" in said and said.endswith("; 2 not judged")
    assert said.startswith("not everything could be compared")
    padded = Row("u", "a", padding=3)
    said = report.summary(DiffReport((padded, padded), gaps=("first", "second")))
    assert said.endswith("rows of padding not compared: 6; first")
    wrong = Row("u", "c", verdict="differs")
    said = report.summary(DiffReport((equal, wrong, unknown), gaps=("first",)))
    assert said == "1 fault in 2 layers and computations, 0 explained; 1 not judged"


def test_findings_in_words():
    row = Row("u", "a", verdict="differs", cause="c", explained=1e-7, note="n", segment="s")
    assert report.describe(row) == "differs: c (leaves 1e-07); n"
    assert report.describe(Row("u", "a", verdict="differs", segment="s")) == "differs: s"
    assert report.describe(Row("u", "a", "wiring", segment="s")) == "equal: s"
    assert report.describe(Row("u", "a", segment="s")) == "equal"


def test_what_follows_from_an_earlier_nan_is_one_line():
    after = [Row("u", x, verdict="not judged", note="NaN, as upstream") for x in "abc"]
    lines = report.table(DiffReport((Row("u", "z", verdict="differs"), *after)))
    assert len(lines) == 3 and "3 layers after it not finite" in lines[2][-1]
    assert len(report.table(DiffReport(tuple(after[:1])))) == 2
    assert len(report.table(DiffReport(tuple(after)), everything=True)) == 4
    assert report.table(DiffReport((Row("u", "a"),))) == []
    plain, seen = (
        report.table(DiffReport((Row("u", "a", verdict="differs", inherited=x),)))
        for x in (None, 0.5)
    )
    assert [len(line) for line in plain] == [5, 5] and [len(line) for line in seen] == [6, 6]


def test_a_report_as_a_dictionary():
    rows = (Row("u", "a", error=math.inf, verdict="differs"), Row("u", "b"))
    found = DiffReport(rows, "port", "float16", ("note",), 1.0, ("gap",)).to_dict()
    assert found.pop("rows") == [row.to_dict() for row in rows]
    assert found == {
        "port": "port",
        "dtype": "float16",
        "verdict": "differs",
        "equal": False,
        "counts": {"equal": 1, "noisy": 0, "differs": 1, "not judged": 0},
        "notes": ["note"],
        "gaps": ["gap"],
        "padding": 0,
    }
    assert rows[0].to_dict()["error"] is None and rows[1].to_dict()["error"] == 0.0


def test_names_of_whole_outputs():
    name = "t.000//output"
    port = build_trace({name: np.ones(2)})
    for role, others in {
        "output": ("output", "sample", "last_hidden_state", "0"),
        "pooled": ("pooled", "text_embeds"),
    }.items():
        for other in others:
            assert read_role(port, {other: name}, role) is not None
        assert read_role(port, {"other": name}, role) is None


def test_one_channel_that_is_shifted():
    right = normal(0, 1, 3, 4, 4)
    got = right + np.array([0.0, 0.5, 0.0])[:, None, None]
    found = recognise(got, right, 1e-9)
    assert found is not None and found.text.startswith("each channel is scaled and shifted")
    assert relative_error(found.array, right) < 1e-12


def test_networks_that_were_not_given_are_not_judged():
    model = ldmref.random_model("tiny")
    x = np.arange(4.0)
    calls = ("controlnet.000", "guide.unet.000")
    tensors = {f"{call}/conv_in/{side}": x for call in calls for side in ("input", "output")}
    found = {
        row.call: (row.verdict, row.note) for row in diff_traces(build_trace(tensors), model).rows
    }
    assert found == {
        "controlnet.000": ("not judged", "no ControlNet was given"),
        "guide.unet.000": ("not judged", "no weaker model was given"),
    }


def test_the_units_of_stored_formats():
    """The distance of 1 from the next larger number, by the bits of the mantissas."""
    bits = {"F16": 10, "BF16": 7, "F8_E4M3": 3, "F8_E5M2": 2}
    assert {name: -math.log2(unit) for name, unit in UNITS.items()} == bits
    for name in ("float64", "float32", "float16"):
        assert EPSILONS[name] == np.finfo(name).eps
    assert EPSILONS["bfloat16"] == UNITS["BF16"]
