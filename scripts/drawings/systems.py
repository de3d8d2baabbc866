"""The parts of the system, and the first of them: the variational autoencoder."""

from __future__ import annotations

import numpy as np

from drawings.canvas import SIZE
from drawings.geometry import heart, inside_heart
from drawings.shapes import Drawing
from ldmref.models import ModelConfig


def cells(config: ModelConfig) -> int:
    """Return how many cells a latent has along a side."""
    return config.defaults.width // config.vae.factor


def latent_size(config: ModelConfig) -> str:
    """Return the shape of a latent: channels, height and width."""
    side = cells(config)
    return f"{config.vae.latent_channels} × {side} × {side}"


def image_size(config: ModelConfig) -> str:
    """Return the shape of an image: channels, height and width."""
    return f"{config.vae.in_channels} × {config.defaults.height} × {config.defaults.width}"


def noise(n: int) -> np.ndarray:
    """Return n x n cells of noise in [0, 1]."""
    return np.random.default_rng(2).random((n, n))


def system(config: ModelConfig) -> Drawing:
    """Draw the way from a prompt and noise to an image."""
    text = config.text_encoder
    tokens, width = text.max_position_embeddings, text.hidden_size
    steps = config.defaults.steps
    drawing = Drawing(
        "The whole system, from a prompt to an image",
        "A prompt goes through the text encoder, which returns "
        f"{tokens} tokens of {width} numbers each. These and noise of the shape "
        f"{latent_size(config)} enter the U-Net, which is called in {steps} steps: each takes the "
        "latent of the step before and removes a part of its noise. The last latent goes through "
        f"the decoder of the VAE, which returns an image of the shape {image_size(config)}.",
        560,
    )
    left, right = 104.0, 296.0
    drawing.box(24, 20, 160, 40, "“a red heart”", tone="text", strong=False)
    drawing.arrow((left, 60), (left, 82))
    drawing.box(24, 84, 160, 44, "text encoder")
    drawing.arrow((left, 128), (left, 150))
    drawing.box(24, 152, 160, 52, f"{tokens} tokens", f"of {width} numbers", tone="text")
    drawing.arrow((left, 204), (left, 248))
    drawing.text(right, 32, "noise", size=SIZE, strong=True)
    drawing.grid(right - 56, 44, 112, noise(cells(config)), "noise")
    drawing.text(right, 176, latent_size(config))
    drawing.arrow((right, 186), (right, 248))

    drawing.box(24, 250, 328, 64, "U-Net", "says what is noise in the latent")
    drawing.arrow((352, 300), (384, 300), (384, 264), (354, 264), tone="net")
    drawing.text(352, 334, f"{steps} steps", anchor="end")
    drawing.arrow((80, 314), (80, 378))

    drawing.text(92, 352, "latent", size=SIZE, strong=True, anchor="start")
    n = cells(config)
    pixels = inside_heart(n) * (0.55 + 0.45 * noise(n)) + 0.12 * noise(n)
    drawing.grid(24, 380, 112, pixels, "data")
    drawing.text(80, 512, latent_size(config))
    drawing.arrow((136, 436), (154, 436))
    drawing.box(156, 408, 88, 56, "decoder", "of the VAE")
    drawing.arrow((244, 436), (262, 436))
    drawing.text(320, 366, "image", size=SIZE, strong=True)
    drawing.picture(264, 380, 112)
    drawing.shape(heart(320, 438, 80), "red")
    drawing.text(320, 512, image_size(config))
    drawing.text(200, 542, "channels × height × width", tone="muted")
    return drawing


def vae(config: ModelConfig) -> Drawing:
    """Draw the variational autoencoder with the reparameterised node."""
    size = latent_size(config)
    drawing = Drawing(
        "The variational autoencoder and the way of its gradient",
        f"An image of the shape {image_size(config)} goes through the encoder, which returns a "
        f"mean m and a log-variance l of the shape {size} each. The latent z is m plus the "
        "standard deviation, e to the power of l / 2, times noise that comes from outside. The "
        "decoder turns z into an image. A dashed line shows the gradient: it goes from the "
        "reconstruction back through the decoder, z, m and l to the encoder, and not to the noise.",
        516,
    )
    middle = 208.0
    drawing.box(middle - 70, 16, 140, 50, "image *x*", image_size(config), tone="data")
    drawing.arrow((middle, 66), (middle, 86))
    drawing.trapezoid(88, 50, 176, 104, "encoder", middle=middle)
    drawing.arrow((middle - 24, 138), (middle - 58, 174))
    drawing.arrow((middle + 24, 138), (middle + 58, 174))
    drawing.box(middle - 124, 176, 112, 50, "mean *m*", size, tone="data")
    drawing.box(middle + 12, 176, 112, 50, "log-var. *ℓ*", size, tone="data")
    drawing.arrow((middle - 58, 226), (middle - 17, 277))
    drawing.arrow((middle + 58, 226), (middle + 17, 277))
    drawing.node(middle, 296, 24, "*z*", "data")
    drawing.node(344, 296, 24, "*ε*", "noise")
    drawing.arrow((320, 296), (middle + 26, 296), tone="noise")
    drawing.text(344, 338, "*ε* ~ *N*(0, 1)", tone="noise")
    drawing.text(344, 356, "no parameters", tone="muted")
    drawing.text(172, 301, "*z* = *m* + e^{ℓ/2} *ε*", size=SIZE, anchor="end")
    drawing.arrow((middle, 320), (middle, 376))
    drawing.trapezoid(378, 50, 104, 176, "decoder", middle=middle)
    drawing.arrow((middle, 428), (middle, 448))
    drawing.box(middle - 70, 450, 140, 50, "reconstruction", image_size(config), tone="data")

    drawing.arrow((middle - 70, 475), (30, 475), (30, 113), (middle - 72, 113), dashed=True)
    drawing.text(42, 352, "gradient, through", anchor="start")
    drawing.text(42, 370, "*z*, *m* and *ℓ*", anchor="start")
    return drawing
