"""Tiled decoding: a partition of unity, exact where it can be, never more than a tile at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.models.tiling import compute_ramps, decode_tiled
from ldmref.modes import plan


@given(st.integers(1, 60), st.integers(4, 20), st.integers(1, 5))
def test_weights_cover_every_place_and_add_up_to_one(length, tile, overlap):
    total = np.zeros(length)
    edge = 0
    for start, weights in compute_ramps(length, tile, min(overlap, tile // 2)):
        assert len(weights) == min(tile, length) and (weights > 0).all()
        assert start <= edge  # no gap
        edge = start + len(weights)
        total[start:edge] += weights
    assert edge == length
    np.testing.assert_allclose(total, 1.0, rtol=1e-14)


def test_the_ramp_is_linear_across_the_overlap():
    (_, a), (start, b) = compute_ramps(14, 10, 6)
    np.testing.assert_allclose(b[:6], (np.arange(6) + 0.5) / 6, rtol=1e-14)
    np.testing.assert_allclose(a[start:], 1.0 - b[:6], rtol=1e-14)


@pytest.fixture(params=["numpy", "torch"])
def ops(request):
    if request.param == "torch":
        pytest.importorskip("torch")
    return get_backend(request.param, dtype="float64")


@pytest.mark.parametrize("size", [(8, 8), (5, 3), (9, 8), (8, 9), (23, 31)])
def test_what_is_local_is_decoded_as_a_whole_in_bounded_memory(ops, size):
    """A decoder that looks at one cell only: tiles cannot be told from the whole."""
    latents = np.random.default_rng(0).standard_normal((2, 3, *size))
    seen = []

    def decode(z):
        seen.append(tuple(z.shape[2:]))
        return ops.upsample2x(z) ** 3

    z = ops.asarray(latents)
    want = ops.to_numpy(ops.upsample2x(z) ** 3)
    got = ops.to_numpy(decode_tiled(ops, decode, z, 2, 16))
    assert got.shape == want.shape and max(max(s) for s in seen) <= 8
    np.testing.assert_allclose(got, want, rtol=1e-13)
    if max(size) <= 8:
        assert seen == [size] and (got == want).all()
    else:
        assert len(seen) > 1


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_model_decodes_in_tiles(backend):
    if backend == "torch":
        pytest.importorskip("torch")
    model = ldmref.random_model("tiny", backend=backend, dtype="float64")
    latents = np.random.default_rng(0).standard_normal((1, 4, 24, 16))
    z = model.backend.asarray(latents)
    whole, tiled, large = (model.backend.to_numpy(model.decode(z, t)) for t in (None, 16, 48))
    assert (large == whole).all() and tiled.dtype == whole.dtype and tiled.shape == whole.shape
    corner = model.backend.to_numpy(model.decode(z[:, :, -8:, :8]))  # before the overlap begins
    np.testing.assert_allclose(tiled[..., -8:, :12], corner[..., -8:, :12], rtol=0, atol=1e-10)
    assert np.abs(tiled - whole).max() > 1e-3  # attention and group norms see a tile


def test_modes_take_tiles(tiny):
    asked = dict(seed=1, steps=2, width=48, height=32)
    plain, tiled = (modes.txt2img(tiny, "a cat", tile=t, **asked) for t in (None, 16))
    assert (plain.latents == tiled.latents).all() and tiled[0].size == (48, 32)
    assert (np.asarray(plain[0]) != np.asarray(tiled[0])).any()
    assert tiled.params["tile"] == 16 and "tile" not in plain.params


@pytest.mark.parametrize("tile", [0, -8, 6, 17, 16.0, "16", True])
def test_tiles_that_cannot_be_are_refused(tiny, tile):
    with pytest.raises(UsageError) as caught:
        plan("txt2img", tiny.config, prompt="a", tile=tile)
    assert caught.value.code == "E-TILE"


@pytest.mark.parametrize("factor", [1, 2, 8])
@pytest.mark.parametrize("cells", range(2, 10))
def test_a_pointwise_decoder_cannot_tell_tiles_from_the_whole(cells, factor):
    """For every size of a tile, those that four does not divide too, and every height."""
    numpy = get_backend("numpy", dtype="float64")

    def decode(z):
        return z.repeat(factor, axis=2).repeat(factor, axis=3)

    for height, width in [(n, 2 * cells + 1) for n in range(1, 3 * cells)]:
        z = np.arange(float(height * width)).reshape(1, 1, height, width)
        got = decode_tiled(numpy, decode, z, factor, cells * factor)
        # At most 3 x 3 tiles meet, each with 3 roundings in either weight and 2 in the products,
        # and are added in 8: 16 roundings of 2^-53. A tile misplaced by a pixel errs by 1.
        np.testing.assert_allclose(got, decode(z), rtol=16 * 2.0**-53, atol=0)


@pytest.mark.parametrize("cells", range(2, 10))
def test_tiles_overlap_by_whole_cells_and_at_least_one(cells):
    """A quarter of a tile, rounded down to whole cells: a tile begins where a cell does."""
    numpy = get_backend("numpy", dtype="float64")
    seen = []

    def decode(z):
        seen.append(int(z[0, 0, 0, 0]))
        return z.repeat(8, axis=2).repeat(8, axis=3)

    z = np.arange(40.0)[None, None, None].repeat(cells, axis=2)
    decode_tiled(numpy, decode, z, 8, 8 * cells)
    step = cells - max(1, cells // 4)
    assert seen == [*range(0, 40 - cells, step), 40 - cells]
