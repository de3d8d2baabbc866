"""What ldmref computes in a row, and the inputs that both sides are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.bench.rows import Row
from ldmref.loading import random_model
from ldmref.models.model import LatentDiffusion

PROMPT, NEGATIVE, SEED, CFG, TIMESTEP = "a red heart", "", 1, 7.5, 500.0
PARTS = {  # the networks of each work
    "unet": ("unet",),
    "vae": ("vae",),
    "text": ("text_encoder",),
    "picture": ("unet", "vae", "text_encoder"),
}


@dataclass(frozen=True)
class Side:
    """One of the two that are compared: a call, and its output as a float32 array on the host."""

    name: str
    call: Callable[[], Any]
    host: Callable[[Any], np.ndarray]
    wait: Callable[[], None] = lambda: None  # until the device has done it


@dataclass(frozen=True)
class Inputs:
    """Host arrays that both sides are given; `ids` are [negative, prompt]."""

    latents: np.ndarray  # (n, c, h, w) float32
    t: np.ndarray  # (n,)
    context: np.ndarray  # (n, l, d) float32
    ids: np.ndarray  # (2, l) int64


def backend_of(row: Row) -> Backend:
    """The row's backend; here, and only here, a row's `speed` is handed on.

    Raises:
        BackendUnavailable: it cannot run here.
    """
    return get_backend(row.backend, row.device, row.dtype, row.speed or None)


def model_of(row: Row, backend: Backend | None = None) -> LatentDiffusion:
    """The row's model with seeded random weights, on the row's backend or another."""
    return random_model(row.model, backend=backend or backend_of(row))


def inputs_of(row: Row, model: LatentDiffusion, batch: int | None = None) -> Inputs:
    """Seeded inputs of the row's size; one picture or prompt, two for the U-Net (guidance)."""
    config, draw = model.config, np.random.default_rng(SEED).standard_normal
    n = batch or (2 if row.work == "unet" else 1)
    ids = model.tokenize([NEGATIVE, PROMPT]).ids[:, 0]
    shape = (n, *model.latent_shape(row.size, row.size))
    states = (n, config.text_encoder.max_position_embeddings, config.unet.cross_attention_dim)
    latents, context = draw(shape, np.float32), draw(states, np.float32)
    return Inputs(latents, np.full(n, TIMESTEP, np.float32), context, np.asarray(ids, np.int64))


def ours(row: Row, model: LatentDiffusion, inputs: Inputs) -> Side:
    """The row's work by ldmref, through the public methods of the model."""
    ops = model.backend
    latents, context = ops.asarray(inputs.latents), ops.asarray(inputs.context)
    t = ops.asarray(inputs.t, ops.state_dtype)
    call = {
        "unet": lambda: model.unet(latents, t, context),
        "vae": lambda: model.decode(latents),
        "text": lambda: model.encode_text([PROMPT]),
        "picture": lambda: picture(row, model, inputs.latents),
    }[row.work]
    host = pixels if row.work == "picture" else lambda y: np.asarray(ops.to_numpy(y), np.float32)
    return Side(f"ldmref {row.backend}", call, host, ops.synchronize)


def picture(row: Row, model: LatentDiffusion, latents: np.ndarray) -> list:
    """One picture with DDIM, guided, from given noise."""
    return modes.txt2img(
        model, PROMPT, negative_prompt=NEGATIVE, steps=row.steps, cfg_scale=CFG, sampler="ddim",
        seed=SEED, width=row.size, height=row.size, latents=latents,
    ).images  # fmt: skip


def pixels(images: list) -> np.ndarray:
    """Pictures as (n, H, W, 3) float32 in [0, 1]."""
    return np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images]) / 255
