"""The formulas of chapter 2, computed in two ways."""

import numpy as np


def test_counts():
    pixels, latents = np.zeros((3, 512, 512)), np.zeros((4, 64, 64))
    assert (pixels.size, latents.size) == (786_432, 16_384)
    assert pixels.size / latents.size == 3 * 8**2 / 4 == 48
    assert 3 * 128**2 / (16 * 16**2) == 3 * 8**2 / 16 == 12


def test_linear_loss_line_by_line():
    rng = np.random.default_rng(0)
    y = rng.standard_normal(6)
    v = np.linalg.qr(rng.standard_normal((6, 2)))[0].T
    loss = np.sum((y - v.T @ v @ y) ** 2)
    expanded = y @ y - 2 * y @ v.T @ v @ y + y @ v.T @ v @ v.T @ v @ y
    assert np.isclose(expanded, loss)
    assert np.isclose(y @ y - np.sum((v @ y) ** 2), loss)


def test_eigenvectors_are_the_best():
    """The sum of the other eigenvalues is reached, and no random subspace does better."""
    rng = np.random.default_rng(0)
    y = rng.standard_normal((50, 5)) @ rng.standard_normal((5, 5))
    y -= y.mean(axis=0)
    values, vectors = np.linalg.eigh(y.T @ y / len(y))

    def loss(v):
        return np.mean(np.sum((y - y @ v.T @ v) ** 2, axis=1))

    assert np.isclose(loss(vectors[:, -2:].T), values[:-2].sum())
    for _ in range(50):
        v = np.linalg.qr(rng.standard_normal((5, 2)))[0].T
        shares = np.sum((v @ vectors) ** 2, axis=0)
        assert np.isclose(shares.sum(), 2) and shares.max() <= 1 + 1e-12
        assert np.isclose(np.trace(v @ (y.T @ y / len(y)) @ v.T), shares @ values)
        assert loss(v) > values[:-2].sum()


def test_best_denoiser_is_the_posterior_mean():
    """A joint table of clean and damaged values, and an arbitrary function."""
    rng = np.random.default_rng(0)
    joint = rng.uniform(0, 1, (4, 3))  # p(x, damaged)
    joint /= joint.sum()
    x, h = rng.standard_normal(4), rng.standard_normal(3)
    mean = joint.T @ x / joint.sum(axis=0)
    error = np.sum(joint * (x[:, None] - h) ** 2)
    unavoidable = np.sum(joint * (x[:, None] - mean) ** 2)
    distance = np.sum(joint * (mean - h) ** 2)
    mixed = np.sum(joint * (x[:, None] - mean) * (mean - h))
    assert np.isclose(mixed, 0.0)
    assert np.isclose(unavoidable + distance, error)


def test_gradient_of_the_network_on_the_page():
    """The gradient by hand, as on the page, against finite differences."""
    rng = np.random.default_rng(0)
    sizes = [(2, 4), (4, 1), (1, 4), (4, 2)]
    weights = [rng.standard_normal(size) for size in sizes]
    biases = [rng.standard_normal(size[1]) for size in sizes]
    x = rng.standard_normal((7, 2))

    def forward():
        h = np.tanh(x @ weights[0] + biases[0])
        z = h @ weights[1] + biases[1]
        g = np.tanh(z @ weights[2] + biases[2])
        return h, z, g, g @ weights[3] + biases[3]

    h, z, g, out = forward()
    d_out = 2 * (out - x) / len(x)
    d_g = d_out @ weights[3].T * (1 - g**2)
    d_z = d_g @ weights[2].T
    d_h = d_z @ weights[1].T * (1 - h**2)
    layers = ((x, d_h), (h, d_z), (z, d_g), (g, d_out))
    gradients = [a.T @ d for a, d in layers] + [d.sum(axis=0) for _, d in layers]
    for parameter, gradient in zip(weights + biases, gradients, strict=True):
        index = (0,) * parameter.ndim
        losses = []
        for step in (1e-6, -1e-6):
            parameter[index] += step
            losses.append(np.sum((x - forward()[3]) ** 2) / len(x))
            parameter[index] -= step
        assert np.isclose((losses[0] - losses[1]) / 2e-6, gradient[index], rtol=1e-5)


def test_compression_removes_noise():
    """The mean error over +-sigma noise on a set whose second moments are exact."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((500, 4)) @ np.diag([3.0, 1.0, 0.5, 0.1]) + [1.0, 2.0, 0.0, -1.0]
    mean, sigma = x.mean(axis=0), 0.7
    values, vectors = np.linalg.eigh(np.cov(x.T, bias=True))
    values, rows = values[::-1], vectors[:, ::-1].T
    for k in (1, 2, 4):
        u = rows[:k]
        errors = []
        for i in range(4):  # noise of variance sigma^2: one entry at a time, both signs
            for sign in (-2.0, 2.0):  # 2 = root of 4 entries
                damaged = x + sign * sigma * np.eye(4)[i]
                left = x - mean - (damaged - mean) @ u.T @ u
                errors.append((left**2).sum(axis=1).mean())
        assert np.isclose(np.mean(errors), values[k:].sum() + k * sigma**2)
