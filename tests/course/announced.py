"""The mistakes that the exercises announce: what the page says, and what the examiner answers.

A row is (mistake in mistakes/chNN.py, words of the exercise that announce it, words of the report).
"""

RESHAPE = "reshape to (n, 1, ...)"
SHAPES = "shapes differ"
ANNOUNCED = {
    "00": [
        ("lerp__position_not_reshaped", "has shape (n,), one position for each", RESHAPE),
        ("softmax__naive", "The straightforward version passes", "x = 1000"),
        ("bits_per_dimension__nats_times_log_2", "Find the mistake", "bits_per_dimension(nats="),
    ],
    "01": [
        ("kl_bernoulli__zero_times_log_zero", "Take care of `p` = 0 and `p` = 1", "got nan"),
        ("conditional_scores__last_axis", "(n, channels, ...)", SHAPES),
        ("kl_normal__logvar_is_log_std", "logarithms of variances", "kl_normal(mean1="),
        ("kl_normal__naive", "two Gaussians that are nearly equal", "logvar1 - logvar2 = "),
    ],
    "02": [
        ("autoencoder_loss__mean_for_sum", "a sum of squares for each example", "got"),
        ("autoencoder_loss__one_number_for_all", "The result has shape (n,)", SHAPES),
        ("denoising_loss__reproduces_the_noise", "is the output compared", "corrupted="),
        ("pca_reconstruct__mean_within_the_subspace", "is this point in the subspace", "mean="),
    ],
    "03": [
        ("kl_standard_normal__naive", "which `--hard` checks", "logvar1 - logvar2 = "),
        ("reparameterize__variance_for_std", "is the logarithm of a variance", "got"),
        ("elbo__log_ratio_for_divergence", "is not a divergence", "elbo(log_likelihood="),
        ("elbo__sum_over_the_batch", "the axes of the sum", "elbo(log_likelihood="),
        ("elbo__no_mean_over_samples", "(samples, n) for several samples", SHAPES),
        ("elbo__naive", "`--hard` asks for the digits of a divergence", "logvar = "),
    ],
    "04": [
        ("nearest_code__naive", "finds another entry", "codebook at"),
        ("commitment_loss__mean_for_sum", "it is not a mean", "got"),
        ("commitment_loss__one_number_for_all", "it does not add up positions", SHAPES),
        (
            "adaptive_weight__squares",
            "A length is a square root",
            "adaptive_weight(reconstruction=",
        ),
        ("adaptive_weight__no_maximum", "makes training explode", "weight without adversarial"),
    ],
    "05": [
        ("q_sample__variances_as_amplitudes", "one in the formula", "q_sample(x0="),
        ("q_sample__not_reshaped", "only if each example has its own", RESHAPE),
        ("cosine_betas__naive", "which $`\\beta_t`$ lose digits", "beta_1 of n = "),
        ("cosine_betas__naive_product", "its subtraction loses four digits", "beta_1 of n = 10000"),
        ("rescale_zero_terminal_snr__ratio_without_a_first", "The first ratio has", "betas="),
        ("rescale_zero_terminal_snr__variances_shifted", "square, and take ratios", "betas="),
    ],
    "06": [
        ("q_posterior__standard_deviation", "returns mean and **variance**", "variance of q_post"),
        ("q_posterior__variance_of_the_forward_step", "one minus that", "variance of q_posterior"),
        ("q_posterior__not_reshaped", "shape `(n, 1, ..., 1)` for `(n,)`", RESHAPE),
        ("q_posterior__naive", "between neighbours", "alpha_bar_prev = "),
        ("x0_from_v__sign", "its transpose", "x0_from_v(xt="),
        ("x0_from_v__naive", "a way by $`\\epsilon`$ divides", "alpha_bar = 0"),
        ("ddpm_step__no_coefficient_of_eps", "one of `eps`", "ddpm_step(xt="),
        ("ddpm_step__not_rescaled", "one of the bracket", "ddpm_step(xt="),
        ("ddpm_step__no_root", "contain a root", "ddpm_step(xt="),
        ("ddpm_step__variance_for_deviation", "`sigma` the standard deviation", "ddpm_step(xt="),
        ("ddpm_step__not_reshaped", "Reshape numbers of shape `(n,)`", RESHAPE),
    ],
    "07": [
        ("scaled_dot_product_attention__nowhere_is_nan", "returns zeros", "got nan"),
        ("scaled_dot_product_attention__causal_ignored", "with `causal`", "causal=True"),
        ("scaled_dot_product_attention__mask_ignored", "True where a query may look", "mask="),
        ("scaled_dot_product_attention__naive", "exponentials", "|q| |k| near "),
        ("group_norm__over_the_batch", "the other examples of the batch", "group_norm(x="),
        ("group_norm__epsilon_outside_the_root", "is under the root", "group_norm(x="),
        ("group_norm__naive", "subtract the mean first", "mean / deviation = "),
        ("timestep_embedding__sines_first", "The examiner tests both", "flip_sin_to_cos"),
    ],
    "08": [
        (
            "classifier_free_guidance__scale_of_the_paper",
            "what it returns at `scale = 1`",
            "scale=",
        ),
        ("classifier_guidance_mean__standard_deviation", "deviation does not appear", "variance="),
        ("rescale_guidance__over_the_batch", "each example has its own standard", "phi="),
        ("rescale_guidance__one_axis", "over all axes but the first", "phi="),
        ("rescale_guidance__ratio_inverted", "is the denominator", "phi="),
    ],
    "09": [
        ("ancestral__noise_is_always_called", "Call `noise()` only if", "ancestral(eta=0.0)"),
        ("ancestral__last_step_keeps_noise", "returns $`\\hat x_0`$", "sigma_next=0.0"),
        ("ancestral__standard_deviations_are_added", "the two noise levels", "noise() returned"),
        ("heun__second_slope_at_the_wrong_index", "Find the mistake by measuring", "sigma_next="),
        ("dpmpp_2m__equal_steps", "still rises over $`h`$", "dpmpp_2m(eta="),
        ("dpmpp_2m__h_for_k", "$`k`$ takes the place", "denoise("),
        ("dpmpp_2m__k_for_every_h", "still rises over $`h`$", "denoise("),
        ("dpmpp_2m__no_special_last_step", "a step to 0 returns", "sigma_next=0.0"),
    ],
    "10": [
        ("score_from_eps__not_reshaped", "Reshape `alpha_bar` to (n, 1, ...)", RESHAPE),
        ("score_from_eps__towards_the_noise", "points away from the noise", "eps="),
        ("probability_flow__drift_of_the_reverse_sde", "mistake and write", "score(x="),
        ("probability_flow__not_reshaped", "is a number or (n,)", RESHAPE),
        ("hutchinson_variance__of_an_unsymmetric_matrix", "(J + J^\\top)", "jacobian="),
        ("hutchinson_variance__signs_like_normal_probes", "the diagonal adds no", "jacobian="),
    ],
    "11": [
        ("replace_known__without_noise", "Which noise level does `x` have", "known="),
        ("replace_known__other_polarity", "1 where the image is unknown", "mask="),
        ("replace_known__not_reshaped", "`alpha_bar` is a number or (n,)", RESHAPE),
        ("slerp__no_line", "zero or the vectors are parallel", "got nan"),
        ("slerp__not_reshaped", "`t` is a number or (n,)", RESHAPE),
        ("slerp__naive", "nearly parallel vectors lose half", "angle = "),
        ("q_step__not_reshaped", "`beta` is a number or (n,)", RESHAPE),
    ],
    "12": [
        ("frechet_distance__not_clipped", "so clip eigenvalues at 0", "got nan"),
        ("frechet_distance__naive", "its real part is wrong", "ranks "),
        ("normal_entropy__log_variance_like_log_deviation", "The entropy is to blame", "logvar="),
        ("structural_similarity__of_whole_images", "mean is over windows and", "got"),
    ],
    "13": [
        ("interpolant_pair__denominator_is_one", "not always 1", "signal_rate="),
        ("interpolant_pair__not_reshaped", "each a number or (n,)", RESHAPE),
        ("x0_from_velocity__the_noise", "makes noise of every image", "velocity="),
        ("x0_from_velocity__not_reshaped", "`s` is a number or (n,)", RESHAPE),
        ("logit_normal_density__of_the_logit", "derivative of the logit", "mean="),
        (
            "logit_normal_density__variance_for_deviation",
            "is a standard deviation",
            "logit_normal_density(s=",
        ),
    ],
}
