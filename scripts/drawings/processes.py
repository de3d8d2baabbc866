"""Loops: one step of training, and one step of inpainting."""

from __future__ import annotations

import numpy as np

from drawings.canvas import SIZE
from drawings.geometry import inside_heart
from drawings.shapes import Drawing
from drawings.systems import cells, noise
from ldmref.models import ModelConfig


def training(config: ModelConfig) -> Drawing:
    """Draw Algorithm 1 as the loop that it is in latent diffusion."""
    last = config.scheduler.num_train_timesteps
    drawing = Drawing(
        "One step of the training of latent diffusion",
        "Take an image with its caption. The frozen encoder makes a latent x0 of the image, the "
        f"text encoder a context c of the caption. Choose a time t from 1 to {last} and noise "
        "epsilon. Mix latent and noise to x_t. The U-Net predicts the noise from x_t, t and c. "
        "The loss is the squared difference from the true noise. A gradient step changes the "
        "weights of the U-Net, and the next image follows.",
        566,
    )
    drawing.box(24, 18, 152, 44, "image", tone="data")
    drawing.box(200, 18, 152, 44, "caption", tone="text")
    drawing.arrow((100, 62), (100, 84))
    drawing.arrow((276, 62), (276, 84))
    drawing.box(24, 86, 152, 50, "encoder", "frozen")
    drawing.box(200, 86, 152, 50, "text encoder")
    drawing.arrow((100, 136), (100, 160))
    drawing.text(112, 154, "*x*_{0}", size=SIZE, anchor="start")
    drawing.arrow((324, 136), (324, 306))
    drawing.text(336, 222, "*c*", size=SIZE, anchor="start")
    drawing.box(24, 162, 152, 50, "draw *t* and *ε*", f"*t* from 1 to {last}", tone="noise")
    drawing.arrow((100, 212), (100, 234))
    drawing.box(24, 236, 268, 46, "*x*_{t} = √*ᾱ*_{t} *x*_{0} + √(1 − *ᾱ*_{t}) *ε*", strong=False)
    drawing.arrow((100, 282), (100, 306))
    drawing.text(112, 300, "*x*_{t}, *t*", size=SIZE, anchor="start")
    drawing.box(24, 308, 328, 50, "U-Net", "predicts the noise *ε*_{θ}")
    drawing.arrow((188, 358), (188, 382))
    drawing.box(24, 384, 328, 50, "loss", "‖*ε* − *ε*_{θ}‖^{2}")
    drawing.arrow((188, 434), (188, 458))
    drawing.box(24, 460, 328, 50, "gradient step", "changes the weights *θ* of the U-Net")
    drawing.arrow((352, 485), (382, 485), (382, 40), (354, 40), tone="net")
    drawing.text(188, 542, "and again, with the next image", tone="muted")
    return drawing


def inpainting(config: ModelConfig) -> Drawing:
    """Draw how the known part is put back after a step of a sampler."""
    drawing = Drawing(
        "Inpainting: the known part is put back after every step",
        "After a step, the state has a generated half, where the mask M is 1, and a half that is "
        "thrown away. The latent of the given image gets fresh noise of the same level sigma. Its "
        "known half, where M is 0, and the generated half together are the state of the next step.",
        510,
    )
    n = cells(config)
    picture = inside_heart(n) * 0.9
    noisy = np.clip(0.55 * picture + 0.5 * noise(n), 0, 1)
    half = n // 2
    state = np.clip(0.55 * picture + 0.5 * noise(n).T, 0, 1)
    side = 112.0
    left, right = 32.0, 256.0
    kept = noisy.copy()
    kept[:, half:] = 0
    new = state.copy()
    new[:, :half] = 0

    drawing.text(left + side / 2, 32, "state *x*_{σ}", size=SIZE)
    drawing.text(left + side / 2, 50, "after the step", tone="muted")
    drawing.grid(left, 60, side, state, "data")
    drawing.text(right + side / 2, 32, "*x*_{0} + *σε*", size=SIZE)
    drawing.text(right + side / 2, 50, "given image and noise", tone="muted")
    drawing.grid(right, 60, side, noisy, "noise")

    drawing.arrow((left + side / 2, 172), (left + side / 2, 214))
    drawing.text(left + side / 2 + 12, 198, "× *M*", size=SIZE, anchor="start")
    drawing.arrow((right + side / 2, 172), (right + side / 2, 214))
    drawing.text(right + side / 2 - 12, 198, "× (1 − *M*)", size=SIZE, anchor="end")
    drawing.grid(left, 216, side, new, "data")
    drawing.grid(right, 216, side, kept, "noise")

    drawing.text(200, 278, "+", size=24)
    drawing.arrow((left + side / 2, 328), (left + side / 2, 412), (142, 412))
    drawing.arrow((right + side / 2, 328), (right + side / 2, 412), (258, 412))
    drawing.grid(144, 356, side, new, "data")
    drawing.cells(144, 356, side, kept, "noise")
    drawing.text(200, 490, "state of the next step", tone="muted")
    return drawing
