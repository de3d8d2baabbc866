"""One stream per image, whatever the kind of stream."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ldmref.errors import UsageError
from ldmref.samplers.noise import STREAMS, Streams
from ldmref.samplers.rng_cuda import CUDA_CARDS

KINDS = ("philox", "torch", "torch-bf16", "a1111-gpu")


@pytest.mark.parametrize("rng", STREAMS)
def test_image_i_has_the_stream_of_its_own_seed(rng):
    streams = Streams([5, 7, 5], (4, 3, 2), rng)
    alone = STREAMS[rng](7)
    for _ in range(3):
        draw = streams()
        want = alone.draw((4, 3, 2))
        assert draw.shape == (3, 4, 3, 2) and draw.dtype == np.float32
        assert (draw[1] == want).all() and (draw[0] == draw[2]).all() and (draw[0] != want).all()


@pytest.mark.parametrize("rng", STREAMS)
def test_calls_differ_and_the_numbers_are_normal(rng):
    stream = STREAMS[rng](2**64 - 1)
    a = stream.draw((50_000,))
    b = stream.draw((50_000,))
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.02
    for values in (a, b):
        assert stats.kstest(values, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.02


def test_the_kinds_are_different_streams():
    draws = [STREAMS[rng](1).draw((32,)) for rng in KINDS]
    assert all((a != b).all() for i, a in enumerate(draws) for b in draws[:i])


def test_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="unknown rng 'torhc'") as caught:
        Streams([1], (2,), "torhc")
    assert caught.value.code == "E-RNG" and "did you mean 'torch'?" in caught.value.hint


def test_the_names_of_generators_are_those_of_the_option():
    assert list(STREAMS) == [*KINDS, *(f"cuda:{card.replace(' ', '-')}" for card in CUDA_CARDS)]


def test_a_card_has_the_stream_of_its_wave():
    """Below one wave all cards agree; what lies above is another on each."""
    shape = (16, 128, 128)
    t4, a100 = (STREAMS[f"cuda:{card}"](1).draw(shape).ravel() for card in ("T4", "A100"))
    assert (t4 == a100)[:40_960].all() and not (t4 == a100).all()
