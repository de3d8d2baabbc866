"""Check diffusers' formulas with ldmref's identities.

    ldmref check --against examples.check_diffusers --backend torch --dtype float32

`ldmref check --against MODULE` runs the identities with the functions of the module instead of the
functions of the same name in `ldmref.math`. Diffusers keeps its formulas inside scheduler classes;
the functions below only call them. The example needs `pip install diffusers`.
"""

from __future__ import annotations

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.models.autoencoders.vq_model import VectorQuantizer
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers.schedulers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr as zero_terminal
from diffusers.training_utils import compute_snr


def linear_betas(n, start=1e-4, end=0.02):
    return DDPMScheduler(n, start, end, "linear").betas.numpy()


def scaled_linear_betas(n, start=0.00085, end=0.012):
    return DDPMScheduler(n, start, end, "scaled_linear").betas.numpy()


def rescale_zero_terminal_snr(betas):
    return zero_terminal(torch.as_tensor(betas)).numpy()


def alphas_cumprod(betas):
    return DDPMScheduler(trained_betas=betas.tolist()).alphas_cumprod.to(betas.dtype)


def exponential_sigmas(n, sigma_min, sigma_max):
    ends = torch.tensor([sigma_max, sigma_min], dtype=torch.float64)
    return EulerDiscreteScheduler()._convert_to_exponential(ends, n)


def beta_sigmas(n, sigma_min, sigma_max, a=0.6, b=0.6):
    ends = torch.tensor([sigma_max, sigma_min], dtype=torch.float64)
    return EulerDiscreteScheduler()._convert_to_beta(ends, n, a, b)


def snr(alpha_bar):
    alpha_bars = alpha_bar.ravel()  # a schedule has one axis
    snrs = compute_snr(_scheduler(DDPMScheduler, alpha_bars), torch.arange(len(alpha_bars)))
    return snrs.reshape(alpha_bar.shape)


def q_sample(x0, alpha_bar, eps):
    scheduler = _scheduler(DDPMScheduler, _per_example(alpha_bar, x0))
    return scheduler.add_noise(x0, eps, torch.arange(len(x0)))


def v_from_x0_eps(x0, eps, alpha_bar):
    scheduler = _scheduler(DDPMScheduler, _per_example(alpha_bar, x0))
    return scheduler.get_velocity(x0, eps, torch.arange(len(x0)))


def x0_from_eps(xt, eps, alpha_bar):
    return _predicted_x0(xt, eps, alpha_bar, "epsilon")


def x0_from_v(xt, v, alpha_bar):
    return _predicted_x0(xt, v, alpha_bar, "v_prediction")


def q_posterior(x0, xt, alpha_bar, alpha_bar_prev):
    now = _per_example(alpha_bar, x0)
    before = _per_example(alpha_bar_prev, x0)
    examples = zip(x0.split(1), xt.split(1), now, before, strict=True)
    means, variances = zip(*(_posterior_of_one(*example) for example in examples), strict=True)
    mean = torch.cat(means)
    variance = torch.stack(variances)
    if not hasattr(alpha_bar, "shape"):
        return mean, float(variance[0])
    return mean, variance.reshape(-1, *[1] * (x0.ndim - 1))


def _posterior_of_one(x0, xt, now, before):
    """Take one ancestral step of DDPMScheduler, and subtract the noise that it added."""
    scheduler = _scheduler(DDPMScheduler, torch.stack([before, now]), prediction_type="sample")
    seed = torch.Generator().manual_seed(0)
    sample = scheduler.step(x0, 1, xt, generator=seed).prev_sample
    variance = scheduler._get_variance(1)
    noise = torch.randn(x0.shape, generator=seed.manual_seed(0), dtype=x0.dtype)
    return sample - variance.sqrt() * noise, variance


def rescale_guidance(guided, cond, phi):
    return rescale_noise_cfg(guided, cond, guidance_rescale=phi)


def kl_standard_normal(mean, logvar):
    return _gaussian(mean, logvar).kl().reshape(mean.shape)


def kl_normal(mean1, logvar1, mean2, logvar2):
    return _gaussian(mean1, logvar1).kl(_gaussian(mean2, logvar2)).reshape(mean1.shape)


def timestep_embedding(t, dim, max_period=10000.0, *, flip_sin_to_cos=True, freq_shift=0):
    return get_timestep_embedding(
        t, dim, flip_sin_to_cos, downscale_freq_shift=freq_shift, max_period=max_period
    )


def nearest_code(z, codebook):
    quantizer = VectorQuantizer(*codebook.shape, beta=0.25).to(z.dtype)
    quantizer.embedding.weight.data.copy_(codebook)
    image = z.reshape(1, -1, 1, z.shape[-1]).permute(0, 3, 1, 2)  # (1, d, vectors, 1)
    quantised, _, (_, _, indices) = quantizer(image)
    quantised = quantised.permute(0, 2, 3, 1).reshape(z.shape)
    # diffusers applies the straight-through estimator already; here the gradient is the lookup's
    entries = torch.nn.functional.embedding(indices, codebook).reshape(z.shape)
    return indices.reshape(z.shape[:-1]), entries + (quantised - entries).detach()


def _per_example(alpha_bar, x):
    return torch.as_tensor(alpha_bar, dtype=x.dtype).expand(len(x))


def _scheduler(scheduler_class, alpha_bars, **config):
    n = len(alpha_bars)
    scheduler = scheduler_class(num_train_timesteps=max(n, 2), clip_sample=False, **config)
    scheduler.alphas_cumprod = alpha_bars
    scheduler.num_inference_steps = n
    return scheduler


def _predicted_x0(xt, prediction, alpha_bar, prediction_type):
    alpha_bars = _per_example(alpha_bar, xt)
    scheduler = _scheduler(DDIMScheduler, alpha_bars, prediction_type=prediction_type)
    steps = [scheduler.step(prediction[i], i, xt[i]) for i in range(len(xt))]
    return torch.stack([step.pred_original_sample for step in steps])


def _gaussian(mean, logvar):
    """Return one Gaussian per element, because diffusers sums the divergence over an image."""
    parameters = torch.stack([mean.reshape(-1), logvar.reshape(-1)], dim=1)
    return DiagonalGaussianDistribution(parameters[:, :, None, None])
