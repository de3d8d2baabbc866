"""Operations on latents: vector quantisation, principal components, interpolation."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ldmref.check.identity import Chapter, Comparison, Functions, RandomInputs, spread, to_host
from ldmref.math.arrays import Array

chapter = Chapter("autoencoders")


# Roundings: 8 of two distances up to the scale, which may be confused.
@chapter.identity("nearest_code", "brute force", 16)
def no_entry_is_nearer(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that the distance to the chosen entry, by index and by value, is the smallest."""
    z = rng.normal(2, 3, 3)
    codebook = rng.normal(5, 3)
    indices, quantised = f.nearest_code(z, codebook)
    a = to_host(z)[:, :, None, :]
    b = to_host(codebook)
    nearest = b[to_host(indices).astype(int)]
    codes = {"indices": nearest, "quantised": spread(quantised, z)}
    got = {name: ((a[:, :, 0] - code) ** 2).sum(axis=-1) for name, code in codes.items()}
    smallest = ((a - b) ** 2).sum(axis=-1).min(axis=-1)
    return got, [smallest, smallest], 20.0


@chapter.identity("stop_gradient", "the argument", 0)
def keeps_values(f: Functions, rng: RandomInputs) -> Comparison:
    x = rng.normal(3, 4)
    return f.stop_gradient(x), x


# Roundings: one of a difference up to 8, one of the sum.
@chapter.identity("straight_through", "the code", 3)
def value_of_the_code(f: Functions, rng: RandomInputs) -> Comparison:
    z, code = rng.normals(2, 3, 4)
    return f.straight_through(z, code), code, 4.0


# Roundings: 8 and the weights; 8 in the oracle.
@chapter.identity("vq_loss", "the squared distance", 20, uses=("codebook_loss", "commitment_loss"))
def both_terms_have_the_value_of_the_distance(f: Functions, rng: RandomInputs) -> Comparison:
    """Check that the two terms, and the two conventions for beta, differ only in gradients."""
    (z, code) = rng.normals(2, 3, 2, 4)
    beta = rng.number(0, 2)
    square = ((to_host(code) - to_host(z)) ** 2).sum(axis=-1)
    got = {
        "codebook_loss": f.codebook_loss(z, code),
        "commitment_loss": f.commitment_loss(z, code),
        "vq_loss": f.vq_loss(z, code, beta),
        "vq_loss with the default beta": f.vq_loss(z, code),
        "vq_loss with taming_legacy": f.vq_loss(z, code, beta, taming_legacy=True),
    }
    return got, [weight * square for weight in (1, 1, 1 + beta, 1.25, 1 + beta)]


# Roundings: 6 of a distance up to twice the scale, 8 in the oracle.
@chapter.identity("commitment_loss", "dot products", 20)
def distance_of_each_vector_from_its_entry(f: Functions, rng: RandomInputs) -> Comparison:
    """|z - e|^2 = |z|^2 + |e|^2 - 2 z.e, for a grid of vectors."""
    z, code = rng.normals(2, 2, 3, 4)
    a, b = to_host(z), to_host(code)
    lengths = (a * a).sum(axis=-1) + (b * b).sum(axis=-1)
    return f.commitment_loss(z, code), lengths - 2.0 * (a * b).sum(axis=-1), lengths


# Roundings: two sums of 10 terms below 3, of a scale of 10.
@chapter.identity("codebook_moving_average", "a loop over the vectors", 8)
def mean_of_all_vectors_with_falling_weights(f: Functions, rng: RandomInputs) -> Comparison:
    """Take two steps from one vector per entry: weights gamma^2, gamma (1 - gamma), 1 - gamma."""
    first, *batches = (to_host(v) for v in (rng.normal(3, 2), rng.normal(5, 2), rng.normal(5, 2)))
    codes = rng.numpy.integers(0, 3, (2, 5))
    decay = rng.number(0.1, 0.9)
    counts = np.full(3, decay**2)
    sums = decay**2 * first
    for batch, ks, weight in zip(batches, codes, (decay * (1 - decay), 1 - decay), strict=True):
        for z, k in zip(batch, ks, strict=True):
            counts[k] += weight
            sums[k] += weight * z
    got = rng.array(np.ones(3)), rng.array(first), None
    for batch, ks in zip(batches, codes, strict=True):
        indices = rng.xp.asarray(ks.tolist(), device=rng.device)
        got = f.codebook_moving_average(*got[:2], rng.array(batch), indices, decay)
    expected = [counts, sums, sums / counts[:, None]]
    named = dict(zip(("counts", "sums", "codebook"), got, strict=True))
    return named, expected, 10.0 / counts.min()


# Roundings: 6 terms: 14 of the exponent and its exponential, 18 of powers and product.
@chapter.identity("code_perplexity", "counting", 32)
def product_of_frequencies_to_their_own_power(f: Functions, rng: RandomInputs) -> Comparison:
    codes = rng.numpy.integers(0, 6, 20).tolist()
    indices = rng.xp.asarray([[codes[:10], codes[10:]]], device=rng.device)
    p = np.asarray(list(Counter(codes).values())) / 20
    return f.code_perplexity(indices), np.prod(p**-p)


# Roundings: a few of the matrix, of size 7, in its singular values and vectors, whose gap is 1.
@chapter.identity("principal_components", "construction", 24)
def points_with_known_singular_values(f: Functions, rng: RandomInputs) -> Comparison:
    """Use points built from known directions and variances around a known mean."""
    rows = np.column_stack([np.ones(6), rng.numpy.standard_normal((6, 3))])
    u = np.linalg.qr(rows)[0][:, 1:]  # columns of mean zero
    v = rng.orthonormal(4, 4)[:3]
    s = np.asarray([4.0, 2.0, 1.0])
    centre = rng.numpy.standard_normal(4)
    mean, components, variances = f.principal_components(rng.array(centre + (u * s) @ v), 3)
    outer = [np.einsum("ki,kj->kij", w, w) for w in (to_host(components), v)]  # sign-free
    got = {"mean": mean, "variances": variances, "components": outer[0]}
    return got, [centre, s**2 / 5, outer[1]], 16.0


# Roundings: a product and a sum of 3, with the mean, on each side.
@chapter.identity("pca_reconstruct", "a walk along the components", 12)
def mean_plus_steps_along_the_components(f: Functions, rng: RandomInputs) -> Comparison:
    """Start at the mean, which is not in the subspace, and add each step separately."""
    z, mean = rng.normal(4, 2), rng.normal(5)
    basis = rng.orthonormal(5, 2).T
    expected = np.stack([to_host(mean)] * 4)
    for row, coordinates in zip(expected, to_host(z), strict=True):
        for coordinate, direction in zip(coordinates, basis, strict=True):
            row += coordinate * direction
    return f.pca_reconstruct(z, mean, rng.array(basis)), expected, 10.0


# Roundings: sums of 4 on each side.
@chapter.identity("pca_project", "construction", 10, uses=("pca_reconstruct",))
def coordinates_and_points(f: Functions, rng: RandomInputs) -> Comparison:
    """x = mean + z C and z correspond, for orthonormal rows C."""
    components = rng.array(rng.orthonormal(4, 2).T)
    mean = rng.normal(4)
    z = rng.normal(3, 2)
    x = to_host(mean) + to_host(z) @ to_host(components)
    got = {
        "pca_project": f.pca_project(rng.array(x), mean, components),
        "pca_reconstruct": f.pca_reconstruct(z, mean, components),
    }
    return got, [z, x], 8.0


def two_planes(rng: RandomInputs) -> tuple[np.ndarray, Array, Array]:
    """(angles, a, b): bases of two planes in five dimensions with these principal angles."""
    angles = np.sort(rng.numpy.uniform(0, np.pi / 2, 2) * 10.0 ** rng.integer(-6, 0))
    basis = rng.orthonormal(5, 5)
    a = basis[:2]
    b = np.cos(angles)[:, None] * a + np.sin(angles)[:, None] * basis[2:4]
    mix = np.asarray([[2.0, 0.5], [-0.5, 1.0]])
    return angles, rng.array(mix @ a), rng.array(mix.T @ b)


# Roundings: a few of two bases of condition 2, of a scale of 4.
@chapter.identity("principal_angles", "construction", 8)
def known_angles_between_planes(f: Functions, rng: RandomInputs) -> Comparison:
    angles, a, b = two_planes(rng)
    return f.principal_angles(a, b), angles, 4.0


# Roundings: a few of two bases of condition 2, of a scale of 4.
@chapter.identity("subspace_distance", "projection matrices", 8)
def difference_of_the_projections(f: Functions, rng: RandomInputs) -> Comparison:
    _, a, b = two_planes(rng)
    p, q = (w.T @ np.linalg.solve(w @ w.T, w) for w in (to_host(a), to_host(b)))
    return f.subspace_distance(a, b), np.linalg.norm(p - q) / np.sqrt(2), 4.0


# Roundings: 5 on each side.
@chapter.identity("lerp", "the other form of the line", 10)
def start_plus_a_fraction_of_the_difference(f: Functions, rng: RandomInputs) -> Comparison:
    (a, b) = rng.normals(2, 3, 2, 2)
    t = rng.uniform(-1, 2, 3)
    expected = to_host(a) + to_host(t)[:, None, None] * (to_host(b) - to_host(a))
    return f.lerp(a, b, t), expected, 10.0


# Roundings: 5 on each side, over sin(omega).
@chapter.identity("slerp", "rotation by a fraction of the angle", 10)
def rotation_in_the_plane_of_a_and_b(f: Functions, rng: RandomInputs) -> Comparison:
    """b is a rotated by omega; the point at t is a rotated by t omega."""
    u, v = rng.orthonormal(4, 2).T
    omega = rng.number(0.1, 2.8)
    t = rng.number(-1, 2)
    length = rng.number(0.5, 3)

    def rotated(angle: float) -> np.ndarray:
        return (length * (np.cos(angle) * u + np.sin(angle) * v)).reshape(1, 2, 2)

    got = f.slerp(rng.array(rotated(0.0)), rng.array(rotated(omega)), t)
    return got, rotated(t * omega), 10.0 / np.sin(omega)


# Roundings: 5 of the line on each side, and 6 of sines of a small angle over each other.
@chapter.identity("slerp", "the straight line", 16)
def zero_or_parallel_vectors_have_no_circle(f: Functions, rng: RandomInputs) -> Comparison:
    """Take an example with a = 0, one with b = 0, and one with b = a."""
    (a, b) = rng.normals(2, 3, 2, 2)
    zero_first, zero_second = (rng.array([[[k]] for k in row]) for row in ((0, 1, 1), (1, 0, 1)))
    a = a * zero_first
    b = b * zero_second
    b = rng.array(np.concatenate([to_host(b)[:2], to_host(a)[2:]]))
    t = rng.number(0, 1)
    return f.slerp(a, b, t), (1 - t) * to_host(a) + t * to_host(b), 4.0


# -- mistakes --------------------------------------------------------------------------------------


def flat_pair(a: Array, b: Array, t: Array) -> tuple[Array, Array, Array]:
    """Return examples as rows, and the positions between them as a column."""
    one, two = (np.reshape(z, (z.shape[0], -1)) for z in (a, b))
    return one, two, np.reshape(t, (-1, 1))


def on_the_circle(a: Array, b: Array, t: Array, *, normed: bool = True) -> Array:
    """Mix by an angle, without the line for parallel vectors."""
    one, two, t = flat_pair(a, b, t)
    cosine = np.sum(one * two, axis=1, keepdims=True)
    if normed:
        cosine = cosine / (
            np.linalg.norm(one, axis=1, keepdims=True) * np.linalg.norm(two, axis=1, keepdims=True)
        )
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))
    mixed = np.sin((1 - t) * angle) * one + np.sin(t * angle) * two
    return np.reshape(mixed / np.sin(angle), a.shape)


def line_of_one_length(a: Array, b: Array, t: Array) -> Array:
    """Rescale the straight line to the length of a."""
    one, two, t = flat_pair(a, b, t)
    mixed = (1 - t) * one + t * two
    length, own = (np.linalg.norm(z, axis=1, keepdims=True) for z in (one, mixed))
    return np.reshape(mixed * length / own, a.shape)


def largest_product(z: Array, codebook: Array) -> tuple[Array, Array]:
    """Take the entry with the largest inner product."""
    indices = np.argmax(z @ codebook.T, axis=-1)
    return indices, codebook[indices]


# fmt: off
chapter.known_mistakes("pca_reconstruct", {
    "the mean is projected into the subspace before it is added":
        lambda z, mean, components: (z + components @ mean) @ components,
})
chapter.known_mistakes("nearest_code", {
    "the entry with the largest inner product is taken; the nearest one is meant": largest_product,
})
chapter.known_mistakes("slerp", {
    "the angle is that of the inner product, which is not divided by both lengths":
        lambda a, b, t: on_the_circle(a, b, t, normed=False),
    "the straight line is rescaled to the length of a: right lengths, wrong angles":
        line_of_one_length,
    "the sine is divided by where it is 0 or unknown (parallel vectors, a zero): there the line is "
    "meant": on_the_circle,
})
# fmt: on
