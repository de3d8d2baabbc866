"""Piece 4 of the capstone: the sampler with guidance, and the whole way to an image."""

import math
from itertools import pairwise

import numpy as np
from autoencoder import decode
from blocks import unet
from training import per_example


def cosine_betas(n, s=0.008, max_beta=0.999):
    """Return the betas whose alpha-bar is a squared cosine, without a difference near 1."""
    t = np.arange(n)
    angle = (t / n + s) / (1.0 + s) * math.pi / 2
    step = math.pi / (2.0 * n * (1.0 + s))
    betas = math.sin(step) * np.sin(2.0 * angle + step) / np.cos(angle) ** 2
    return np.minimum(betas, max_beta)


def alphas_cumprod(betas):
    """Return the products of 1 - beta."""
    return np.cumprod(1.0 - betas)


def karras_sigmas(n, sigma_min, sigma_max, rho=7.0):
    """Return n noise levels whose roots are evenly spaced, the largest first."""
    high, low = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return (high + np.linspace(0.0, 1.0, n) * (low - high)) ** rho


def x0_from_v(xt, v, alpha_bar):
    """Return the data of which v is a prediction."""
    a = per_example(alpha_bar, xt)
    return np.sqrt(a) * xt - np.sqrt(1.0 - a) * v


def classifier_free_guidance(uncond, cond, scale):
    """Return the prediction without the prompt, moved towards the one with it."""
    return uncond + scale * (cond - uncond)


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
    levels = 0.5 * np.log((1.0 - alpha_bar) / alpha_bar)
    x = first * np.sqrt(1.0 + sigmas[0] ** 2)
    for sigma, sigma_next in pairwise(sigmas):
        a = 1.0 / (1.0 + sigma**2)
        xt = np.repeat(x * np.sqrt(a), 2, axis=0).astype(np.float32)
        t = np.interp(np.log(sigma), levels, np.arange(1000.0))
        v = unet(weights.at("unet"), config["unet"], xt, np.full(2, t, np.float32), states)
        cond, uncond = x0_from_v(xt, v, a)
        x0 = classifier_free_guidance(uncond, cond, scale)
        x = x0 + sigma_next / sigma * (x - x0)
    z = (x / config["vae"]["scaling_factor"]).astype(np.float32)
    pixels = np.clip(decode(weights.at("vae"), config["vae"], z), -1.0, 1.0)
    return np.round((pixels.transpose(0, 2, 3, 1) + 1.0) * 127.5).astype(np.uint8)
