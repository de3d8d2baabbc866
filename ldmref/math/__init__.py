"""The mathematics of latent diffusion: pure functions of arrays, each with its source.

Functions take arrays of any array-API library (NumPy, PyTorch, CuPy, ...) and give back the same
kind in the same dtype; nothing is copied to another library.
"""

from ldmref.math.divergence import kl_normal, kl_standard_normal, reparameterize
from ldmref.math.embedding import timestep_embedding
from ldmref.math.forward import q_posterior, q_sample
from ldmref.math.guidance import classifier_free_guidance, rescale_guidance
from ldmref.math.prediction import (
    eps_from_v,
    eps_from_x0,
    score_from_eps,
    v_from_x0_eps,
    x0_from_eps,
    x0_from_v,
)
from ldmref.math.quantize import nearest_code
from ldmref.math.schedules import (
    alpha_bar_from_sigma,
    alphas_cumprod,
    cosine_betas,
    exponential_sigmas,
    karras_sigmas,
    linear_betas,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    sigma_from_alpha_bar,
    snr,
)

__all__ = [
    "alpha_bar_from_sigma",
    "alphas_cumprod",
    "classifier_free_guidance",
    "cosine_betas",
    "eps_from_v",
    "eps_from_x0",
    "exponential_sigmas",
    "karras_sigmas",
    "kl_normal",
    "kl_standard_normal",
    "linear_betas",
    "nearest_code",
    "q_posterior",
    "q_sample",
    "reparameterize",
    "rescale_guidance",
    "rescale_zero_terminal_snr",
    "scaled_linear_betas",
    "score_from_eps",
    "sigma_from_alpha_bar",
    "snr",
    "timestep_embedding",
    "v_from_x0_eps",
    "x0_from_eps",
    "x0_from_v",
]
