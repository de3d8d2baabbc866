"""Bounds for group norm and layer norm."""

from __future__ import annotations

import numpy as np

from ldmref.backends.bounds.rounding import Precision, sum_units


def group_norm(
    p: Precision, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float
) -> np.ndarray:
    """Bound weight z + bias, z = (x - mean) / sqrt(variance + eps) for each group of channels.

        E = |weight| E_z + 2 u_acc |bias| + u (2 |weight z| + |y|)

    with E_z of `standardized`.
    """
    n, c = x.shape[:2]
    shape = (c,) + (1,) * (x.ndim - 2)
    z, error = standardized(p, x.reshape(n, groups, -1), eps)
    return _scaled(
        p, z.reshape(x.shape), error.reshape(x.shape), weight.reshape(shape), bias.reshape(shape)
    )


def layer_norm(
    p: Precision, x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float
) -> np.ndarray:
    """Bound weight z + bias, z = (x - mean) / sqrt(variance + eps) along the last axis.

        E = |weight| E_z + 2 u_acc |bias| + u (2 |weight z| + |y|)

    with E_z of `standardized`. It holds without overflow: in float32 the squares of values of 1e19
    and more are infinite, which no bound covers.
    """
    return _scaled(p, *standardized(p, x, eps), weight, bias)


def standardized(p: Precision, x: np.ndarray, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """Return z = (x - mean) / s, s = sqrt(variance + eps), along the last axis, and its bound.

    With g = sum_units(x):

    - The mean errs by m = u_acc (g mean|x| + |mean|) (Higham 2002, section 4.2), which shifts every
      z by m / s.
    - x - mean errs by u_acc |x - mean|. Fused kernels compute x a + b with a = weight / s and
      b = bias - mean a, which errs by 3 u_acc (|x| + |mean|) / s and, after scaling, by
      2 u_acc |bias|.
    - The variance of two passes errs by v = u_acc (g + 4) variance + m^2 (Chan, Golub and LeVeque
      1983, The American Statistician 37:242), which changes z by the factor 1 / sqrt(1 - v / s^2)
      at most; square root and division add 3 u_acc |z|.

    In float16 and bfloat16, sums are taken in float32, and kernels may use mean(x^2) - mean^2:
    the variance then errs by u_acc (g + 2) (variance + 2 mean^2). This is not allowed in float32
    and float64, in which it would lose digits that two passes keep.
    """
    mean = x.mean(axis=-1, keepdims=True)
    centred = x - mean
    variance = np.mean(centred * centred, axis=-1, keepdims=True)
    s = np.sqrt(variance + eps)
    units = sum_units(x)
    mean_error = units * np.mean(np.abs(x), axis=-1, keepdims=True) + np.abs(mean)
    mean_error = p.u_acc * mean_error + p.tiny_acc
    variance_error = p.u_acc * (units + 4.0) * variance + mean_error**2 + p.tiny_acc
    if p.u > p.u_acc:
        variance_error += p.u_acc * (units + 2.0) * (variance + 2.0 * mean * mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = centred / s
        # Exact also for large errors: a variance is never smaller than 0.
        smaller = 1.0 / np.sqrt(1.0 - np.minimum(variance_error, variance) / (s * s)) - 1.0
        larger = 1.0 - 1.0 / np.sqrt(1.0 + variance_error / (s * s))
        relative = np.maximum(smaller, larger)
        shift = (mean_error + 3.0 * p.u_acc * (np.abs(x) + np.abs(mean))) / s
    return z, shift * (1.0 + relative) + np.abs(z) * (relative + 3.0 * p.u_acc)


def _scaled(
    p: Precision, z: np.ndarray, error: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> np.ndarray:
    """Add the roundings of storing z, of weight z and of the sum with the bias."""
    product = weight * z
    stored = 2.0 * np.abs(product) + np.abs(product + bias)
    arithmetic = np.abs(weight) * (error + p.tiny) + 2.0 * p.u_acc * np.abs(bias)
    return arithmetic + p.u * stored + 2.0 * p.tiny
