"""The formulas of chapter 1, computed in two ways."""

import numpy as np
import sympy

RNG_SEED = 20


def joint_table():
    """Return a joint distribution of three discrete variables."""
    table = np.random.default_rng(RNG_SEED).uniform(0.1, 1.0, (3, 4, 5))
    return table / table.sum()


def test_product_rule_and_bayes():
    """Counted in a table: p(x, y) = p(y) p(x|y), and Bayes' rule gives p(y|x)."""
    joint = joint_table().sum(axis=2)
    x_given_y = joint / joint.sum(axis=0)
    y_given_x = joint / joint.sum(axis=1, keepdims=True)
    p_y = joint.sum(axis=0)
    evidence = (x_given_y * p_y).sum(axis=1, keepdims=True)
    assert np.allclose(p_y * x_given_y, joint)
    assert np.allclose(x_given_y * p_y / evidence, y_given_x)


def test_chain_rule():
    """Check in two orders of the variables."""
    joint = joint_table()
    for order in ((0, 1, 2), (2, 0, 1)):
        p = joint.transpose(order)
        first = p.sum(axis=(1, 2))
        second = p.sum(axis=2) / first[:, None]
        third = p / p.sum(axis=2, keepdims=True)
        assert np.allclose(first[:, None, None] * second[:, :, None] * third, p)


def test_score_of_the_joint_is_conditional():
    """For a Gaussian, whose conditional density is known: mean r y, variance 1 - r^2."""
    x, y, r = sympy.symbols("x y r", real=True)
    log_joint = -(x**2 - 2 * r * x * y + y**2) / (2 * (1 - r**2))
    log_x_given_y = -((x - r * y) ** 2) / (2 * (1 - r**2))
    log_y_given_x = -((y - r * x) ** 2) / (2 * (1 - r**2))
    assert sympy.simplify(sympy.diff(log_joint - log_x_given_y, x)) == 0
    assert sympy.simplify(sympy.diff(log_joint - log_y_given_x, y)) == 0


def test_maximum_likelihood_of_a_gaussian():
    """The derivatives vanish at the mean and the variance, which are a maximum."""
    m = sympy.Symbol("m", real=True)
    v = sympy.Symbol("v", positive=True)
    data = [sympy.Rational(k) for k in (1, 2, 4, 9)]
    mean = sum(data) / 4
    variance = sum((k - mean) ** 2 for k in data) / 4
    logs = [-sympy.log(2 * sympy.pi * v) / 2 - (k - m) ** 2 / (2 * v) for k in data]
    likelihood = sum(logs) / 4
    at = {m: mean, v: variance}
    by_m = sum((k - m) / v for k in data) / 4
    by_v = -1 / (2 * v) + sum((k - m) ** 2 for k in data) / (8 * v**2)
    assert sympy.simplify(sympy.diff(likelihood, m) - by_m) == 0
    assert sympy.simplify(sympy.diff(likelihood, v) - by_v) == 0
    assert by_m.subs(at) == 0 and by_v.subs(at) == 0
    assert sympy.hessian(likelihood, (m, v)).subs(at).is_negative_definite


def test_kl_is_not_negative():
    """Every line of the proof, for random distributions, one of them with zeros in q."""
    rng = np.random.default_rng(RNG_SEED)
    for zeros in (0, 2):
        q, p = rng.dirichlet(np.ones(6), 2)
        q[:zeros] = 0.0
        q /= q.sum()
        on = q > 0
        negative = np.sum(q[on] * np.log(p[on] / q[on]))
        bound = np.sum(q[on] * (p[on] / q[on] - 1.0))
        assert negative <= bound
        assert np.isclose(bound, p[on].sum() - 1.0)
        assert bound <= 1e-15
        assert negative <= np.log(np.sum(q[on] * (p[on] / q[on])))  # Jensen's inequality


def test_likelihood_is_entropy_and_divergence():
    p, model = np.random.default_rng(RNG_SEED).dirichlet(np.ones(6), 2)
    divergence = np.sum(p * np.log(p / model))
    assert np.isclose(np.sum(p * np.log(model)), np.sum(p * np.log(p)) - divergence)


def test_kl_of_gaussians():
    """Quadrature of the definition against the closed form."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    weights = weights / weights.sum()
    m1, v1, m2, v2 = 0.7, 0.3, -0.4, 2.5
    x = m1 + np.sqrt(v1) * nodes
    logs = [-0.5 * np.log(2 * np.pi * v) - (x - m) ** 2 / (2 * v) for m, v in ((m1, v1), (m2, v2))]
    closed = 0.5 * (np.log(v2 / v1) - 1 + (v1 + (m1 - m2) ** 2) / v2)
    assert np.isclose(weights @ (logs[0] - logs[1]), closed)
