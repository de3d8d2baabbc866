"""Adversarial terms: values by loops and scipy, gradients by torch, minima by enumeration."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cosine
from scipy.special import expit, log_expit

from ldmref import math as lm
from ldmref.testing import strategies


@given(data=st.data())
def test_hinge_losses_equal_loops(xp, dtype, xp_assert_close, to_numpy, data):
    real, fake = data.draw(strategies.paired(2, xp, dtype))
    a, b = (to_numpy(v).astype(np.longdouble) for v in (real, fake))
    expected = np.asarray(
        [max(0, 1 - u) + max(0, 1 + v) for u, v in zip(a.ravel(), b.ravel(), strict=True)]
    ).reshape(a.shape)
    got = lm.hinge_discriminator_loss(real, fake)
    xp_assert_close(got, expected, like=real, ulps=2, scale=2 + abs(a) + abs(b))
    assert np.array_equal(to_numpy(lm.hinge_generator_loss(fake)), -to_numpy(fake))


@given(data=st.data())
def test_log_losses_equal_scipy(xp, dtype, xp_assert_close, to_numpy, data):
    real, fake = data.draw(strategies.paired(2, xp, dtype))
    a, b = (to_numpy(v).astype(np.float64) for v in (real, fake))
    expected = -log_expit(a) - log_expit(-b)
    got = lm.log_discriminator_loss(real, fake)
    generator = lm.log_generator_loss(fake)
    xp_assert_close(got, expected, like=real, ulps=4, scale=1 + abs(a) + abs(b))
    xp_assert_close(generator, -log_expit(b), like=fake, ulps=4, scale=1 + abs(b))


def test_log_losses_of_huge_logits_are_finite():
    huge = np.asarray([1e6, -1e6])
    assert np.allclose(lm.log_generator_loss(huge), [0, 1e6])
    assert np.isfinite(lm.log_discriminator_loss(huge, huge)).all()


@pytest.mark.parametrize("kind", ["hinge", "log"])
def test_the_best_discriminator(kind):
    """By enumeration of logits: the sign of p - q for the hinge, the log-ratio for the other."""
    loss = getattr(lm, f"{kind}_discriminator_loss")
    logits = np.linspace(-3, 3, 6001)
    for p, q in ((0.7, 0.3), (0.2, 0.8)):  # how often an image is real, and made
        zeros = np.full_like(logits, 1e3)  # the other argument, where it costs nothing
        cost = p * loss(logits, -zeros) + q * loss(zeros, logits)
        best = logits[cost.argmin()]
        expected = np.sign(p - q) if kind == "hinge" else np.log(p / q)
        assert best == pytest.approx(expected, abs=2e-3)


def test_the_log_generator_learns_where_it_is_sure_to_lose():
    torch = pytest.importorskip("torch")
    fake = torch.tensor([-20.0, 0.0], dtype=torch.float64, requires_grad=True)
    lm.log_generator_loss(fake).sum().backward()
    assert fake.grad is not None
    assert np.allclose(fake.grad.numpy(), [-expit(20.0), -0.5])


@given(data=st.data(), delta=st.sampled_from([None, 1e-4, 0.5]))
def test_adaptive_weight_is_the_ratio_of_norms(xp, dtype, xp_assert_close, to_numpy, data, delta):
    a, b = data.draw(strategies.paired(2, xp, dtype))
    values = [to_numpy(v).astype(np.float64).ravel() for v in (a, b)]
    lengths = [np.sqrt(v @ v) for v in values]
    ratio = lengths[0] / (lengths[1] + (1e-6 if delta is None else delta))
    got = lm.adaptive_weight(a, b, *([] if delta is None else [delta]))
    ulps = 4 + values[0].size
    xp_assert_close(got, np.asarray(min(ratio, 1e4)), like=a, ulps=ulps)
    capped = lm.adaptive_weight(a, b, 0.5, 0.25)
    expected = np.asarray(min(lengths[0] / (lengths[1] + 0.5), 0.25))
    xp_assert_close(capped, expected, like=a, ulps=ulps)


def test_the_weighted_gradients_are_equally_long():
    """The gradients are those of two losses of one layer, by autograd."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layer = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    x = torch.randn(5, 3, dtype=torch.float64)
    first = ((x @ layer) ** 2).sum()
    second = (0.1 * (x @ layer)).sin().sum()
    a, b = (torch.autograd.grad(loss, layer)[0] for loss in (first, second))
    weight = lm.adaptive_weight(a, b)
    assert float(torch.linalg.norm(weight * b)) == pytest.approx(float(torch.linalg.norm(a)), 1e-3)


@given(data=st.data())
def test_feature_distance_equals_loops(xp, dtype, xp_assert_close, to_numpy, data):
    x, y = data.draw(strategies.paired(2, xp, dtype, strategies.shapes(4, 4)))
    a, b = (np.moveaxis(to_numpy(v).astype(np.float64), 1, -1) for v in (x, y))
    expected = np.zeros(a.shape[:-1])
    for where in np.ndindex(expected.shape):
        zero_a = not a[where].any()
        zero_b = not b[where].any()
        both = 2 * cosine(a[where], b[where]) if not (zero_a or zero_b) else 0.0
        expected[where] = both if not (zero_a or zero_b) else float(zero_a != zero_b)
    got = lm.feature_distance(x, y)
    xp_assert_close(got, expected.mean(axis=(1, 2)), like=x, ulps=8 + a[0].size, scale=4.0)


@given(data=st.data(), factor=st.sampled_from([0.125, 4.0]))
def test_feature_distance_ignores_the_length(xp, dtype, xp_assert_close, to_numpy, data, factor):
    x, y = data.draw(strategies.paired(2, xp, dtype, strategies.shapes(4, 4)))
    got = lm.feature_distance(x, y)
    scaled = lm.feature_distance(factor * x, y)
    xp_assert_close(scaled, to_numpy(got), like=x, ulps=8 + to_numpy(x)[0].size, scale=4.0)
    assert float(xp.max(xp.abs(lm.feature_distance(x, x)))) == 0.0


def test_feature_distance_has_a_gradient_at_zero():
    torch = pytest.importorskip("torch")
    x = torch.zeros(1, 2, 1, 1, dtype=torch.float64, requires_grad=True)
    lm.feature_distance(x, torch.ones_like(x)).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()
