"""Hypothesis strategies for the arguments of diffusion formulas, for property tests.

Strategies for arrays take `xp`, an array-API namespace (NumPy by default), and `dtype`, the name of
one of its real floating types. Data are multiples of 2^-10 in [-8, 8]. Float32 and float64 hold
these numbers exactly, so a difference between the two is rounding inside the formula under test.
For the same reason alpha-bars, sigmas and betas are float32 numbers.

    from hypothesis import given
    from ldmref.math import eps_from_x0, q_sample
    from ldmref.testing import strategies

    @given(strategies.diffusions())
    def test_noise_comes_back(diffusion):
        x0, eps, alpha_bar = diffusion
        assert np.allclose(eps_from_x0(q_sample(x0, alpha_bar, eps), x0, alpha_bar), eps)

Inside a test that is parametrised over libraries, use `st.data()`:

    @given(st.data())
    def test_noise_comes_back(xp, data):
        x0, eps, alpha_bar = data.draw(strategies.diffusions(xp, "float32"))
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ldmref.math.arrays import Array

Strategy = st.SearchStrategy
AnyShape = tuple[int, ...] | Strategy | None


def _float32s(low: float, high: float) -> Strategy[float]:
    """Return float32 numbers in [low, high], as Python floats; the ends are rounded to float32."""
    return st.floats(float(np.float32(low)), float(np.float32(high)), width=32)


def _convert(xp: Any, dtype: str) -> Callable[[np.ndarray], Array]:
    return lambda a: xp.asarray(a, dtype=getattr(xp, dtype))


def alpha_bar_values(low: float = 1e-4, high: float = 0.9999) -> Strategy[float]:
    """Generate one alpha-bar, the fraction of signal variance, in [low, high] within [0, 1]."""
    return _float32s(low, high)


def alpha_bars(
    n: int, xp: object = np, dtype: str = "float64", low: float = 1e-4, high: float = 0.9999
) -> Strategy[Array]:
    """Generate the alpha-bars of a batch: (n,), each in [low, high], unordered."""
    values = st.lists(alpha_bar_values(low, high), min_size=n, max_size=n)
    return values.map(np.asarray).map(_convert(xp, dtype))


def sigma_values(low: float = 2.0**-10, high: float = 2.0**10) -> Strategy[float]:
    """Generate one sigma of x = x0 + sigma eps, in [low, high]."""
    return _float32s(low, high)


def betas(min_size: int = 2, max_size: int = 32, high: float = 0.5) -> Strategy[np.ndarray]:
    """Generate an arbitrary schedule: (n,) float64 NumPy forward variances in [1e-5, high]."""
    values = st.lists(_float32s(1e-5, high), min_size=min_size, max_size=max_size)
    return values.map(lambda x: np.asarray(x, np.float64))


def shapes(min_dims: int = 1, max_dims: int = 4, max_side: int = 3) -> Strategy[tuple[int, ...]]:
    """Generate small shapes (n, ...) without sides of length 0."""
    return hnp.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=max_side)


def arrays(
    shape: tuple[int, ...] | Strategy, xp: object = np, dtype: str = "float64", bound: int = 8
) -> Strategy[Array]:
    """Generate data or noise: multiples of 2^-10 in [-bound, bound]."""
    elements = st.integers(-1024 * bound, 1024 * bound).map(lambda k: k / 1024)
    return hnp.arrays(np.float64, shape, elements=elements).map(_convert(xp, dtype))


@st.composite
def paired(
    draw: Any,
    count: int = 2,
    xp: Any = np,
    dtype: str = "float64",
    shape: AnyShape = None,
    bound: int = 8,
) -> tuple[Array, ...]:
    """Generate `count` arrays of one shape, such as (x0, eps) or (uncond, cond)."""
    shape = shapes() if shape is None else shape
    sizes = draw(shape) if isinstance(shape, Strategy) else shape
    return tuple(draw(arrays(sizes, xp, dtype, bound)) for _ in range(count))


@st.composite
def diffusions(
    draw: Any, xp: Any = np, dtype: str = "float64", low: float = 1e-4, high: float = 0.9999
) -> tuple[Array, Array, Array]:
    """Generate (x0, eps, alpha_bar): two arrays (n, ...), and one alpha-bar per example, (n,)."""
    x0, eps = draw(paired(2, xp, dtype))
    return x0, eps, draw(alpha_bars(x0.shape[0], xp, dtype, low, high))


@st.composite
def gaussians(
    draw: Any, xp: Any = np, dtype: str = "float64", shape: AnyShape = None, bound: int = 8
) -> tuple[Array, Array]:
    """Generate (mean, logvar) of diagonal Gaussians, of one shape, in [-bound, bound] nats."""
    return draw(paired(2, xp, dtype, shape, bound))
