"""Fit the polynomial p with tanh(x p(x^2)) = erf(x / sqrt(2)) of `backends/fast/pointwise.py`.

The fit minimises the maximum over 0 <= x <= EDGE of the error of gelu(x) = x (1 + erf(x / sqrt(2)))
/ 2, by Lawson's iteration of weighted least squares on Chebyshev nodes. mpmath computes the target.
"""

from __future__ import annotations

import numpy as np
from mpmath import erf, erfc, log, mp, mpf, sqrt

EDGE = 5.586
DEGREE = 6
NODES = 400
ROUNDS = 60


def fit() -> tuple[np.ndarray, float]:
    """Return the coefficients in ascending powers of x^2, and the largest error of gelu."""
    mp.dps = 40
    x = 0.5 * EDGE * (1.0 - np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES))
    z = [mpf(float(a)) / sqrt(2) for a in x]
    target = np.array([float(log((1 + erf(b)) / erfc(b)) / 2) for b in z]) / x  # artanh(erf) / x
    slope = 0.5 * x * x * np.array([float(1 - erf(b) ** 2) for b in z])  # d gelu / d target
    basis = np.polynomial.chebyshev.chebvander(2.0 * (x / EDGE) ** 2 - 1.0, DEGREE)
    weight = slope.copy()
    error = slope
    c = np.zeros(DEGREE + 1)
    for _ in range(ROUNDS):
        root = np.sqrt(weight)
        c = np.linalg.lstsq(basis * root[:, None], target * root, rcond=None)[0]
        error = np.abs((basis @ c - target) * slope)
        weight *= error / error.max() + 1e-3
        weight /= weight.max()
    power = np.polynomial.Polynomial(np.polynomial.chebyshev.cheb2poly(c))
    return power(np.polynomial.Polynomial([-1.0, 2.0 / EDGE**2])).coef, float(error.max())


if __name__ == "__main__":
    coefficients, worst = fit()
    print(f"EDGE = {EDGE}\nERF = (")
    for number in coefficients:
        print(f"    {number:.9e},")
    print(f")  # gelu to {worst:.1e}")
