"""Number formats, positions, alignments and reasons of arrays that are not finite."""

from __future__ import annotations

import math
import warnings
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
from fault_calls import normal

from ldmref.backends.named import LayerCall
from ldmref.errors import UsageError
from ldmref.locate.causes.rotations import TABLES, read_positions
from ldmref.locate.nonfinite import explain_nonfinite
from ldmref.locate.recorded import alignment
from ldmref.locate.recorded.alignment import align
from ldmref.locate.recorded.precision import (
    EPSILONS,
    STORED,
    UNITS,
    Rounding,
    exact_backend,
    port_dtype,
    round_to,
    stored_unit,
)
from ldmref.trace import build_trace

X = np.array([1.0 + 2.0**-30, 1.0 + 2.0**-12, 1.0 + 2.0**-9, 3.0])
BITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}


# -- rounding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "bits"), BITS.items())
@pytest.mark.parametrize("kind", [np.float64, np.float32])
def test_numbers_are_rounded_and_keep_their_type(dtype, bits, kind):
    x = X.astype(kind)
    found = round_to(x, dtype)
    assert found.dtype == kind
    right = np.rint(x.astype(np.float64) * 2.0**bits) / 2.0**bits
    assert found.tolist() == right.tolist()
    assert EPSILONS[dtype] == 2.0**-bits
    assert (found is x) == (dtype == "float64")


def test_numbers_that_overflow_become_infinite_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert round_to([1e6, -1e39], "float16").tolist() == [math.inf, -math.inf]
        assert round_to(np.array([1e39]), "float32").tolist() == [math.inf]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_integers_and_truth_values_are_not_rounded(dtype):
    for x in (np.array([2**24 + 1]), np.array([True])):
        assert round_to(x, dtype) is x
    assert round_to(3, dtype).dtype.kind == "i"


@pytest.mark.parametrize("dtype", BITS)
def test_operations_of_a_format_are_rounded(dtype):
    run = Rounding(dtype)
    assert run.rounded == dtype
    assert run.inner.dtype == ("float64" if dtype == "float64" else "float32")
    assert run.inner.name == "numpy"
    call = LayerCall("a", "b", {"input": X}, {}, {}, lambda inputs: inputs["input"] * 1.0)
    assert run.visit(call).tolist() == round_to(X, dtype).tolist()


def test_the_exact_backend_is_numpy_in_float64():
    ops = exact_backend()
    assert (ops.name, ops.dtype, ops.speed) == ("numpy", "float64", "exact")


def test_units_of_rounding_are_those_of_the_formats():
    for name in ("float16", "float32", "float64"):
        assert EPSILONS[name] == np.finfo(name).eps
    assert EPSILONS["bfloat16"] == UNITS["BF16"] == 2.0**-7 and UNITS["F16"] == EPSILONS["float16"]
    assert (UNITS["F8_E4M3"], UNITS["F8_E5M2"]) == (2.0**-3, 2.0**-2)


# -- the format of a port -------------------------------------------------------------------------


def trace(dtypes=(), kinds=(), **manifest):
    """Return a trace of layers whose outputs have these dtypes and stored types."""
    tensors = {f"unet.000/{i:03}/output": np.ones(2, x) for i, x in enumerate(dtypes)}
    tensors |= {f"unet.000/k{i:03}/output": np.ones(2, np.float64) for i in range(len(kinds))}
    named = {f"unet.000/k{i:03}/output": x for i, x in enumerate(kinds)}
    return build_trace(tensors, manifest, kinds=named)


@pytest.mark.parametrize(
    ("port", "named", "dtype"),
    [
        (trace(dtype="float16"), None, "float16"),
        (trace(dtype="float16", backend={"dtype": "float64"}), None, "float16"),
        (trace(dtype="float16", backend={"dtype": "float64"}), "bfloat16", "bfloat16"),
        (trace(backend={"dtype": "float64"}), None, "float64"),
        (trace(["float16"], backend={}), None, "float16"),
        (trace(["float16"], backend=None), None, "float16"),
        (trace(["float16"]), "", "float16"),
        (trace(["float16", "float64", "float64"]), None, "float64"),
        (trace(["int64", "int64", "float16"]), None, "float16"),
        (trace(["int64"]), None, "float32"),
        (trace(["int64"], ["F16", "F64", "F64"]), None, "float64"),
        (trace([], ["BF16", "I64", "I64"]), None, "bfloat16"),
        (trace(["float16"] * 3, ["F32"]), None, "float32"),
        (trace(["float16"], ["I64"]), None, "float64"),
        (trace(), None, "float32"),
    ],
)
def test_the_format_in_which_a_port_computed(port, named, dtype):
    assert port_dtype(port, named) == dtype


def test_the_first_fifty_outputs_tell_the_format():
    assert port_dtype(trace(["float16"] * 26 + ["float64"] * 60)) == "float16"
    assert port_dtype(trace(["float16"] * 24 + ["float64"] * 60)) == "float64"
    half = ["float16"] * 25 + ["float64"] * 25
    assert port_dtype(trace([*half, "float64"])) == port_dtype(trace([*half, "float16"]))


def test_stored_types_are_those_of_safetensors():
    assert STORED == {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@pytest.mark.parametrize(("name", "hint"), [("float61", "float"), ("int8", "")])
def test_other_formats_are_refused(name, hint):
    with pytest.raises(UsageError) as caught:
        port_dtype(trace(), name)
    assert caught.value.code == "E-DTYPE"
    assert hint in str(caught.value.hint)


def test_the_narrowest_array_of_a_layer_says_its_unit():
    tensors = {f"unet.000/a/{x}": np.ones(2) for x in ("input", "output", "output.1")}
    kinds = dict(zip(tensors, ("F16", "BF16", "F8_E4M3"), strict=True))
    for count, unit in ((0, 0.0), (1, 2.0**-10), (2, 2.0**-7), (3, 2.0**-3)):
        port = build_trace(tensors, kinds=dict([*kinds.items()][:count]))
        assert stored_unit(port, port.find("unet.000", "a")) == unit


# -- alignment ------------------------------------------------------------------------------------


def test_an_alignment_has_the_least_sum_of_errors():
    right = [{"input": np.array([x])} for x in (1.0, 1.3, 1.6, 4.0)]
    got = [{"input": np.array([x])} for x in (1.25, 3.9)]

    def cost(indices):
        pairs = zip(indices, got, strict=True)
        return sum(abs(x["input"] / right[i]["input"] - 1.0).item() for i, x in pairs)

    best = min(combinations(range(4), 2), key=cost)
    assert best == (1, 3)
    assert align(right, got) == (None, 0, None, 1)


def test_one_error_is_at_most_one():
    """Else a single array that is far apart would decide where all others belong."""
    right = [{"input": np.array([x])} for x in (1.0, 1.5, 1e-9)]
    got = [{"input": np.array([1.0])}, {"input": np.array([2.0])}]
    assert align(right, got) == (0, 1, None)


def test_too_many_alignments_are_not_tried():
    arrays = [{"input": np.full(1, float(i + 1))} for i in range(100)]
    assert math.comb(100, 2) == 4950
    assert align(arrays, arrays[98:]) == (*[None] * 98, 0, 1)
    more = [*arrays, {"input": np.full(1, 101.0)}]
    assert math.comb(101, 2) == 5050
    assert align(more, more[99:]) == (0, 1, *[None] * 99)
    exact = math.comb(5000, 1)
    assert exact == alignment.MOST
    wide = [{"input": np.full(1, float(i + 1))} for i in range(40)] + [arrays[99]] * 4960
    assert align(wide, [wide[7]])[7] == 0
    assert align([*wide, arrays[99]], [wide[7]]) == (0, *[None] * 5000)


# -- arrays that are not finite -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("got", "right", "kind", "words"),
    [
        ([np.inf, 1.0], [7e4, 1.0], "", ("70000", "2^-1")),
        ([np.nan, np.inf], [1e5, -3e5], "linear", ("3e+05", "2^-3")),
        ([np.inf, np.inf], [1e5, 6e4], "", ()),
        ([np.inf, 1.0], [65504.0, 1e9], "", ()),
        ([np.inf, 1.0], [np.nan, 1.0], "", ()),
        ([np.inf, 1.0], [7e4, np.nan], "", ()),
        ([np.inf, 1.0], [7e4], "", ()),
        ([np.nan, np.nan], [1.0, 2.0], "attention", ("masked",)),
        ([np.nan, 1.0], [1.0, 2.0], "attention", ()),
        ([np.nan, np.nan], [1.0, 2.0], "softmax", ()),
    ],
)
def test_the_reason_of_an_array_that_is_not_finite(got, right, kind, words):
    found = explain_nonfinite(np.array([got]), np.array([right]), kind)
    assert bool(found) == bool(words)
    assert all(word in found for word in words)


def test_only_whole_queries_are_masked():
    right = np.ones((2, 3, 4))
    got = right.copy()
    got[1, 2] = np.nan
    assert explain_nonfinite(got, right, "attention")
    got[0, 0, 1] = np.inf
    assert not explain_nonfinite(got, right, "attention")


# -- positions ------------------------------------------------------------------------------------


def positions(tables, dims):
    roles = dict(zip(TABLES, ("a.000/x/input.c", "a.000/x/input.s"), strict=True))
    port = build_trace(dict(zip(roles.values(), tables, strict=True)))
    return read_positions(port, SimpleNamespace(inputs=roles), dims)


def tables_of(values, d=4):
    angles = np.repeat(np.outer(values, 10000.0 ** (-np.arange(0, d, 2) / d)), 2, axis=1)
    return np.cos(angles), np.sin(angles)


def test_positions_need_both_tables_of_one_shape():
    cosines, sines = tables_of([0.0, 3.0, 60.0])
    assert positions((cosines, sines), (4,)).tolist() == [[0.0], [3.0], [60.0]]
    assert positions((cosines, sines), ()) is None
    assert positions((cosines, sines), (2,)) is None
    assert positions((cosines[None], sines[None]), (4,)) is None
    assert positions((cosines, sines[:2]), (4,)) is None
    assert positions((cosines[:0], sines[:0]), (4,)).shape == (0, 1)
    one = SimpleNamespace(inputs={TABLES[0]: "a"})
    assert read_positions(None, one, (4,)) is None
    assert [*TABLES] == ["image_rotary_emb.0", "image_rotary_emb.1"]


def test_negative_positions_and_tables_that_are_none():
    assert positions(tables_of([-2.0, 5.0]), (4,)).tolist() == [[-2.0], [5.0]]
    assert positions(tables_of([0.5]), (4,)) is None
    assert positions((normal(0, 3, 4), normal(1, 3, 4)), (4,)) is None


@pytest.mark.parametrize("table", [0, 1])
@pytest.mark.parametrize(("apart", "known"), [(0.98, True), (1.02, False)])
def test_tables_may_be_a_little_apart(table, apart, known):
    tables = tables_of([0.0, 3.0])
    tables[table][1, 0] += apart * 2.0**-6
    assert (positions(tables, (4,)) is not None) == known


@pytest.mark.parametrize("table", [0, 1])
def test_the_last_channel_of_an_axis_tells_its_position(table):
    tables = tables_of([60.0])
    tables[table][0, 2] += 0.98 * 2.0**-6  # the one before it, which is as slow
    assert positions(tables, (4,)).tolist() == [[60.0]]


def test_tables_may_be_as_far_apart_as_bfloat16_rounds():
    tables = tables_of([0.0])
    tables[1][0, 0] = 2.0**-6
    assert positions(tables, (4,)).tolist() == [[0.0]]
