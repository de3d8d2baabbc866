"""The question of piece 4: an image, by Euler's method with guidance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ldmref.check.capstone import networks as net
from ldmref.check.capstone.networks import random, weights_of
from ldmref.check.capstone.questions import ConfigAt, Mistake, Question, Student, WeightsAt, ask
from ldmref.check.results import CheckResult
from ldmref.math import alphas_cumprod, cosine_betas, karras_sigmas
from ldmref.models.autoencoder import decode
from ldmref.models.unet import unet
from ldmref.modes import txt2img

PROMPT = "a red heart"
SCALE = 2.5
BYTES = (
    "the result is bytes, (1, height, width, 3): clip to [-1, 1], move the channels to the end, "
    "and round (pixels + 1) 127.5"
)


@dataclass(frozen=True)
class Loop:
    """The loop from prompt to pixels; each field changes one thing in it."""

    states: Any
    first: Any
    sigmas: Any
    scale: float = SCALE
    start: str = "root of 1 + sigma^2"
    reads: str = "x root of alpha-bar"
    time: str = "interpolated"
    v_is: str = "v"
    sign: tuple[float, float] = (1.0, -1.0)
    is_divided: bool = True
    factor: float = -1.0
    clipped: bool = True
    turned: bool = False
    last: int = 0

    def run(self) -> dict[str, np.ndarray]:
        """Return the image in bytes."""
        config = net.embedded_model().config
        bars = alphas_cumprod(cosine_betas(1000))
        levels = 0.5 * np.log((1.0 - bars) / bars)
        starts = {"root of 1 + sigma^2": (1 + self.sigmas[0] ** 2) ** 0.5, "sigma": self.sigmas[0]}
        x = self.first * starts.get(self.start, 1.0)
        steps = [*pairwise(self.sigmas)]
        for sigma, sigma_next in steps[: len(steps) - self.last]:
            a = 1.0 / (1.0 + sigma**2)
            read = x * np.sqrt(a) if self.reads.startswith("x root") else x
            t = np.interp(np.log(sigma), levels, np.arange(1000.0))
            times = {
                "squared": np.interp(2 * np.log(sigma), levels, np.arange(1000.0)),
                "sigma": sigma,
                "from 1": t + 1.0,
            }
            t = times.get(self.time, t)
            xt = np.repeat(read, 2, axis=0).astype(np.float32)
            times_two = np.full(2, t, np.float32)
            v = unet(net.RIGHT, weights_of("unet"), config.unet, xt, times_two, self.states)
            xt = np.repeat(read, 2, axis=0)
            v = -v if self.v_is == "-v" else v
            if self.v_is == "eps":
                cond, uncond = (xt - np.sqrt(1.0 - a) * v) / np.sqrt(a)
            elif self.v_is == "x0":
                cond, uncond = v
            else:
                cond, uncond = np.sqrt(a) * xt - np.sqrt(1.0 - a) * v
            x0 = uncond + self.scale * (cond - uncond)
            if self.is_divided:
                x = x0 + sigma_next / sigma * (self.sign[0] * x + self.sign[1] * x0)
            else:
                x = x + (sigma_next - sigma) * (x - x0)
        z = x * config.kl_or_vq.scaling_factor**self.factor
        pixels = decode(net.RIGHT, weights_of("vae"), config.kl_or_vq, z.astype(np.float32))
        pixels = np.clip(pixels, -1.0, 1.0) if self.clipped else pixels
        pixels = pixels.transpose(0, 3, 2, 1) if self.turned else pixels.transpose(0, 2, 3, 1)
        return {"image": np.round((pixels + 1.0) * 127.5).astype(int).astype(np.uint8)}


def images(student: Student) -> Iterator[CheckResult]:
    """Yield the marks of an image in four steps, and of one that begins at a low noise level."""
    result = ask(student, image_of(student, "the bytes of an image in four steps", (4, 0.03, 14.0)))
    yield result
    if result.holds:
        # at 14, sigma and the root of 1 + sigma^2 differ by less than a byte
        yield ask(student, image_of(student, "from a noise level of 1.5", (2, 0.3, 1.5)))


def image_of(student: Student, law: str, levels: tuple[int, float, float]) -> Question:
    """Return the question for an image with these arguments of `karras_sigmas`."""
    model = net.embedded_model()
    states = np.asarray(model.encode_text([PROMPT, ""]))
    first = random(student.rng("generate"), 1, 16, 16, 16)
    sigmas = np.append(karras_sigmas(*levels), 0.0)
    theirs = txt2img(
        model, PROMPT, sampler="euler", sigmas=sigmas.tolist(), cfg_scale=SCALE, latents=first
    )
    right = {"image": np.asarray(theirs[0])[None]}
    loop = Loop(states, first, sigmas)
    changes = {
        "the predictions with and without the prompt are exchanged: states begin with the prompt":
            {"states": states[::-1].copy()},
        "Euler's step adds x0 to x: it is x0 + sigma_next / sigma (x - x0)": {"sign": (1.0, 1.0)},
        "Euler's step goes away from x0: it is x0 + sigma_next / sigma (x - x0)":
            {"sign": (-1.0, 1.0)},
        "the scale is that of the paper, 1 + scale; here 1 means no guidance": {"scale": 1 + SCALE},
        "there is no guidance: scale has no effect": {"scale": 1.0},
        "the prompt has no effect: scale is 0": {"scale": 0.0},
        "noise is not multiplied by the root of 1 + sigma^2 at the start": {"start": "1"},
        "noise is multiplied by sigma at the start, not by the root of 1 + sigma^2":
            {"start": "sigma"},
        "the U-Net reads x itself: it wants x times the root of alpha-bar": {"reads": "x"},
        "the U-Net's output is taken for eps; it is v": {"v_is": "eps"},
        "the U-Net's output is taken for x0; it is v": {"v_is": "x0"},
        "the U-Net's output has the wrong sign": {"v_is": "-v"},
        "timesteps belong to sigma^2, not to sigma: ln sigma = ln((1 - alpha-bar) / alpha-bar) / 2":
            {"time": "squared"},
        "the U-Net reads sigma in place of the timestep; it wants the one of this noise level":
            {"time": "sigma"},
        "timesteps count from 1; here the first noise level has t = 0": {"time": "from 1"},
        "Euler's step lacks a division by sigma: it is x + (sigma_next - sigma) (x - x0) / sigma":
            {"is_divided": False},
        "latents are not divided by the scaling factor before they are decoded": {"factor": 0.0},
        "latents are multiplied by the scaling factor; the decoder wants them divided by it":
            {"factor": 1.0},
        "pixels are not clipped to [-1, 1] before they become bytes": {"clipped": False},
        "height and width of the image are exchanged": {"turned": True},
        "the last step, to sigma = 0, is left out": {"last": 1},
    }  # fmt: skip
    mistakes = [Mistake(text, replace(loop, **change).run) for text, change in changes.items()]
    arguments = {"weights": WeightsAt(""), "config": ConfigAt(""), "states": states}
    arguments |= {"first": first, "sigmas": sigmas, "scale": SCALE}
    return Question("generate", law, arguments, right, mistakes, BYTES, 1.0, absolute=True)
