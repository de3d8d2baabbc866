"""The forward process and the prediction types of batches of images."""

from __future__ import annotations

from ldmref.check.batches import NormalImages, PerExample, batch_law
from ldmref.check.identity import Chapter

chapter = Chapter("forward")
image = NormalImages()
alpha_bar = PerExample(0.1, 0.9)
time = PerExample(0.1, 0.9)
sigma = PerExample(0.3, 3.0)

# Roundings: two products and a sum of values up to 4, and 5 of two coefficients up to 3, twice.
batch_law(chapter, "q_step", 16, x_prev=image, beta=alpha_bar, eps=image)
batch_law(chapter, "q_sample", 16, x0=image, alpha_bar=alpha_bar, eps=image)
batch_law(chapter, "x0_from_eps", 16, size=12.0, xt=image, eps=image, alpha_bar=alpha_bar)
batch_law(chapter, "eps_from_x0", 16, size=12.0, xt=image, x0=image, alpha_bar=alpha_bar)
batch_law(chapter, "v_from_x0_eps", 16, x0=image, eps=image, alpha_bar=alpha_bar)
batch_law(chapter, "x0_from_v", 16, xt=image, v=image, alpha_bar=alpha_bar)
batch_law(chapter, "eps_from_v", 16, xt=image, v=image, alpha_bar=alpha_bar)
batch_law(chapter, "score_from_eps", 16, size=12.0, eps=image, alpha_bar=alpha_bar)
batch_law(chapter, "eps_from_score", 16, score=image, alpha_bar=alpha_bar)
# Roundings: as above, of values divided by 1 - alpha-bar or the root of alpha-bar.
batch_law(chapter, "score_from_x0", 20, size=40.0, xt=image, x0=image, alpha_bar=alpha_bar)
batch_law(chapter, "x0_from_score", 20, size=12.0, xt=image, score=image, alpha_bar=alpha_bar)
batch_law(chapter, "flow_sample", 12, x0=image, eps=image, s=time)
batch_law(chapter, "flow_velocity", 4, x0=image, eps=image)
batch_law(chapter, "x0_from_velocity", 12, xs=image, velocity=image, s=time)
batch_law(chapter, "eps_from_velocity", 12, xs=image, velocity=image, s=time)
# Roundings: 6 of each term up to 5 x and 2 velocities, twice.
batch_law(
    chapter,
    "interpolant_pair",
    12,
    size=32.0,
    x=image,
    velocity=image,
    signal=PerExample(0.2, 1.0),
    noise=PerExample(0.2, 1.0),
    signal_rate=PerExample(-2.0, -0.5),
    noise_rate=PerExample(0.5, 2.0),
)
# Roundings: 8 of the coefficients and 5 of two products, twice.
batch_law(
    chapter, "edm_denoise", 26, network=lambda x, c: 0.5 * x, x=image, sigma=sigma, sigma_data=0.5
)
batch_law(chapter, "edm_target", 26, size=12.0, x0=image, x=image, sigma=sigma, sigma_data=0.5)
batch_law(chapter, "edm_loss_weight", 16, size=40.0, sigma=sigma, sigma_data=0.5)
# Roundings: 12 of each coefficient and 4 of the sum, twice.
batch_law(
    chapter,
    "q_posterior",
    32,
    x0=image,
    xt=image,
    alpha_bar=PerExample(0.1, 0.5),
    alpha_bar_prev=PerExample(0.6, 0.9),
)
