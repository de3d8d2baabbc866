"""Comparisons of images and of sets of features, and the entropy in a latent model's bound."""

from __future__ import annotations

import math

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, to_host
from ldmref.math.arrays import Array

chapter = Chapter("evaluation")


# Roundings: 3 on each side.
@chapter.identity("normal_entropy", "Gauss-Hermite quadrature", 6)
def mean_of_minus_the_log_density(f: Functions, rng: RandomInputs) -> Comparison:
    logvar = rng.uniform(-4.0, 4.0, 3, 2, 2)
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    minus_log = 0.5 * (np.log(2 * np.pi) + to_host(logvar)[..., None] + nodes**2)
    return f.normal_entropy(logvar), minus_log @ weights / weights.sum(), 4.0


# Roundings: one on each side.
@chapter.gradient("normal_entropy", 2)
def the_entropy(f: Functions, rng: RandomInputs) -> tuple:
    inputs = {"logvar": rng.uniform(-4, 4, 5)}
    return f.normal_entropy, inputs, lambda v: 0.5 * (1 + math.log(2 * math.pi) + v)


# Roundings: 2 of squares up to the scale, whose mean's square is subtracted, on each side.
@chapter.identity("structural_similarity", "a loop over windows", 4)
def mean_over_all_windows(f: Functions, rng: RandomInputs) -> Comparison:
    x, noise = rng.normals(2, 2, 2, 5, 6)
    y = 0.7 * x + 0.5 * noise
    size = 4
    sigma = 1.2
    peak = rng.number(1.0, 4.0)
    line = np.exp(-0.5 * ((np.arange(size) - 1.5) / sigma) ** 2)
    weights = np.outer(line, line) / line.sum() ** 2
    a = to_host(x)
    b = to_host(y)
    c1 = (0.01 * peak) ** 2
    c2 = (0.03 * peak) ** 2
    values = []
    for i in range(5 - size + 1):
        for j in range(6 - size + 1):
            u, v = (z[:, :, i : i + size, j : j + size] for z in (a, b))
            mu, mv = ((weights * z).sum(axis=(2, 3)) for z in (u, v))
            du = u - mu[:, :, None, None]
            dv = v - mv[:, :, None, None]
            uu, vv, uv = ((weights * z).sum(axis=(2, 3)) for z in (du * du, dv * dv, du * dv))
            values.append(
                (2 * mu * mv + c1) * (2 * uv + c2) / ((mu**2 + mv**2 + c1) * (uu + vv + c2))
            )
    expected = np.mean(values, axis=0).mean(axis=1)
    return f.structural_similarity(x, y, peak, size, sigma), expected, (a**2).max() / 0.3


# Roundings: 16 of the eigenvalues of products, on each side of a root.
@chapter.identity("frechet_distance", "covariances that commute", 32)
def sum_over_common_principal_axes(f: Functions, rng: RandomInputs) -> Comparison:
    """With common eigenvectors, each axis contributes its means' and deviations' distance."""
    axes = rng.orthonormal(4, 4)
    scale = rng.numpy.uniform(0.3, 2.0, (2, 4))
    means = rng.numpy.standard_normal((2, 4))
    covs = [(axes * s**2) @ axes.T for s in scale]
    arguments = [rng.array(z) for pair in zip(means, covs, strict=True) for z in pair]
    expected = ((means[0] - means[1]) ** 2).sum() + ((scale[0] - scale[1]) ** 2).sum()
    return f.frechet_distance(*arguments), expected, float(np.square(scale).sum())


def low_rank(rng: RandomInputs, ranks: tuple[int, int]) -> tuple[list[Array], float, float]:
    """(arguments, their Frechet distance, trace of both) of covariances of these ranks."""
    factors = [rng.numpy.standard_normal((4, rank)) for rank in ranks]
    mean = rng.numpy.standard_normal(4)
    covs = [factor @ factor.T for factor in factors]
    shared = np.linalg.svd(factors[0].T @ factors[1], compute_uv=False).sum()
    traces = float(sum(np.trace(cov) for cov in covs))
    arguments = [rng.array(z) for z in (mean, covs[0], 0 * mean, covs[1])]
    squared = float(mean @ mean)
    return arguments, squared + traces - 2.0 * float(shared), traces + squared


# Roundings: up to 16 of an eigenvalue that is zero, whose root is 4 roots of eps of the traces.
@chapter.identity("frechet_distance", "singular values of factors", 16)
def roots_of_eigenvalues_that_are_zero(f: Functions, rng: RandomInputs) -> Comparison:
    """Take deficient ranks: rounding makes an eigenvalue negative, and its root imaginary."""
    arguments, distance, size = low_rank(rng, (rng.integer(1, 3), rng.integer(1, 3)))
    return f.frechet_distance(*arguments), distance, size / math.sqrt(rng.limits.eps)


# Roundings: 4 on each side, of cubes up to the scale.
@chapter.identity("kernel_distance", "a loop over pairs", 8)
def means_over_pairs(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.normal(3, 2)
    y = rng.normal(4, 2)

    def mean(a: np.ndarray, b: np.ndarray, same: bool) -> float:
        pairs = [(u, v) for i, u in enumerate(a) for j, v in enumerate(b) if not same or i != j]
        return float(np.mean([(np.dot(u, v) / 2 + 1) ** 3 for u, v in pairs]))

    a = to_host(x)
    b = to_host(y)
    expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    largest = max(np.square(a).sum(axis=1).max(), np.square(b).sum(axis=1).max()) / 2 + 1
    return f.kernel_distance(x, y), expected, largest**3


def pairs(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the distances of all pairs, (len(a), len(b)), in a loop."""
    return np.array([[math.dist(u, v) for v in b] for u in a])


def radii(reference: np.ndarray, k: int) -> list[float]:
    """Return the distance of each example to its k-th nearest other one."""
    return [sorted(row)[k] for row in pairs(reference, reference)]  # the first is itself


# Roundings: d + 4 = 7 on each side.
@chapter.identity("nearest_distance", "a loop over sorted distances", 14)
def kth_of_sorted_distances(f: Functions, rng: RandomInputs) -> Comparison:
    x, reference = rng.normal(5, 3), rng.normal(9, 3)
    k = rng.integer(1, 9)
    expected = [sorted(row)[k - 1] for row in pairs(to_host(x), to_host(reference))]
    return f.nearest_distance(x, reference, k), expected, 8.0


# Roundings: none, of whole numbers.
@chapter.identity("neighbourhood_counts", "a loop over neighbourhoods", 1)
def balls_that_hold_an_example(f: Functions, rng: RandomInputs) -> Comparison:
    x, reference = rng.normal(6, 2), rng.normal(9, 2)
    k = rng.integer(1, 5)
    ends = radii(to_host(reference), k)
    found = pairs(to_host(x), to_host(reference))
    expected = [sum(d <= end for d, end in zip(row, ends, strict=True)) for row in found]
    return f.neighbourhood_counts(x, reference, k), expected, 1.0


# Roundings: none, of whole numbers.
@chapter.identity("neighbourhood_coverage", "a loop over neighbourhoods", 1)
def balls_that_are_not_empty(f: Functions, rng: RandomInputs) -> Comparison:
    reference, x = rng.normal(9, 2), rng.normal(4, 2)
    k = rng.integer(1, 5)
    ends = radii(to_host(reference), k)
    nearest = pairs(to_host(reference), to_host(x)).min(axis=1)
    expected = [float(d <= end) for d, end in zip(nearest, ends, strict=True)]
    return f.neighbourhood_coverage(reference, x, k), expected, 1.0


# -- mistakes --------------------------------------------------------------------------------------


def shared_spread(cov1: Array, cov2: Array, *, clipped: bool = True) -> float:
    """Return the trace of the root of the product of two covariances; NaN of a negative one."""
    values, vectors = np.linalg.eigh(cov1)
    root = (vectors * np.sqrt(np.clip(values, 0.0, None) if clipped else values)) @ vectors.T
    if not np.isfinite(root).all():
        return math.nan
    inner = np.linalg.eigvalsh(root @ cov2 @ root)
    return float(np.sum(np.sqrt(np.clip(inner, 0.0, None) if clipped else inner)))


def whole_image(x: Array, y: Array, peak: float = 2.0, size: int = 11, sigma: float = 1.5) -> Array:
    """Return the similarity of one window without weights, the image."""
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    a, b = np.mean(x, axis=(2, 3)), np.mean(y, axis=(2, 3))
    covariance = np.mean(x * y, axis=(2, 3)) - a * b
    spread = np.var(x, axis=(2, 3)) + np.var(y, axis=(2, 3))
    value = (2 * a * b + c1) * (2 * covariance + c2) / ((a**2 + b**2 + c1) * (spread + c2))
    return np.mean(value, axis=1)


def held(x: Array, reference: Array, radii: Array) -> Array:
    """Return how many balls hold each example."""
    return np.sum(pairs(x, reference) <= radii, axis=1).astype(float)


# fmt: off
chapter.known_mistakes("frechet_distance", {
    "the covariances are compared entry by entry":
        lambda m, c, n, d: np.sum((m - n) ** 2) + np.sum((c - d) ** 2),
    "the difference of the means is not squared":
        lambda m, c, n, d: np.linalg.norm(m - n) + np.trace(c + d) - 2 * shared_spread(c, d),
    "eigenvalues that rounding makes negative are not set to 0, and their roots are no numbers":
        lambda m, c, n, d: np.sum((m - n) ** 2) + np.trace(c + d)
            - 2 * shared_spread(c, d, clipped=False),
})
chapter.known_mistakes("neighbourhood_counts", {
    "an example counts as its own nearest neighbour, so a neighbourhood ends at the one before":
        lambda x, y, k=5: held(x, y, np.sort(pairs(y, y))[:, k - 1]),
    "the neighbourhoods are those of the examples, not of the reference":
        lambda x, y, k=5: held(x, y, np.sort(pairs(x, x))[:, k, None]),
})
chapter.known_mistakes("structural_similarity", {
    "the whole image is one window; the mean over windows of `size` with weights is meant":
        whole_image,
})
# fmt: on
