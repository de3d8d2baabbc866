"""Principal components against eigenvectors, scipy, and the best linear autoencoder found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import subspace_angles
from scipy.optimize import minimize

from ldmref import math as lm

SEEDS = st.integers(0, 10_000)


def clouds(seed, n=12, d=4, gap=2.0):
    """Return points whose standard deviations fall by a factor `gap`, in turned axes."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    return rng.standard_normal((n, d)) / gap ** np.arange(d) @ turn + rng.uniform(-3, 3, d)


def to(xp, dtype, *arrays):
    return tuple(xp.asarray(a.tolist(), dtype=getattr(xp, dtype)) for a in arrays)


def spread(x):
    """Return the factor on eps: the largest variance over the smallest gap of variances."""
    values = np.linalg.eigvalsh(np.cov(x.T))
    return float(values[-1] / np.diff(values, prepend=0.0).min())


@given(seed=SEEDS, k=st.integers(1, 4))
def test_components_are_the_eigenvectors_of_the_covariance(
    xp, dtype, xp_assert_close, to_numpy, seed, k
):
    (x,) = to(xp, dtype, clouds(seed))
    host = to_numpy(x).astype(np.float64)
    mean, components, variances = lm.principal_components(x, k)
    values, vectors = np.linalg.eigh(np.cov(host.T, ddof=1))
    want = vectors.T[::-1][:k]
    want = want * np.sign(want[np.arange(k), abs(want).argmax(axis=1)])[:, None]
    xp_assert_close(mean, host.mean(axis=0), like=x, ulps=12, scale=4.0)
    xp_assert_close(variances, values[::-1][:k].copy(), like=x, ulps=64, scale=float(values[-1]))
    top = np.sort(abs(want), axis=1)
    if (top[:, -1] - top[:, -2]).min() > 1e-3:  # else the sign may differ: two entries tie
        xp_assert_close(components, want, like=x, ulps=256, scale=1 + 4 * spread(host))
    gram = components @ components.T
    xp_assert_close(gram, np.eye(k), like=x, ulps=16, scale=1.0)


@given(seed=SEEDS)
def test_all_components_rebuild_the_points_and_some_the_nearest(
    xp, dtype, xp_assert_close, to_numpy, seed
):
    (x,) = to(xp, dtype, clouds(seed))
    mean, components, variances = lm.principal_components(x)
    assert components.shape == (4, 4) and variances.shape == (4,)
    z = lm.pca_project(x, mean, components)
    xp_assert_close(lm.pca_reconstruct(z, mean, components), x, ulps=64, scale=8.0)
    few = components[:2, :]
    got = lm.pca_reconstruct(lm.pca_project(x, mean, few), mean, few)
    a, m, v = (to_numpy(q).astype(float) for q in (x, mean, few))
    nearest = [m + np.linalg.lstsq(v.T, row - m, rcond=None)[0] @ v for row in a]
    xp_assert_close(got, np.asarray(nearest), like=x, ulps=64, scale=8.0)
    lost = ((a - to_numpy(got)) ** 2).sum() / (len(a) - 1)
    assert lost == pytest.approx(float(to_numpy(variances)[2:].sum()), rel=1e-3, abs=1e-5)
    covariance = np.cov(to_numpy(z).astype(float).T)
    assert np.allclose(covariance, np.diag(to_numpy(variances)), atol=1e-4)


def test_projection_and_reconstruction_by_hand():
    mean = np.asarray([1.0, 2.0, 3.0])
    components = np.asarray([[0.0, 0.6, 0.8]])
    assert lm.pca_project(np.asarray([[5.0, 7.0, 3.0]]), mean, components) == pytest.approx(3.0)
    got = lm.pca_reconstruct(np.asarray([[10.0]]), mean, components)
    np.testing.assert_allclose(got, [[1.0, 8.0, 11.0]])


def test_signs_are_settled_by_the_largest_entry():
    for flip in (1, -1):
        x = flip * np.outer([-1.0, 0.0, 1.0], [1.0, -3.0, 2.0])
        _, components, variances = lm.principal_components(x, 1)
        want = -np.asarray([[1.0, -3.0, 2.0]]) / np.sqrt(14)
        np.testing.assert_allclose(components, want, atol=1e-15)
        np.testing.assert_allclose(variances, [14.0])


@pytest.mark.parametrize("seed", range(3))
def test_the_best_linear_autoencoder_finds_the_same_subspace(seed):
    """L-BFGS from a random start on |x - g(f(x))|^2, encoder and decoder free."""
    x = clouds(seed, n=20, d=4)
    k = 2
    mean, components, variances = lm.principal_components(x, k)
    centred = x - mean

    def loss(parameters):
        encode = parameters[:8].reshape(4, k)
        decode = parameters[8:].reshape(k, 4)
        z = centred @ encode
        error = z @ decode - centred
        value = lm.autoencoder_loss(centred, lambda x: x @ encode, lambda z: z @ decode).sum()
        slope = 2 * centred.T @ (error @ decode.T), 2 * z.T @ error
        return value, np.concatenate([g.ravel() for g in slope])

    start = np.random.default_rng(seed).standard_normal(16)
    found = minimize(
        loss, start, jac=True, method="L-BFGS-B", options={"ftol": 1e-15, "gtol": 1e-9}
    )
    total = ((centred) ** 2).sum()
    np.testing.assert_allclose(found.fun, total - variances.sum() * (len(x) - 1), rtol=1e-8)
    assert lm.subspace_distance(found.x[8:].reshape(k, 4), components) < 1e-4


@given(seed=SEEDS, k=st.integers(1, 2), small=st.sampled_from([1.0, 1e-3, 1e-8]))
def test_angles_and_distance_of_subspaces_turned_by_known_angles(
    xp, dtype, xp_assert_close, to_numpy, seed, k, small
):
    rng = np.random.default_rng(seed)
    angles = np.sort(small * rng.uniform(0, np.pi / 2, k))
    turn = np.linalg.qr(rng.standard_normal((5, 5)))[0]
    u = turn[:k]
    v = np.cos(angles)[:, None] * turn[:k] + np.sin(angles)[:, None] * turn[k : 2 * k]
    mix = np.linalg.qr(rng.standard_normal((k, k)))[0] * rng.uniform(0.5, 2, k)
    a, b = to(xp, dtype, mix @ u, mix.T @ v)
    xp_assert_close(lm.principal_angles(a, b), angles, like=a, ulps=64, scale=1.0)
    u, v = (to_numpy(z).astype(np.float64) for z in (a, b))
    p, q = (w.T @ np.linalg.solve(w @ w.T, w) for w in (u, v))
    desired = np.asarray(np.linalg.norm(p - q) / np.sqrt(2))
    xp_assert_close(lm.subspace_distance(a, b), desired, like=a, ulps=64, scale=1.0)
    np.testing.assert_allclose(desired, np.sqrt((np.sin(angles) ** 2).sum()), atol=1e-5)


@given(seed=SEEDS, k=st.integers(1, 3))
def test_angles_equal_scipys(seed, k):
    """scipy loses half the digits of an angle when another is large: sqrt(eps) is allowed."""
    a, b = np.random.default_rng(seed).standard_normal((2, k, 4))
    want = subspace_angles(a.T, b.T)[::-1]
    np.testing.assert_allclose(lm.principal_angles(a, b), want, rtol=0, atol=1e-7)


def test_angles_of_planes_rise_and_small_ones_keep_their_digits():
    tiny = 1e-9
    wide = 1.0
    a = np.eye(2, 4)
    b = np.asarray([[np.cos(wide), 0, np.sin(wide), 0], [0, np.cos(tiny), 0, np.sin(tiny)]])
    np.testing.assert_allclose(lm.principal_angles(a, b), [tiny, wide], rtol=1e-12)
    np.testing.assert_allclose(lm.principal_angles(a, np.eye(2, 4, 2)), [np.pi / 2] * 2)
    assert lm.subspace_distance(a, np.eye(2, 4, 2)) == pytest.approx(np.sqrt(2))
    assert lm.principal_angles(np.eye(2), np.eye(2)[::-1] * 3).tolist() == [0, 0]  # k = d


@pytest.mark.parametrize("k", [0, 4, -1])
def test_a_number_of_components_that_is_not_there_is_refused(k):
    with pytest.raises(ValueError, match="k must be from 1 to 3"):
        lm.principal_components(np.ones((3, 5)), k)


@pytest.mark.parametrize("shape", [(4,), (1, 4), (2, 2, 2)])
def test_points_that_have_no_covariance_are_refused(shape):
    with pytest.raises(ValueError, match="n >= 2"):
        lm.principal_components(np.ones(shape))


def test_two_points_suffice():
    _, components, variances = lm.principal_components(np.asarray([[0.0, 0.0], [3.0, 4.0]]))
    assert components.shape == (2, 2)
    np.testing.assert_allclose(variances, [12.5, 0.0], atol=1e-14)


@pytest.mark.parametrize("function", [lm.principal_angles, lm.subspace_distance])
@pytest.mark.parametrize(
    "shapes", [((1, 3), (2, 3)), ((3, 2), (3, 2)), ((3,), (3,)), ((1, 3), (1, 2))]
)
def test_subspaces_that_cannot_be_compared_are_refused(function, shapes):
    with pytest.raises(ValueError, match="must both be"):
        function(*map(np.ones, shapes))
