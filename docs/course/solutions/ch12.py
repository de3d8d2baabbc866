"""Answers to the exercises of chapter 12, written from its formulas."""

import numpy as np


def frechet_distance(mean1, cov1, mean2, cov2):
    """The distance of the means, and of the covariances by roots of symmetric matrices."""
    shared = np.linalg.svd(_root(cov1).T @ _root(cov2), compute_uv=False)
    return np.sum((mean1 - mean2) ** 2) + np.trace(cov1 + cov2) - 2.0 * np.sum(shared)


def _root(cov):
    """R with cov = R R^T; eigenvalues that are only rounding count as zero."""
    values, vectors = np.linalg.eigh(cov)
    rounding = len(values) * np.finfo(values.dtype).eps * values.max()
    return vectors * np.sqrt(np.where(values > rounding, values, 0.0))


def normal_entropy(logvar):
    """Half of the log-variance, because the entropy grows with the log of the deviation."""
    return 0.5 * (1.0 + np.log(2.0 * np.pi) + logvar)


def structural_similarity(x, y, peak=2.0, size=11, sigma=1.5):
    """Weighted moments of all windows, compared with each other."""
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    weights = np.outer(line, line) / line.sum() ** 2

    def mean(image):
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(2, 3))
        return np.sum(windows * weights, axis=(-2, -1))

    mean_x = mean(x)
    mean_y = mean(y)
    var_x = mean(x * x) - mean_x**2
    var_y = mean(y * y) - mean_y**2
    covariance = mean(x * y) - mean_x * mean_y
    c1 = (0.01 * peak) ** 2
    c2 = (0.03 * peak) ** 2
    numerator = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    denominator = (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    return np.mean(numerator / denominator, axis=(1, 2, 3))
