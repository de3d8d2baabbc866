"""Rotary positions in both layouts against products of complex numbers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmref.backends import get_backend
from ldmref.backends.named import NamedBackend
from ldmref.locate.faults import FAULTS
from ldmref.models import unflatten
from ldmref.models.transformer_layers import rotate, rotate_halves


def by_complex_numbers(x, positions, dims, theta, halves):
    """Multiply pair i of an axis by exp(1j position theta^(-2 i / dim)), row by row."""
    n, _, length, d = x.shape
    positions = np.broadcast_to(positions, (n, *positions.shape[-2:]))
    y = np.empty_like(x)
    first, second = np.arange(0, d, 2), np.arange(1, d, 2)
    if halves:
        first, second = np.arange(d // 2), np.arange(d // 2, d)
    axis_of = np.repeat(np.arange(len(dims)), [dim // 2 for dim in dims])
    number = np.concatenate([np.arange(dim // 2) for dim in dims])
    frequencies = theta ** (-2.0 * number / np.asarray(dims)[axis_of])
    for row in range(n):
        for token in range(length):
            turn = np.exp(1j * positions[row, token, axis_of] * frequencies)
            z = (x[row, :, token, first] + 1j * x[row, :, token, second]) * turn[:, None]
            y[row, :, token, first], y[row, :, token, second] = z.real, z.imag
    return y


LAYOUTS = pytest.mark.parametrize("halves", [False, True], ids=["neighbours", "halves"])


def inputs(draw, dims, per_row, length, n=2):
    x = draw.standard_normal((n, 3, length, sum(dims)))
    positions = draw.integers(-9, 50, (n, length, len(dims))).astype(np.float64)
    return x, positions if per_row else positions[0]


@LAYOUTS
@settings(deadline=None, max_examples=50)
@given(
    dims=st.lists(st.sampled_from([2, 4, 6, 16]), min_size=1, max_size=3).map(tuple),
    per_row=st.booleans(),
    length=st.integers(1, 6),
    theta=st.sampled_from([10.0, 256.0, 10000.0, 1e6]),
    library=st.sampled_from(["numpy", "torch"]),
    seed=st.integers(0, 2**32 - 1),
)
def test_pairs_of_channels_are_turned(halves, dims, per_row, length, theta, library, seed):
    pytest.importorskip(library)
    ops = get_backend(library, dtype="float64")
    x, positions = inputs(np.random.default_rng(seed), dims, per_row, length)
    function = rotate_halves if halves else rotate
    got = ops.to_numpy(function(ops.asarray(x), ops.asarray(positions), dims, theta))
    want = by_complex_numbers(x, positions, dims, theta, halves)
    # an angle of 50 errs by a few ulp, of exp, log and a product; numbers are at most 6
    assert np.abs(got - want).max() <= 50 * 8 * 2.0**-53 * 6


@LAYOUTS
def test_scores_depend_on_distances_alone(halves):
    rng = np.random.default_rng(0)
    q, k = (inputs(rng, (8,), False, 1)[0] for _ in range(2))
    function = rotate_halves if halves else rotate

    def score(i, j):
        at = [np.full((1, 1), float(place)) for place in (i, j)]
        return np.sum(function(q, at[0], (8,)) * function(k, at[1], (8,)))

    assert abs(score(3, 7) - score(13, 17)) < 1e-12 < abs(score(3, 7) - score(3, 8))


@LAYOUTS
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_angles_are_as_wide_as_positions(halves, dtype):
    """bfloat16 holds no angle of 250 radians; queries are rounded once, at the end."""
    torch = pytest.importorskip("torch")
    x, positions = inputs(np.random.default_rng(1), (8, 4), True, 5)
    rounded = torch.from_numpy(x).to(getattr(torch, dtype))
    function = rotate_halves if halves else rotate
    got = function(rounded, torch.from_numpy(5 * positions).to(torch.float32), (8, 4))
    assert got.dtype is rounded.dtype
    want = by_complex_numbers(rounded.double().numpy(), 5 * positions, (8, 4), 1e4, halves)
    unit = {"float32": 2.0**-24, "bfloat16": 2.0**-9}[dtype]
    assert np.abs(got.double().numpy() - want).max() <= (unit + 250 * 8 * 2.0**-24) * 6


@LAYOUTS
@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_graphs_turn_pairs(name, per_row, halves, tmp_path, monkeypatch):
    pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    ops = get_backend(name)
    dims = (4, 2)

    def network(ops, p, tokens, positions):
        n, length, _ = tokens.shape
        x = ops.xp.permute_dims(ops.xp.reshape(tokens, (n, length, 3, 6)), (0, 2, 1, 3))
        function = rotate_halves if halves else rotate
        return function(x, positions, dims)

    run = ops.compile(network, {})
    for length in (5, 2):
        x, positions = inputs(np.random.default_rng(length), dims, per_row, length)
        tokens = x.transpose(0, 2, 1, 3).reshape(2, length, 18)
        got = ops.to_numpy(run(ops.asarray(tokens), ops.asarray(positions)))
        want = by_complex_numbers(x, positions, dims, 1e4, halves)
        assert np.abs(got - want).max() <= 50 * 8 * 2.0**-24 * 6


@LAYOUTS
def test_faults_of_both_layouts_and_of_positions_per_row(halves):
    """`locate` tries them: the other layout, another base, the positions of another row."""
    rng = np.random.default_rng(0)
    dims, theta = (8,), 1e6
    x, positions = inputs(rng, dims, True, 5)
    function = rotate_halves if halves else rotate
    calls = []
    ops = NamedBackend(get_backend("numpy", dtype="float64"))
    ops.visit = lambda call: calls.append(call) or call.compute(call.inputs)
    ops.call_function("rotate", function, x, positions, dims, theta)
    found = {
        variant.text: variant.change(calls[0], calls[0].inputs)
        for fault in FAULTS
        if calls[0].kind in fault.applies_to
        for variant in fault.variants(calls[0])
    }
    pair, other = "neighbouring channels", "halves of a head"
    words = (
        f"{pair} are rotated instead of {other}"
        if halves
        else (f"{other} are rotated instead of {pair}")
    )
    want = {
        words: by_complex_numbers(x, positions, dims, theta, not halves),
        "theta 10000 instead of 1e+06": by_complex_numbers(x, positions, dims, 1e4, halves),
        "every row has the positions of the first": by_complex_numbers(
            x, positions[:1], dims, theta, halves
        ),
        "the rotation has the other direction": by_complex_numbers(
            x, -positions, dims, theta, halves
        ),
    }
    for text, y in want.items():
        assert np.abs(found[text] - y).max() < 1e-12, text


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_a_graph_turns_heads_of_queries_by_angles_of_each_row(name):
    """OpenVINO 2026.4 read wrong memory where slices were turned by angles of one axis."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(name, name))
    rng = np.random.default_rng(0)
    for size in (6, 128):
        ops = get_backend(name)
        compiled = ops.compile(
            lambda ops, p, x, positions, size=size: (
                rotate_halves(x, positions, (size,), 1e6) * p["one"]
            ),
            unflatten({"one": ops.weight(np.ones(1, np.float32))}),
        )
        x = rng.standard_normal((2, 4, 24, size)).astype(np.float32)
        for positions in (np.ones((2, 24, 1)), rng.integers(0, 20, (2, 24, 1))):
            got = ops.to_numpy(compiled(x, positions.astype(np.float32)))
            want = rotate_halves(x.astype(np.float64), positions.astype(np.float64), (size,), 1e6)
            assert np.abs(got - want).max() < 1e-5
