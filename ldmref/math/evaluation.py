"""Comparing images, and sets of features: SSIM, the Frechet distance, the kernel distance."""

from __future__ import annotations

import math

from array_api_compat import array_namespace, device

from ldmref.math.arrays import Array


def structural_similarity(
    x: Array, y: Array, peak: float = 2.0, size: int = 11, sigma: float = 1.5
) -> Array:
    r"""Structural similarity (SSIM) of every pair of images, in windows of Gaussian weights.

    .. math:: \operatorname{mean}\ \frac{(2\mu_x\mu_y + c_1)(2\sigma_{xy} + c_2)}
              {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)}, \qquad
              c_1 = (0.01\,p)^2,\ c_2 = (0.03\,p)^2

    Means, variances and covariance are weighted ones within a window; the outer mean is over all
    windows within the image, and over channels.

    Args:
        x: (n, c, h, w), h and w at least `size`, real floating.
        y: shape and dtype of `x`.
        peak: p, the range of a pixel, > 0: 2 for images in [-1, 1], 255 for bytes.
        size: side of the window in pixels, >= 1.
        sigma: standard deviation of its weights in pixels, > 0.

    Returns:
        (n,), dtype of `x`; in [-1, 1], and 1 for equal images.

    Raises:
        ValueError: an image smaller than the window.

    Accuracy: 100 ulp of the largest square of a pixel, over c_2.
    Source: Wang, Bovik, Sheikh, Simoncelli 2004, IEEE TIP 13:600, eq. 13 to 17, with weights of sum
    one.

    >>> import numpy as np
    >>> x = np.linspace(-1, 1, 144).reshape(1, 1, 12, 12)
    >>> structural_similarity(x, x).round(12), structural_similarity(x, 0 * x).round(3)
    (array([1.]), array([0.003]))
    """
    xp = array_namespace(x, y)
    if min(x.shape[2:]) < size:
        raise ValueError(f"images of {x.shape[2:]} pixels are smaller than the window of {size}")
    weights = [math.exp(-0.5 * ((i - (size - 1) / 2) / sigma) ** 2) for i in range(size)]
    total = sum(weights)

    def window(side: int) -> Array:
        rows = [
            [weights[j - i] / total if 0 <= j - i < size else 0.0 for j in range(side)]
            for i in range(side - size + 1)
        ]
        return xp.asarray(rows, dtype=x.dtype, device=device(x))

    down = window(x.shape[2])
    across = xp.matrix_transpose(window(x.shape[3]))

    def mean(z: Array) -> Array:
        return xp.matmul(xp.matmul(down, z), across)

    mean_x = mean(x)
    mean_y = mean(y)
    variances = mean(x * x) - mean_x * mean_x + mean(y * y) - mean_y * mean_y
    covariance = mean(x * y) - mean_x * mean_y
    c1 = (0.01 * peak) ** 2
    c2 = (0.03 * peak) ** 2
    luminance = (2.0 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return xp.mean(luminance * (2.0 * covariance + c2) / (variances + c2), axis=(1, 2, 3))


def frechet_distance(mean1: Array, cov1: Array, mean2: Array, cov2: Array) -> Array:
    r"""Squared Frechet (2-Wasserstein) distance between two Gaussians.

    .. math:: \lVert\mu_1 - \mu_2\rVert^2 + \operatorname{tr}\left(C_1 + C_2
              - 2\,(C_1^{1/2} C_2\, C_1^{1/2})^{1/2}\right)

    On features of Inception-v3 this is the FID; of other networks it is another number.

    Args:
        mean1: (d,), real floating.
        cov1: covariance, (d, d), symmetric and positive semidefinite; of rank below d too.
        mean2: (d,).
        cov2: (d, d).

    Returns:
        >= 0 up to rounding, (), dtype of `mean1`.

    Accuracy: 10 d ulp of the traces for covariances of full or deficient rank. Eigenvalues below d
    ulp of the largest are rounding, and count as zero: their roots would add up to 1e-8 of the
    traces (float64).
    Source: Dowson and Landau 1982, Journal of Multivariate Analysis 12:450, eq. 4; as FID: Heusel
    et al. 2017, arXiv:1706.08500, eq. 6.

    >>> import numpy as np
    >>> one = np.eye(2)
    >>> round(float(frechet_distance(np.zeros(2), one, np.ones(2), 4 * one)), 12)
    4.0
    """
    xp = array_namespace(mean1, cov1, mean2, cov2)
    gap = mean1 - mean2
    # with C = R R^T, the trace of the root is the sum of the singular values of R_1^T R_2
    shared = xp.linalg.svdvals(xp.matmul(xp.matrix_transpose(_root(cov1)), _root(cov2)))
    return xp.sum(gap * gap) + xp.linalg.trace(cov1 + cov2) - 2.0 * xp.sum(shared)


def _root(covariance: Array) -> Array:
    """R with C = R R^T, from the eigenvectors of C; without eigenvalues that are only rounding."""
    xp = array_namespace(covariance)
    values, vectors = xp.linalg.eigh(covariance)
    rounding = values.shape[0] * float(xp.finfo(values.dtype).eps) * xp.max(values)
    return vectors * xp.sqrt(xp.where(values > rounding, values, xp.zeros_like(values)))


def kernel_distance(x: Array, y: Array) -> Array:
    r"""Unbiased squared maximum mean discrepancy of two samples, with a cubic kernel.

    .. math:: \frac{1}{m(m-1)}\sum_{i \ne j} k(x_i, x_j)
              + \frac{1}{n(n-1)}\sum_{i \ne j} k(y_i, y_j)
              - \frac{2}{mn}\sum_{i,j} k(x_i, y_j), \qquad
              k(a, b) = \left(\frac{a^T b}{d} + 1\right)^3

    On features of Inception-v3 this is the KID; of other networks it is another number.

    Args:
        x: (m, d), m >= 2, real floating.
        y: (n, d), n >= 2, dtype of `x`.

    Returns:
        (), dtype of `x`; negative too, for its expectation is 0 for equal distributions.

    Raises:
        ValueError: fewer than two examples.

    Accuracy: (d + 10) ulp of the largest k.
    Source: Gretton et al. 2012, JMLR 13:723, eq. 3; as KID: Binkowski et al. 2018,
    arXiv:1801.01401, section 4.

    >>> import numpy as np
    >>> float(kernel_distance(np.asarray([[1.0], [1.0]]), np.asarray([[0.0], [0.0]])))
    7.0
    """
    xp = array_namespace(x, y)
    if x.shape[0] < 2 or y.shape[0] < 2:
        raise ValueError(f"needs two examples of each, not {x.shape[0]} and {y.shape[0]}")

    def kernel(a: Array, b: Array) -> Array:
        return (xp.matmul(a, xp.matrix_transpose(b)) / a.shape[1] + 1.0) ** 3

    def within(a: Array) -> Array:
        k = kernel(a, a)
        n = a.shape[0]
        off_diagonal = 1.0 - xp.eye(n, dtype=a.dtype, device=device(a))
        return xp.sum(off_diagonal * k) / (n * (n - 1))

    return within(x) + within(y) - 2.0 * xp.mean(kernel(x, y))
