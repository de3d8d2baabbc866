"""Reconstruction by the autoencoder, and likelihood, of images of a data set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ldmref.backends.numpy import NumpyBackend
from ldmref.evaluate.intervals import estimate
from ldmref.evaluate.likelihood import Predict, chain_bound, flow_nats, sum_per_example
from ldmref.evaluate.report import Section
from ldmref.math.arrays import Array
from ldmref.math.autoencoding import psnr
from ldmref.math.divergence import kl_standard_normal, normal_entropy, reparameterize
from ldmref.math.evaluation import structural_similarity
from ldmref.math.flow import flow_time_from_alpha_bar
from ldmref.math.gaussian_bins import bits_per_dimension, discretized_gaussian_log_likelihood
from ldmref.math.likelihood import directional_derivative
from ldmref.math.schedules import alphas_cumprod, cosine_betas, sigma_from_alpha_bar
from ldmref.models.autoencoder_kind import add_alpha, autoencoder_of
from ldmref.models.conditioning import Conditioning
from ldmref.models.model import LatentDiffusion
from ldmref.modes.batch_network import BatchNetwork
from ldmref.modes.guidance_parameter import PLAIN
from ldmref.modes.text import encode_conditioning
from ldmref.samplers.config import LEARNED, SchedulerConfig
from ldmref.samplers.denoiser import TO_X0
from ldmref.samplers.interfaces import Denoiser
from ldmref.samplers.path import FLOW, PURE_NOISE
from ldmref.samplers.schedule import sampling_sigmas, timestep_at, training_alphas_cumprod

SHORTEST_SIDE = 11  # pixels, the smallest for SSIM
HALF_BIN = 1.0 / 255.0  # half the distance of two byte values in [-1, 1]


@dataclass(frozen=True)
class Encoded:
    """Images (n, 3, H, W) in [-1, 1], mean and log-variance of their unscaled latents, a sample z
    of the latents, and the decoded sample; float64 on the host."""

    x: np.ndarray
    mean: np.ndarray
    logvar: np.ndarray
    z: np.ndarray
    decoded: np.ndarray


def encode_images(
    model: LatentDiffusion, images: np.ndarray, rng: np.random.Generator, batch: int
) -> Encoded:
    """Encode images (n, 3, H, W) uint8, sample their latents and decode the samples."""
    ops = model.backend
    config = model.config.vae
    scale = model.latent_scale(NumpyBackend(dtype="float64"))
    columns = []
    for start in range(0, len(images), batch):
        x = images[start : start + batch].astype(np.float64) / 127.5 - 1.0
        with ops.inference():
            pixels = add_alpha(ops, ops.asarray(x), config)
            posterior = autoencoder_of(config).encode(ops, model.params["vae"], config, pixels)
            mean, logvar = (ops.to_numpy(m).astype(np.float64) for m in posterior)
            z = reparameterize(mean, logvar, rng.standard_normal(mean.shape))
            decoded = model.decode(ops.asarray(scale.normalize(z)))
        columns.append((x, mean, logvar, z, ops.to_numpy(decoded).astype(np.float64)))
    return Encoded(*(np.concatenate(arrays) for arrays in zip(*columns, strict=True)))


def reconstruction(e: Encoded) -> Section:
    """Measure PSNR and SSIM of decoded samples, clipped to [-1, 1] like images."""
    section = Section("Reconstruction", "of a sample of the latents' posterior", len(e.x))
    decoded = np.clip(e.decoded, -1.0, 1.0)
    section.add("PSNR", estimate(psnr(e.x, decoded)), "dB")
    if min(e.x.shape[2:]) >= SHORTEST_SIDE:
        section.add("SSIM", estimate(structural_similarity(e.x, decoded)))
    if np.isfinite(e.logvar).all():
        kl = kl_standard_normal(e.mean, e.logvar)
        section.add("KL to N(0, 1) per latent", estimate(kl.mean(axis=(1, 2, 3))), "nats")
    return section


def likelihood(
    model: LatentDiffusion,
    e: Encoded,
    prompts: list[str],
    rng: np.random.Generator,
    timesteps: int,
    flow: tuple[int, int],
    batch: int,
) -> Section:
    """Measure two bounds on -log p(x), term by term, and the flow's exact -log p(z).

    Args:
        model: The model.
        e: The encoded images.
        prompts: A prompt for each image; "" for the unconditional likelihood.
        rng: Generator of timesteps, noise and probes.
        timesteps: Timesteps per image at which terms of the chain's bound are computed.
        flow: Number of images for the exact likelihood, and number of integration steps.
        batch: Images that are computed at once.
    """
    note = "bits per dimension of 8-bit pixels; +- is the 95 % confidence interval of the mean"
    section = Section("Likelihood", note, len(e.x))
    scale = model.latent_scale(NumpyBackend(dtype="float64"))
    dimensions = int(np.prod(e.x.shape[1:]))

    def add(name: str, nats: np.ndarray) -> None:
        section.add(name, estimate(bits_per_dimension(nats, dimensions)), "bits/dim")

    decoder = decoder_nats(e)
    kl = sum_per_example(kl_standard_normal(e.mean, e.logvar))
    # of scaled latents, whose distribution the diffusion model learns
    scaled_logvar = scale.fold(e.logvar) + 2.0 * np.log(scale.spread(np.ones_like(e.mean[:1])))
    scaled_mean = scale.normalize(e.mean)
    kl_scaled = sum_per_example(kl_standard_normal(scaled_mean, scaled_logvar))
    entropy = sum_per_example(normal_entropy(scaled_logvar))
    z = scale.normalize(e.z)
    chain = chain_nats(model, z, prompts, rng, timesteps, batch)
    latent = sum(chain.values())
    add("decoder, E[-log p(x|z)]", decoder)
    add("KL(q(z|x) || N(0, 1))", kl)
    add("VAE bound: the two above", decoder + kl)
    add("VAE bound with the prior's variance fitted", decoder + kl_scaled)
    add("posterior, E[log q(z|x)]", -entropy)
    add("diffusion: prior, L_T", chain["prior"])
    add("diffusion: denoising, L_1 to L_(T-1)", chain["denoising"])
    add("diffusion: first step, L_0", chain["first step"])
    add("latent diffusion bound: decoder + posterior + diffusion", decoder - entropy + latent)
    images = min(flow[0], len(z))
    if images:
        nats = exact_nats(model, z[:images], prompts[:images], rng, flow[1], batch)
        add("flow, exact -log p(z)", nats)
        add("the bound with the flow's p(z)", (decoder - entropy)[:images] + nats)
        add("the chain's bound on the same images", (decoder - entropy + latent)[:images])
    return section


def chain_nats(
    model: LatentDiffusion,
    z: np.ndarray,
    prompts: list[str],
    rng: np.random.Generator,
    timesteps: int,
    batch: int,
) -> dict[str, np.ndarray]:
    """Return the terms of the chain's bound on -log p(z), (n,) each, by name.

    Args:
        model: The model.
        z: Scaled latents, (n, z, h, w) float64.
        prompts: A prompt for each image.
        rng: Generator of timesteps and noise.
        timesteps: Timesteps per image at which the terms are computed.
        batch: Images that are computed at once.
    """
    table = chain_table(model.config.scheduler)
    kind = model.config.scheduler.variance_type
    found = []
    for start in range(0, len(z), batch):
        part = slice(start, start + batch)
        predict = predictor(model, encode_conditioning(model, prompts[part], trained_size(model)))
        found.append(chain_bound(z[part], table, predict, kind, timesteps, rng))
    return {name: np.concatenate([terms[name] for terms in found]) for name in found[0]}


def exact_nats(
    model: LatentDiffusion,
    z: np.ndarray,
    prompts: list[str],
    rng: np.random.Generator,
    steps: int,
    batch: int,
) -> np.ndarray:
    """Return -log p(z) of scaled latents by the probability flow, (n,).

    Args:
        model: The model.
        z: Scaled latents, (n, z, h, w) float64.
        prompts: A prompt for each image.
        rng: Generator of probes.
        steps: Number of integration steps.
        batch: Images that are computed at once.
    """
    sigmas = sampling_sigmas(model.config.scheduler)
    sigmas = sigmas[sigmas < PURE_NOISE]  # at which a flow has no data left
    ends = float(sigmas[0]), float(sigmas[-1])
    found = []
    for start in range(0, len(z), batch):
        part = slice(start, start + batch)
        denoise = host_denoiser(
            model, encode_conditioning(model, prompts[part], trained_size(model))
        )
        x = z[part].astype(model.backend.state_dtype)
        found.append(flow_nats(x, denoise, ends, steps, 1, rng, directional_derivative))
    return np.concatenate(found)


def trained_size(model: LatentDiffusion) -> tuple[int, int]:
    """Return the width and the height for which a model was trained, in pixels."""
    return model.config.defaults.width, model.config.defaults.height


def decoder_nats(e: Encoded) -> np.ndarray:
    """Return -log p(x|z) of bytes under a Gaussian around the decoded sample in 256 bins, (n,).

    Its variance is the mean squared error of all these images, at least the variance of rounding.
    """
    variance = max(float(np.mean((e.x - e.decoded) ** 2)), HALF_BIN**2 / 3.0)
    logvar = np.full_like(e.x, np.log(variance))
    return -sum_per_example(discretized_gaussian_log_likelihood(e.x, e.decoded, logvar))


# -- a model as functions of host arrays -----------------------------------------------------------


def chain_table(scheduler: SchedulerConfig) -> np.ndarray:
    """Return alpha-bar of the chain of which a model's bound is, (T,) float64.

    It is the chain of its training. A flow was trained on none: its velocities are read on the
    chain of the cosine schedule, with as many timesteps.
    """
    if scheduler.path is FLOW:
        return alphas_cumprod(cosine_betas(scheduler.num_train_timesteps))
    return training_alphas_cumprod(scheduler)


def predictor(
    model: LatentDiffusion, conditioning: Conditioning, table: np.ndarray | None = None
) -> Predict:
    """Return the network as `predict(xt, t) -> (x0, v)`, in float64 on the host.

    A network that predicts a velocity is given the same state on its own path: x_t divided by the
    sum of both factors, at the flow time of the same ratio of noise to data.

    Args:
        model: The model.
        conditioning: What it is conditioned on, of as many examples as xt has.
        table: alpha-bar of the timesteps t, (T,), of another chain than `chain_table`: the network
            is given its own timesteps of the same levels.
    """
    ops = model.backend
    config = model.config
    levels = chain_table(config.scheduler) if table is None else table
    own = sampling_sigmas(config.scheduler)
    of_flow = config.scheduler.path is FLOW
    convert = TO_X0[config.scheduler.prediction_type]
    z = config.vae.latent_channels
    learned = config.scheduler.variance_type == LEARNED

    def predict(xt: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        level = levels[t]
        times = t.astype(np.float64)
        if of_flow or table is not None:
            times = timestep_at(own, sigma_from_alpha_bar(level), of_flow)
        state = xt
        if of_flow:
            factors = np.sqrt(level) + np.sqrt(1.0 - level)
            state = xt / factors.reshape(-1, *(1,) * (xt.ndim - 1))
            level = flow_time_from_alpha_bar(level)
        timesteps = ops.asarray(times, ops.state_dtype)
        output = model.predict_with_variance(ops.asarray(state), timesteps, conditioning)
        y = ops.to_numpy(output).astype(np.float64)
        return convert(state, y[:, :z], level), y[:, z:] if learned else None

    return predict


def host_denoiser(model: LatentDiffusion, conditioning: Conditioning) -> Denoiser:
    """Return the network as `denoise(x, sigma) -> x0` of host arrays, without guidance."""
    ops = model.backend
    table = sampling_sigmas(model.config.scheduler)
    of_flow = model.config.scheduler.path is FLOW

    def timestep(sigma: float, _: object) -> float:
        return float(timestep_at(table, sigma, of_flow))

    denoise = BatchNetwork(model, timestep, {"cond": conditioning}, 1.0).guided(PLAIN)

    def on_host(x: Array, sigma: float) -> Array:
        with ops.inference():
            return ops.to_numpy(denoise(ops.asarray(x, ops.state_dtype), sigma)).astype(x.dtype)

    return on_host
