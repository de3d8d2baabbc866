"""Gradients are compared where the library records them: wrong ones fail, whatever their values."""

import mpmath
import numpy as np
import pytest
from wrapped import module_of

import ldmref.math
from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.gradients import complex_step
from ldmref.check.identity import public

pytest.importorskip("torch")
TORCH = get_backend("torch", dtype="float64")
GRADIENTS = [identity for identity in identities() if identity.gradients]


def square(z, quantised):
    return ((z - quantised) ** 2).sum(axis=-1)


def beta_on_the_wrong_term(z, quantised, beta=0.25, taming_legacy=False):
    return ldmref.math.vq_loss(z, quantised, beta, not taming_legacy)


def no_gradient_for_the_mean(mean, logvar, noise):
    return ldmref.math.reparameterize(mean.detach(), logvar, noise)


WRONG = {
    "the encoder receives no gradient": {"straight_through": lambda z, quantised: quantised},
    "the code is a constant": {"straight_through": lambda z, quantised: quantised.detach()},
    "both receive the gradient": {"straight_through": lambda z, q: z + (q - z)},
    "nothing is stopped": {"stop_gradient": lambda x: x},
    "both terms move both": {
        "vq_loss": lambda z, q, beta=0.25, taming_legacy=False: (1 + beta) * square(z, q)
    },
    "beta weighs the other term": {"vq_loss": beta_on_the_wrong_term},
    "the codebook's term moves the encoder": {"codebook_loss": square},
    "the commitment moves the codebook": {"commitment_loss": square},
    "the codebook is out of reach": {
        "nearest_code": lambda z, c: [x.detach() for x in ldmref.math.nearest_code(z, c)]
    },
    "the mean is not trained": {"reparameterize": no_gradient_for_the_mean},
    "the logarithm of the variance is not trained": {
        "kl_standard_normal": lambda m, v: ldmref.math.kl_standard_normal(m, v.detach())
    },
}


@pytest.mark.parametrize("functions", WRONG.values(), ids=list(WRONG))
def test_a_wrong_gradient_with_right_values_fails(functions):
    results = list(run(TORCH, against=module_of(functions), cases=5))
    (function,) = functions
    by_kind = {identity.name: identity.gradients for identity in identities()}
    assert all(r.holds for r in results if not by_kind[r.identity]), "the values are right"
    failed = [r for r in results if not r.holds]
    assert failed and all(r.verdict == "FAILED" for r in failed)
    assert any(r.function == function or function in str(r.calls) for r in failed)


def test_the_input_of_a_wrong_gradient_is_named():
    other = module_of({"vq_loss": beta_on_the_wrong_term})
    (result,) = (r for r in run(TORCH, against=other, cases=5) if not r.holds)
    assert "vq_loss, gradient for" in result.detail or "taming_legacy, gradient" in result.detail


def detached(function):
    """Return the function as a constant: its values are right, its gradients are all zero."""

    def call(*args, **kwargs):
        value = function(*args, **kwargs)
        if isinstance(value, tuple):
            return tuple(v.detach() for v in value)
        return value.detach() if hasattr(value, "detach") else value

    return call


@pytest.mark.parametrize("identity", GRADIENTS, ids=[i.name for i in GRADIENTS])
def test_a_function_without_gradient_fails(identity):
    """Only stop_gradient, which has none, and the weight, which is a constant, still pass."""
    other = module_of({identity.function: detached(public(identity.function))})
    results = run(TORCH, against=other, cases=5, only=identity.name)
    (result,) = (r for r in results if r.identity == identity.name)
    assert result.holds == (identity.function in ("stop_gradient", "adaptive_weight"))


TRAINED = """
    stop_gradient straight_through nearest_code vq_loss reparameterize kl_normal kl_standard_normal
    normal_entropy squared_error autoencoder_loss denoising_loss kl_bernoulli kl_sparsity
    l1_sparsity normal_log_density gaussian_log_likelihood bernoulli_log_likelihood elbo
    elbo_estimate log_importance_weight iwae_bound hinge_discriminator_loss hinge_generator_loss
    log_discriminator_loss log_generator_loss adaptive_weight feature_distance simple_loss
    hybrid_loss training_loss prior_kl denoising_kl learned_range_logvar bound_term
    discretized_gaussian_log_likelihood q_sample x0_from_eps eps_from_x0 v_from_x0_eps x0_from_v
    eps_from_v flow_sample flow_velocity x0_from_velocity eps_from_velocity edm_denoise softmax
    scaled_dot_product_attention silu gelu gelu_tanh quick_gelu geglu group_norm layer_norm
    low_rank_update upsample_nearest pad_bottom_right sigmoid erfc log_ndtr rms_norm
    adaptive_layer_norm rotary_embedding patchify unpatchify
    transition_log_density transition_kl flow_map_step trigflow_step
""".split()


def test_the_functions_that_are_trained_through():
    assert {i.function for i in GRADIENTS} == set(TRAINED)
    losses = {n for n in ldmref.math.__all__ if n.endswith(("_loss", "_kl")) or n.startswith("kl_")}
    losses -= {"kl_optimal_sigmas"}  # a schedule
    covered = {name for i in GRADIENTS for name in (i.function, *i.uses)}
    assert losses <= covered


def test_the_derivative_by_a_complex_step_is_exact():
    """Against mpmath with 40 digits."""
    x = np.asarray([-1.3, 0.2, 2.5])
    weights = np.asarray([1.0, 2.0, -3.0])
    (got,) = complex_step(lambda x: np.exp(np.sin(x)) / (1 + x * x), weights, x)
    with mpmath.workdps(40):
        slope = [mpmath.diff(lambda v: mpmath.exp(mpmath.sin(v)) / (1 + v * v), v) for v in x]
        expected = [float(w * s) for w, s in zip(weights, slope, strict=True)]
    assert got == pytest.approx(expected, rel=1e-15, abs=0)


def test_a_library_without_gradients_leaves_them_out():
    numpy = get_backend("numpy", dtype="float64")
    ran = {r.identity for r in run(numpy, cases=1)}
    assert ran == {i.name for i in identities() if not i.gradients}
    assert not list(run(numpy, cases=1, only="gradient passes to"))
    assert {r.identity for r in run(TORCH, cases=1)} == {i.name for i in identities()}
