"""The mathematics of latent diffusion: pure functions of arrays, each with its source.

Functions accept arrays of any array-API library (NumPy, PyTorch, CuPy, ...) and return arrays of
the same library and dtype; nothing is copied to another library.

Ranges are in the docstrings, and formulas do not read their arrays to check them: a number out of
range, such as the alpha-bars of a posterior in the wrong order, gives NaN, infinity or a wrong
number without a word. `ldmref.math.checked` has the same functions with these checks.
"""

# Packed by hand: one name per line would take 300 lines.
# fmt: off
# isort: off
import ldmref.math.lazy_numpy  # noqa: F401 before array-api-compat copies NumPy
from ldmref.math.activations import geglu, gelu, gelu_tanh, quick_gelu, sigmoid, silu
from ldmref.math.adversarial import (
    adaptive_weight, feature_distance, hinge_discriminator_loss, hinge_generator_loss,
    log_discriminator_loss, log_generator_loss,
)
from ldmref.math.algorithms import ddpm_sample, ddpm_step, training_loss, training_pair
from ldmref.math.attention import attention_map, scaled_dot_product_attention, softmax, word_map
from ldmref.math.autoencoding import (
    autoencoder_loss, denoising_loss, gaussian_corruption, kl_bernoulli, kl_sparsity, l1_sparsity,
    masking_corruption, psnr, squared_error,
)
from ldmref.math.bound import bound_term, denoising_kl, prior_kl, variational_bound
from ldmref.math.conditioning import (
    classifier_guidance, classifier_guidance_eps, classifier_guidance_mean, conditional_scores,
    implicit_classifier, replace_known,
)
from ldmref.math.divergence import (
    kl_normal, kl_standard_normal, normal_entropy, reparameterize,
)
from ldmref.math.edm import edm_denoise, edm_loss_weight, edm_preconditioning, edm_target
from ldmref.math.embedding import timestep_embedding
from ldmref.math.evaluation import frechet_distance, kernel_distance, structural_similarity
from ldmref.math.flow import (
    alpha_bar_from_flow_time, cosmap_time, cosmap_weight, eps_from_velocity, flow_sample,
    flow_time_from_alpha_bar, flow_time_from_sigma, flow_velocity, logit_normal_density,
    logit_normal_time, mode_time, shift_flow_time, sigma_from_flow_time, sigma_sqrt_weight,
    x0_from_velocity,
)
from ldmref.math.flow_density import log_ratio_floor, transition_kl, transition_log_density
from ldmref.math.flow_gaussian import (
    flow_chain_moments, gaussian_flow_velocity, tempering_exponent,
)
from ldmref.math.flow_maps import (
    flow_map_renoise_step, flow_map_step, gaussian_average_velocity, gaussian_flow_map,
    mean_flow_target, shortcut_target,
)
from ldmref.math.flow_sde import (
    ancestral_flow_std, cps_std, flow_grpo_clamped_diffusion, flow_grpo_diffusion,
    flow_posterior_std, flow_renoise_transition, flow_sde_transition, precise_std,
)
from ldmref.math.forward import q_posterior, q_sample, q_step
from ldmref.math.gaussian_bins import bits_per_dimension, discretized_gaussian_log_likelihood
from ldmref.math.guidance import (
    classifier_free_guidance, dynamic_threshold, magnitude_quantile, rescale_guidance,
)
from ldmref.math.guidance_directions import (
    adaptive_projected_guidance, parallel_part, perpendicular_negative_guidance,
    perturbed_attention_guidance,
)
from ldmref.math.guidance_norms import (
    magnitude_aware_guidance, normalized_attention_guidance, renormalize_guidance,
    tangential_guidance, zero_star_guidance,
)
from ldmref.math.interpolants import interpolant_pair
from ldmref.math.interpolation import lerp, slerp
from ldmref.math.layers import (
    adaptive_layer_norm, group_norm, layer_norm, low_rank_update, pad_bottom_right, rms_norm,
    upsample_nearest,
)
from ldmref.math.likelihood import (
    directional_derivative, exact_divergence, flow_log_likelihood, hutchinson_divergence,
    hutchinson_variance,
)
from ldmref.math.neighbours import (
    nearest_distance, neighbourhood_counts, neighbourhood_coverage,
)
from ldmref.math.objective import elbo_weight, eps_weight, hybrid_loss, min_snr_weight, simple_loss
from ldmref.math.ode import integrate_rk4
from ldmref.math.pca import (
    pca_project, pca_reconstruct, principal_angles, principal_components, subspace_distance,
)
from ldmref.math.prediction import (
    eps_from_score, eps_from_v, eps_from_x0, score_from_eps, score_from_x0, v_from_x0_eps,
    x0_from_eps, x0_from_score, x0_from_v,
)
from ldmref.math.predictors import (
    ancestral_step, euler_maruyama, langevin_step, langevin_step_size, predictor_corrector,
    reverse_diffusion_step,
)
from ldmref.math.quantize import (
    code_perplexity, codebook_loss, codebook_moving_average, commitment_loss, nearest_code,
    stop_gradient, straight_through, vq_loss,
)
from ldmref.math.reverse import (
    denoised_from_score, probability_flow, reverse_sde, score_from_denoised, sde_score, sigma_flow,
)
from ldmref.math.schedules import (
    alpha_bar_from_sigma, alphas_cumprod, cosine_betas, linear_betas, rescale_zero_terminal_snr,
    scaled_linear_betas, sigma_from_alpha_bar, sigmoid_betas,
)
from ldmref.math.sde import LinearSDE
from ldmref.math.sde_ve import VESDE
from ldmref.math.sde_vp import VPSDE, SubVPSDE
from ldmref.math.sigmas import (
    align_your_steps_timesteps, beta_sigmas, beta_timesteps, exponential_sigmas, karras_sigmas,
    kl_optimal_sigmas, log_linear_sigmas,
)
from ldmref.math.snr import alpha_bar_from_log_snr, log_snr, snr
from ldmref.math.special import erfc, log_ndtr
from ldmref.math.tokens import patchify, rotary_embedding, unpatchify
from ldmref.math.trigflow import (
    flow_time_from_angle, trigflow_average_velocity, trigflow_renoise_step, trigflow_step,
    trigflow_velocity,
)
from ldmref.math.variance import learned_range_logvar, posterior_logvar_clipped, posterior_variance
from ldmref.math.variational import (
    bernoulli_log_likelihood, elbo, elbo_estimate, gaussian_log_likelihood, iwae_bound,
    log_importance_weight, normal_log_density,
)
# isort: on

__all__ = [
    "VESDE", "VPSDE", "LinearSDE", "SubVPSDE", "adaptive_layer_norm", "adaptive_projected_guidance",
    "adaptive_weight", "align_your_steps_timesteps", "alpha_bar_from_flow_time",
    "alpha_bar_from_log_snr", "alpha_bar_from_sigma", "alphas_cumprod", "ancestral_flow_std",
    "ancestral_step", "attention_map", "autoencoder_loss", "bernoulli_log_likelihood",
    "beta_sigmas", "beta_timesteps", "bits_per_dimension", "bound_term", "classifier_free_guidance",
    "classifier_guidance", "classifier_guidance_eps", "classifier_guidance_mean", "code_perplexity",
    "codebook_loss", "codebook_moving_average", "commitment_loss", "conditional_scores",
    "cosine_betas", "cosmap_time", "cosmap_weight", "cps_std", "ddpm_sample", "ddpm_step",
    "denoised_from_score", "denoising_kl", "denoising_loss", "directional_derivative",
    "discretized_gaussian_log_likelihood", "dynamic_threshold", "edm_denoise", "edm_loss_weight",
    "edm_preconditioning", "edm_target", "elbo", "elbo_estimate", "elbo_weight", "eps_from_score",
    "eps_from_v", "eps_from_velocity", "eps_from_x0", "eps_weight", "erfc", "euler_maruyama",
    "exact_divergence", "exponential_sigmas", "feature_distance", "flow_chain_moments",
    "flow_grpo_clamped_diffusion", "flow_grpo_diffusion", "flow_log_likelihood",
    "flow_map_renoise_step", "flow_map_step", "flow_posterior_std", "flow_renoise_transition",
    "flow_sample", "flow_sde_transition", "flow_time_from_alpha_bar", "flow_time_from_angle",
    "flow_time_from_sigma", "flow_velocity", "frechet_distance", "gaussian_average_velocity",
    "gaussian_corruption", "gaussian_flow_map", "gaussian_flow_velocity", "gaussian_log_likelihood",
    "geglu", "gelu", "gelu_tanh", "group_norm", "hinge_discriminator_loss", "hinge_generator_loss",
    "hutchinson_divergence", "hutchinson_variance", "hybrid_loss", "implicit_classifier",
    "integrate_rk4", "interpolant_pair", "iwae_bound", "karras_sigmas", "kernel_distance",
    "kl_bernoulli", "kl_normal", "kl_optimal_sigmas", "kl_sparsity", "kl_standard_normal",
    "l1_sparsity", "langevin_step", "langevin_step_size", "layer_norm", "learned_range_logvar",
    "lerp", "linear_betas", "log_discriminator_loss", "log_generator_loss", "log_importance_weight",
    "log_linear_sigmas", "log_ndtr", "log_ratio_floor", "log_snr", "logit_normal_density",
    "logit_normal_time", "low_rank_update", "magnitude_aware_guidance", "magnitude_quantile",
    "masking_corruption", "mean_flow_target", "min_snr_weight", "mode_time", "nearest_code",
    "nearest_distance", "neighbourhood_counts", "neighbourhood_coverage",
    "normal_entropy", "normal_log_density", "normalized_attention_guidance", "pad_bottom_right",
    "parallel_part", "patchify", "pca_project", "pca_reconstruct",
    "perpendicular_negative_guidance", "perturbed_attention_guidance", "posterior_logvar_clipped",
    "posterior_variance", "precise_std", "predictor_corrector", "principal_angles",
    "principal_components", "prior_kl", "probability_flow", "psnr", "q_posterior", "q_sample",
    "q_step", "quick_gelu", "renormalize_guidance", "reparameterize", "replace_known",
    "rescale_guidance", "rescale_zero_terminal_snr", "reverse_diffusion_step", "reverse_sde",
    "rms_norm", "rotary_embedding", "scaled_dot_product_attention", "scaled_linear_betas",
    "score_from_denoised", "score_from_eps", "score_from_x0", "sde_score", "shift_flow_time",
    "shortcut_target", "sigma_flow", "sigma_from_alpha_bar", "sigma_from_flow_time",
    "sigma_sqrt_weight", "sigmoid", "sigmoid_betas", "silu", "simple_loss", "slerp", "snr",
    "softmax", "squared_error", "stop_gradient", "straight_through", "structural_similarity",
    "subspace_distance", "tangential_guidance", "tempering_exponent", "timestep_embedding",
    "training_loss", "training_pair", "transition_kl", "transition_log_density",
    "trigflow_average_velocity", "trigflow_renoise_step", "trigflow_step", "trigflow_velocity",
    "unpatchify", "upsample_nearest", "v_from_x0_eps", "variational_bound", "vq_loss", "word_map",
    "x0_from_eps", "x0_from_score", "x0_from_v", "x0_from_velocity", "zero_star_guidance",
]
