"""Wrong answers to the exercises of chapter 12; the part after `__` says what is wrong."""

import warnings

import numpy as np
from scipy.linalg import sqrtm


def frechet_distance__of_commuting_roots(mean1, cov1, mean2, cov2):
    """The covariances are compared entry by entry, as if they were deviations."""
    return np.sum((mean1 - mean2) ** 2) + np.sum((cov1 - cov2) ** 2)


def frechet_distance__without_the_square(mean1, cov1, mean2, cov2):
    """The length of the difference of the means instead of its square."""
    values, vectors = np.linalg.eigh(cov1)
    root = vectors * np.sqrt(np.clip(values, 0, None))
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root.T @ cov2 @ root), 0, None))
    return np.linalg.norm(mean1 - mean2) + np.trace(cov1 + cov2) - 2 * shared.sum()


def normal_entropy__log_variance_like_log_deviation(logvar):
    """The page's exercise: log of the variance where the log of the deviation belongs."""
    return 0.5 * (1 + np.log(2 * np.pi)) + logvar


def normal_entropy__in_bits(logvar):
    """Bits instead of nats."""
    return 0.5 * (1 + np.log(2 * np.pi) + logvar) / np.log(2)


def structural_similarity__range_of_one(x, y, peak=2.0, size=11, sigma=1.5):
    """The constants ignore `peak`, as if pixels were in [0, 1]."""
    line = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / sigma) ** 2)
    weights = np.outer(line, line) / line.sum() ** 2

    def mean(image):
        windows = np.lib.stride_tricks.sliding_window_view(image, (size, size), axis=(2, 3))
        return np.sum(windows * weights, axis=(-2, -1))

    mx, my = mean(x), mean(y)
    covariance = mean(x * y) - mx * my
    spread = mean(x * x) - mx**2 + mean(y * y) - my**2
    value = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4)
    return np.mean(value / ((mx**2 + my**2 + 1e-4) * (spread + 9e-4)), axis=(1, 2, 3))


def structural_similarity__of_whole_images(x, y, peak=2.0, size=11, sigma=1.5):
    """One window, the image, without weights."""
    axes = (2, 3)
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    mx, my = x.mean(axes), y.mean(axes)
    covariance = (x * y).mean(axes) - mx * my
    spread = x.var(axes) + y.var(axes)
    value = (2 * mx * my + c1) * (2 * covariance + c2) / ((mx**2 + my**2 + c1) * (spread + c2))
    return value.mean(axis=1)


def frechet_distance__not_clipped(mean1, cov1, mean2, cov2):
    """The roots of eigenvalues that are slightly negative by rounding are not numbers."""
    values, vectors = np.linalg.eigh(cov1)
    with np.errstate(invalid="ignore"):
        root = (vectors * np.sqrt(values)) @ vectors.T
        if not np.isfinite(root).all():
            return np.float64(np.nan)
        shared = np.sqrt(np.linalg.eigvalsh(root @ cov2 @ root))
    return np.sum((mean1 - mean2) ** 2) + np.trace(cov1 + cov2) - 2 * shared.sum()


def frechet_distance__naive(mean1, cov1, mean2, cov2):
    """The real part of a general root."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy warns about a singular matrix
        root = sqrtm(cov1 @ cov2)
    return np.sum((mean1 - mean2) ** 2) + np.trace(cov1 + cov2) - 2 * np.trace(root).real
