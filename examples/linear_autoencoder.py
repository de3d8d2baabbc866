"""Train a linear autoencoder by gradient descent, and compare it with principal components.

    python examples/linear_autoencoder.py

prints, while training, the reconstruction error and the distance of the trained subspace from the
subspace of the principal components, which is the optimum (Baldi and Hornik 1989). It needs
PyTorch. The images are the 156 emoji that come with ldmref; with the font Noto Color Emoji

    python examples/linear_autoencoder.py NotoColorEmoji.ttf

trains on all 1,870 emoji without skin tones.
"""

import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

try:
    import torch
except ImportError:
    sys.exit("this example needs PyTorch: pip install -e '.[torch]'")

from ldmref.backends.torch import TorchBackend
from ldmref.errors import LdmrefError
from ldmref.math import autoencoder_loss, principal_components, subspace_distance
from ldmref.models import Params, init
from ldmref.models.specs import linear_spec
from ldmref.training import Loss, OptimizerConfig, Part, Trainer

REPORT = 200  # steps between two reports


class State(NamedTuple):
    step: int
    loss: float
    distance: float


def train_linear(x: np.ndarray, width: int, steps: int, seed: int = 0) -> Iterator[State]:
    """Train an encoder and a decoder without activations on the rows of x; yield reports."""
    mean, components, _ = principal_components(x.astype(np.float64), width)
    centred = torch.as_tensor(x - mean, dtype=torch.float32)
    d = x.shape[1]

    def loss(ops: TorchBackend, params: Params, step: int, part: Part) -> Loss:
        layers = params.encoder.weight, params.decoder.weight
        encode, decode = (lambda v, w=weight: ops.linear(v, w) for weight in layers)
        return Loss(autoencoder_loss(centred, encode, decode).mean() / d)

    config = OptimizerConfig(
        len(x), learning_rate=1e-2, warmup=50, weight_decay=0.0, clip_norm=1e6, ema_decay=0.0
    )
    spec = {
        "encoder": linear_spec(d, width, bias=False),
        "decoder": linear_spec(width, d, bias=False),
    }
    trainer = Trainer(config, steps, init(spec, seed), loss, TorchBackend())
    for step, value, *_ in trainer.run():
        if step % REPORT == 0 or step == steps:
            subspace = trainer.ema_params().decoder.weight.T.astype(np.float64)
            yield State(step, value, float(subspace_distance(subspace, components)))


def small_emoji_pixels(size: int = 8) -> np.ndarray:
    """Return the emoji that come with ldmref as rows of numbers in [-1, 1]."""
    from ldmref.datasets.emoji import small_emoji

    return rows([image.resize((size, size), Image.Resampling.BOX) for _, image in small_emoji()])


def render_emoji_pixels(font_file: str, size: int = 8) -> np.ndarray:
    """Render every emoji without skin tones; return rows of numbers in [-1, 1]."""
    from ldmref.datasets.emoji import emoji_list, render

    return rows([render(e, size, font_file) for e in emoji_list() if not e.has_skin_tone])


def rows(images: list[Image.Image]) -> np.ndarray:
    """Return images as rows of numbers in [-1, 1]."""
    return np.stack([np.asarray(image).ravel() for image in images]) / 127.5 - 1.0


if __name__ == "__main__":
    try:
        pixels = render_emoji_pixels(sys.argv[1]) if sys.argv[1:] else small_emoji_pixels()
    except LdmrefError as error:
        sys.exit(f"{error}; {error.hint}")
    for state in train_linear(pixels, width=6, steps=1000):
        print(f"step {state.step:4}  error {state.loss:.5f}  distance {state.distance:.1e}")
