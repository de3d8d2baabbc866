"""Piece 4 of the capstone in PyTorch: the sampler with guidance, and the whole way to an image."""

import math
from itertools import pairwise

import torch
from autoencoder import decode
from blocks import unet
from training import per_example


def cosine_betas(n, s=0.008, max_beta=0.999):
    """Return the betas whose alpha-bar is a squared cosine, without a difference near 1."""
    t = torch.arange(n, dtype=torch.float64)
    angle = (t / n + s) / (1.0 + s) * math.pi / 2
    step = math.pi / (2.0 * n * (1.0 + s))
    betas = math.sin(step) * torch.sin(2.0 * angle + step) / torch.cos(angle) ** 2
    return betas.clamp(max=max_beta)


def alphas_cumprod(betas):
    """Return the products of 1 - beta."""
    return torch.cumprod(1.0 - betas, dim=0)


def karras_sigmas(n, sigma_min, sigma_max, rho=7.0):
    """Return n noise levels whose roots are evenly spaced, the largest first."""
    high, low = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return (high + torch.linspace(0.0, 1.0, n, dtype=torch.float64) * (low - high)) ** rho


def x0_from_v(xt, v, alpha_bar):
    """Return the data of which v is a prediction."""
    a = per_example(alpha_bar, xt)
    return torch.sqrt(a) * xt - torch.sqrt(1.0 - a) * v


def classifier_free_guidance(uncond, cond, scale):
    """Return the prediction without the prompt, moved towards the one with it."""
    return uncond + scale * (cond - uncond)


def timestep_at(sigma, levels):
    """Return the timestep of a noise level, between two of the rising logarithms in levels."""
    level = math.log(sigma)
    i = int(torch.searchsorted(levels, level).clamp(1, len(levels) - 1))
    low, high = float(levels[i - 1]), float(levels[i])
    return i - 1 + min(max((level - low) / (high - low), 0.0), 1.0)


@torch.no_grad()
def generate(weights, config, states, first, sigmas, scale):
    """Generate images, bytes (n, h, w, 3), by Euler's method.

    Args:
        weights: The weights of the model.
        config: Its configuration.
        states: Encoded prompt and empty prompt, (2, tokens, width).
        first: Standard normal noise, (1, channels, h, w).
        sigmas: Noise levels, from the largest to 0.
        scale: The guidance scale.
    """
    alpha_bar = alphas_cumprod(cosine_betas(1000))
    levels = 0.5 * torch.log((1.0 - alpha_bar) / alpha_bar)
    sigmas = [float(sigma) for sigma in sigmas]
    x = first.double() * math.sqrt(1.0 + sigmas[0] ** 2)
    for sigma, sigma_next in pairwise(sigmas):
        a = 1.0 / (1.0 + sigma**2)
        xt = (x * math.sqrt(a)).repeat(2, 1, 1, 1)
        t = torch.full((2,), timestep_at(sigma, levels))
        v = unet(weights.at("unet"), config["unet"], xt.float(), t, states)
        cond, uncond = x0_from_v(xt, v, a)
        x0 = classifier_free_guidance(uncond, cond, scale)
        x = x0 + sigma_next / sigma * (x - x0)
    z = (x / config["vae"]["scaling_factor"]).float()
    pixels = decode(weights.at("vae"), config["vae"], z).clamp(-1.0, 1.0)
    return torch.round((pixels.permute(0, 2, 3, 1) + 1.0) * 127.5).to(torch.uint8)
