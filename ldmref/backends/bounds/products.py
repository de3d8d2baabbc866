"""Bounds for sums of products: linear layers and convolutions."""

from __future__ import annotations

import itertools

import numpy as np

from ldmref.backends.bounds.rounding import WINOGRAD, Precision, all_equal, inner_product

BLOCKS = 8  # of the summed axis, at whose ends partial sums are known


def linear(
    p: Precision,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Bound x @ weight.T + bias.

        E = inner_product(n, max |s_j|, |x| @ |weight|.T) + u (|x @ weight.T| + |y|) + underflow

    with n the number of inputs. The first term is the sum (`rounding.inner_product`), of which the
    bias may be the first or the last term. u |x @ weight.T| stores the product before the bias is
    added, and u |y| is the last rounding.
    """
    terms = x.shape[-1]
    partial = np.zeros((*x.shape[:-1], weight.shape[0]))
    largest = np.zeros_like(partial)
    for block in _blocks(terms):
        partial += x[..., block] @ weight[:, block].T
        np.maximum(largest, np.abs(partial), out=largest)
    magnitude = np.abs(x) @ np.abs(weight).T
    equal = all_equal(x, -1)[..., None] & all_equal(weight, -1)
    underflow = _underflow(p, terms, x, weight)
    return _rounded(p, terms, partial, largest, magnitude, equal, bias) + underflow


def conv2d(
    p: Precision,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    stride: int = 1,
    padding: int = 0,
    winograd: int = 2,
) -> np.ndarray:
    """Bound a convolution: the bound of `linear` with n = i k k, for summation in either order.

    Partial sums are known after each position of the kernel and after each block of channels,
    because libraries sum in the order (k, k, i) or (i, k, k).

    A library may compute a 3 x 3 convolution with stride 1 by Winograd's F(m x m) (Lavin and Gray
    2016, arXiv:1509.09308), which adds errors from all pixels of a tile to each of its outputs:

        u_acc WINOGRAD[m] sum_c D_c g_c,   D_c = max |x_c| within m + 1 pixels, g_c = max |weight_c|

    The factor is calibrated; the worst case of Barabasz, Anderson, Soodhalter and Gregg 2020
    (Error Analysis and Improving the Accuracy of Winograd Convolution for Deep Neural Networks,
    ACM Trans. Math. Softw. 46:37) is proportional to the norms of the transforms.

    Args:
        p: The precisions.
        x, weight, bias, stride, padding: Arguments of `Backend.conv2d`.
        winograd: Largest m that is allowed; 0 for direct convolution.
    """
    (out, c, k, _) = weight.shape
    equal = (all_equal(x, (1, 2, 3))[:, None] & all_equal(weight, (1, 2, 3)))[..., None]
    if padding:
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    n, _, height, width = x.shape
    h = (height - k) // stride + 1
    w = (width - k) // stride + 1
    channels = _blocks(c, BLOCKS // 2)
    partial = np.zeros((n, out, h * w))
    largest = np.zeros_like(partial)
    magnitude = np.zeros_like(partial)
    by_channels = [np.zeros_like(partial) for _ in channels]
    for dy in range(k):
        for dx in range(k):
            rows = slice(dy, dy + stride * (h - 1) + 1, stride)
            columns = slice(dx, dx + stride * (w - 1) + 1, stride)
            window = x[:, :, rows, columns].reshape(n, c, h * w)
            magnitude += np.abs(weight[:, :, dy, dx]) @ np.abs(window)
            for total, block in zip(by_channels, channels, strict=True):
                product = weight[:, block, dy, dx] @ window[:, block]
                total += product
                partial += product
            np.maximum(largest, np.abs(partial), out=largest)
    for partial_sum in np.cumsum(by_channels, axis=0):
        np.maximum(largest, np.abs(partial_sum), out=largest)
    terms = c * k * k
    column = None if bias is None else bias[:, None]
    bound = _rounded(p, terms, partial, largest, magnitude, equal, column)
    bound = bound.reshape(n, out, h, w) + _underflow(p, terms, x, weight)
    if winograd and k == 3 and stride == 1:
        bound += p.u_acc * WINOGRAD[winograd] * _tile_magnitude(x, weight, winograd + 1)
    return bound


def _blocks(length: int, count: int = BLOCKS) -> list[slice]:
    """Divide range(length) into at most `count` blocks."""
    ends = np.unique(np.linspace(0, length, count + 1).astype(int)).tolist()
    return list(itertools.starmap(slice, itertools.pairwise(ends)))


def _rounded(
    p: Precision,
    terms: int,
    product: np.ndarray,
    largest: np.ndarray,
    magnitude: np.ndarray,
    equal: np.ndarray,
    bias: np.ndarray | None,
) -> np.ndarray:
    """Add the roundings of the product, of the sum with the bias, and of the result."""
    if bias is None:
        return inner_product(p, terms, largest, magnitude, equal) + p.u * np.abs(product)
    size = np.abs(bias)
    stored = p.u * (np.abs(product) + np.abs(product + bias)) + p.tiny
    return inner_product(p, terms + 1, largest + size, magnitude + size, equal) + stored


def _underflow(p: Precision, terms: int, x: np.ndarray, weight: np.ndarray) -> float:
    """Bound products that underflow, and subnormal factors that are read as zero."""
    sizes = 1.0 + np.max(np.abs(x), initial=0.0) + np.max(np.abs(weight), initial=0.0)
    return float(p.tiny + terms * p.tiny_acc * sizes)


def _tile_magnitude(x: np.ndarray, weight: np.ndarray, radius: int) -> np.ndarray:
    """Compute sum_c D_c g_c for padded images x; (n, o, h', w')."""
    from scipy.ndimage import maximum_filter

    size = 2 * radius + 1
    nearby = maximum_filter(np.abs(x), (1, 1, size, size), mode="constant")[:, :, 1:-1, 1:-1]
    n, c, h, w = nearby.shape
    entries = np.abs(weight).max(axis=(2, 3))
    return (entries @ nearby.reshape(n, c, h * w)).reshape(n, -1, h, w)
