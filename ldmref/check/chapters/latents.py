"""What is done with latents: vector quantisation, principal components, interpolation."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ldmref.check.identity import Draw, Functions, Identity, to_host

PAGE = "autoencoders"


def no_entry_is_nearer(f: Functions, draw: Draw):
    """Distances to the chosen entry, by its index and by its value, against the least of all."""
    z, book = draw.normal(2, 3, 3), draw.normal(5, 3)
    indices, quantised = f.nearest_code(z, book)
    a, b = to_host(z)[:, :, None, :], to_host(book)
    chosen = b[to_host(indices).astype(int)]
    got = [((a[:, :, 0] - e) ** 2).sum(axis=-1) for e in (chosen, to_host(quantised))]
    least = ((a - b) ** 2).sum(axis=-1).min(axis=-1)
    return np.stack(got), np.stack([least, least]), 20.0


def keeps_values(f: Functions, draw: Draw):
    x = draw.normal(3, 4)
    return f.stop_gradient(x), x


def value_of_the_code(f: Functions, draw: Draw):
    z, code = draw.normal(3, 4), draw.normal(3, 4)
    return f.straight_through(z, code), code, 4.0


def both_terms_have_the_value_of_the_distance(f: Functions, draw: Draw):
    """They differ in gradient only: so do the two ways to weigh them, with beta."""
    z, code, beta = draw.normal(3, 4), draw.normal(3, 4), draw.number(0, 2)
    square = (np.diff([to_host(z), to_host(code)], axis=0)[0] ** 2).sum(axis=-1)
    got = [f.codebook_loss(z, code), f.commitment_loss(z, code), f.vq_loss(z, code, beta)]
    last = beta * f.codebook_loss(z, code) + f.commitment_loss(z, code)
    got += [f.vq_loss(z, code, beta, taming_legacy=True), f.vq_loss(z, code), last]
    weights = np.asarray([1, 1, 1 + beta, 1 + beta, 1.25, 1 + beta])
    return draw.xp.stack(got), weights[:, None] * square


def product_of_frequencies_to_their_own_power(f: Functions, draw: Draw):
    codes = draw.stream.integers(0, 6, 20).tolist()
    indices = draw.xp.asarray([codes[:10], codes[10:]], device=draw.device)
    p = np.asarray(list(Counter(codes).values())) / 20
    return f.code_perplexity(indices), np.prod(p**-p)


def singular_values_put_together(f: Functions, draw: Draw):
    """Points made of known directions and variances, around a known mean."""
    rows = np.column_stack([np.ones(6), draw.stream.standard_normal((6, 3))])
    u = np.linalg.qr(rows)[0][:, 1:]  # of mean zero
    v = np.linalg.qr(draw.stream.standard_normal((4, 4)))[0][:3]
    s, centre = np.asarray([4.0, 2.0, 1.0]), draw.stream.standard_normal(4)
    mean, components, variances = f.principal_components(draw.array(centre + (u * s) @ v), 3)
    planes = [np.einsum("ki,kj->kij", w, w).ravel() for w in (to_host(components), v)]
    got = np.concatenate([to_host(mean), to_host(variances), planes[0]])
    return got, np.concatenate([centre, s**2 / 5, planes[1]]), 16.0


def coordinates_and_points(f: Functions, draw: Draw):
    """x = mean + z C and z belong together, for orthonormal rows C."""
    rows, centre = np.linalg.qr(draw.stream.standard_normal((4, 2)))[0].T, draw.normal(4)
    components, z = draw.array(rows), draw.normal(3, 2)
    x = to_host(centre) + to_host(z) @ to_host(components)
    got = [
        f.pca_project(draw.array(x), centre, components),
        f.pca_reconstruct(z, centre, components),
    ]
    got = np.concatenate([to_host(part) for part in got], axis=1)
    return got, np.concatenate([to_host(z), x], axis=1), 8.0


def _two_planes(draw: Draw):
    """(angles, a, b): bases of two planes in five dimensions that have these angles."""
    angles = np.sort(draw.stream.uniform(0, np.pi / 2, 2) * 10.0 ** draw.integer(-6, 0))
    turn = np.linalg.qr(draw.stream.standard_normal((5, 5)))[0]
    a = turn[:2]
    b = np.cos(angles)[:, None] * turn[:2] + np.sin(angles)[:, None] * turn[2:4]
    mix = np.asarray([[2.0, 0.5], [-0.5, 1.0]])
    return angles, draw.array(mix @ a), draw.array(mix.T @ b)


def angles_of_planes_turned_by_them(f: Functions, draw: Draw):
    angles, a, b = _two_planes(draw)
    return f.principal_angles(a, b), angles, 4.0


def difference_of_the_projections(f: Functions, draw: Draw):
    _, a, b = _two_planes(draw)
    p, q = (w.T @ np.linalg.solve(w @ w.T, w) for w in (to_host(a), to_host(b)))
    return f.subspace_distance(a, b), np.linalg.norm(p - q) / np.sqrt(2), 4.0


def part_of_the_way_from_a_to_b(f: Functions, draw: Draw):
    a, b, t = draw.normal(3, 2, 2), draw.normal(3, 2, 2), draw.uniform(-1, 2, 3)
    start, way = to_host(a), to_host(b) - to_host(a)
    return f.lerp(a, b, t), start + to_host(t)[:, None, None] * way, 10.0


def rotation_in_the_plane_of_a_and_b(f: Functions, draw: Draw):
    """b is a turned by omega; the point at t is a turned by t omega."""
    basis = np.linalg.qr(draw.stream.standard_normal((4, 2)))[0].T
    omega, t, length = draw.number(0.1, 2.8), draw.number(-1, 2), draw.number(0.5, 3)

    def turned(angle: float):
        return (length * (np.cos(angle) * basis[0] + np.sin(angle) * basis[1])).reshape(1, 2, 2)

    got = f.slerp(draw.array(turned(0.0)), draw.array(turned(omega)), t)
    return got, turned(t * omega), 10.0 / np.sin(omega)


IDENTITIES = [
    Identity("nearest_code", "brute force", no_entry_is_nearer, 4),
    Identity("stop_gradient", "the argument", keeps_values, 0),
    Identity("straight_through", "the code", value_of_the_code, 4),
    Identity("vq_loss", "the squared distance", both_terms_have_the_value_of_the_distance, 10,
             ("codebook_loss", "commitment_loss")),
    Identity("code_perplexity", "counting", product_of_frequencies_to_their_own_power, 20),
    Identity("principal_components", "construction", singular_values_put_together, 12),
    Identity("pca_project", "construction", coordinates_and_points, 4, ("pca_reconstruct",)),
    Identity("principal_angles", "construction", angles_of_planes_turned_by_them, 4),
    Identity("subspace_distance", "projection matrices", difference_of_the_projections, 4),
    Identity("lerp", "the other form of the line", part_of_the_way_from_a_to_b, 4),
    Identity("slerp", "rotation by a fraction of the angle", rotation_in_the_plane_of_a_and_b, 4),
]  # fmt: skip
