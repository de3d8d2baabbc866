"""What `python -m benchmarks.alone` measures: the pieces of an image, and how long they take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from ldmref import modes
from ldmref.backends import get_backend
from ldmref.backends.base import Backend
from ldmref.loading import random_model

MIN_SECONDS = 0.2  # of a timed round; shorter calls are repeated
MAX_REPEATS = 1000
PROMPT = "a red heart"
NEGATIVE_PROMPT = ""
SEED = 1
CFG_SCALE = 7.5
TIMESTEP = 500.0
TITLES = {
    "text": "encoding one prompt",
    "unet": "one step of the U-Net, batch 2",
    "vae": "decoding one image",
    "image": "one whole image",
}


@dataclass(frozen=True)
class Workload:
    """A computation that can be repeated."""

    run: Callable[[], Any]
    to_numpy: Callable[[Any], np.ndarray]  # result of `run` as float32
    synchronize: Callable[[], None] = lambda: None  # wait for the device

    def output(self) -> np.ndarray:
        """Run once; return the result as float32."""
        return self.to_numpy(self.run())

    def seconds_per_call(self, repeat: int = 1) -> float:
        """Return the mean seconds of `repeat` calls."""
        self.synchronize()
        start = time.perf_counter()
        for _ in range(repeat):
            self.run()
        self.synchronize()
        return (time.perf_counter() - start) / repeat

    def repeats(self) -> int:
        """Return the calls per round, by the duration of one call."""
        return repeat_count(self.seconds_per_call())

    def time(self, rounds: int) -> list[float]:
        """Return the seconds per call in each round, after one warm-up call."""
        repeat = self.repeats()
        return [self.seconds_per_call(repeat) for _ in range(rounds)]


def repeat_count(seconds: float) -> int:
    """Return the calls per round, for calls of this duration."""
    return min(MAX_REPEATS, max(1, math.ceil(MIN_SECONDS / max(seconds, 1e-9))))


@dataclass(frozen=True)
class WorkInputs:
    """Seeded arrays on the host."""

    latents: np.ndarray  # (n, c, h, w) float32
    timesteps: np.ndarray  # (n,) float32
    context: np.ndarray  # (n, l, d) float32
    token_ids: np.ndarray  # (2, l) int64: negative prompt, prompt


@dataclass(frozen=True, kw_only=True)
class MeasuredWork:
    """A piece of work of a model with random weights, on a backend."""

    work: str  # key of TITLES
    backend: str = "numpy"
    dtype: str = "float32"
    device: str = ""  # "": the backend's default
    speed: str = ""  # "exact", "fast" or "fastest"; "": the backend's default
    model: str = "sd15"  # preset
    size: int = 512  # image width and height in pixels
    steps: int = 1  # sampler steps of "image"
    cfg_scale: float = CFG_SCALE  # guidance of "image"; 1: none, one evaluation for each step

    @property
    def title(self) -> str:
        """Description of the work."""
        size = "" if self.work == "text" else f", {self.size}x{self.size}"
        steps = f", {self.steps} steps" if self.work == "image" else ""
        return f"{TITLES[self.work]}{size}{steps}, {self.model}, {self.dtype}"

    @property
    def networks(self) -> tuple[str, ...]:
        """The networks involved."""
        all_networks = ("unet", "vae", "text_encoder")
        return {"text": ("text_encoder",), "image": all_networks}.get(self.work, (self.work,))

    def make_backend(self) -> Backend:
        """Return the backend, at the `speed`.

        Raises:
            BackendUnavailable: The backend cannot run on this machine.
        """
        return get_backend(self.backend, self.device or None, self.dtype, self.speed or None)

    def make_model(self, backend: Backend | None = None) -> Any:
        """Return the model with random weights, on a backend (None: the work's own)."""
        return random_model(self.model, backend=backend or self.make_backend())

    def make_inputs(self, model: Any, batch: int | None = None) -> Any:
        """Return seeded inputs; the default batch is 2 for the U-Net (guidance), otherwise 1."""
        config = model.config
        normal = np.random.default_rng(SEED).standard_normal
        n = batch or (2 if self.work == "unet" else 1)
        length = config.text_encoder.max_position_embeddings
        width = config.unet.cross_attention_dim
        latents = normal((n, *model.latent_shape(self.size, self.size)), np.float32)
        context = normal((n, length, width), np.float32)
        token_ids = model.tokenize([NEGATIVE_PROMPT, PROMPT]).ids[:, 0]
        timesteps = np.full(n, TIMESTEP, np.float32)
        return WorkInputs(latents, timesteps, context, np.asarray(token_ids, np.int64))

    def make_workload(self, model: Any, inputs: Any) -> Workload:
        """Return the work as a computation, through the public methods of the model."""
        ops = model.backend
        latents = ops.asarray(inputs.latents)
        context = ops.asarray(inputs.context)
        timesteps = ops.asarray(inputs.timesteps, ops.state_dtype)

        def image() -> list[Image.Image]:
            return modes.txt2img(
                model,
                PROMPT,
                negative_prompt=NEGATIVE_PROMPT,
                steps=self.steps,
                cfg_scale=self.cfg_scale,
                sampler="ddim",
                seed=SEED,
                width=self.size,
                height=self.size,
                latents=inputs.latents,
            ).images

        run: Callable[[], Any] = {
            "unet": lambda: model.unet(latents, timesteps, context),
            "vae": lambda: model.decode(latents),
            "text": lambda: model.encode_text([PROMPT]),
            "image": image,
        }[self.work]

        def to_numpy(y: Any) -> np.ndarray:
            return pixels(y) if self.work == "image" else np.asarray(ops.to_numpy(y), np.float32)

        return Workload(run, to_numpy, ops.synchronize)


def pixels(images: Sequence[Image.Image]) -> np.ndarray:
    """Convert images to (n, H, W, 3) float32 in [0, 1]."""
    return np.stack([np.asarray(image.convert("RGB"), np.float32) for image in images]) / 255
