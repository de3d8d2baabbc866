"""What a family makes of the size of the image for its denoiser, also of a wrong size.

The family's own `condition` says what these arrays are. It is called with two texts that no run
has; what is the same for both depends on the size alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.recorded.precision import exact_backend
from ldmref.locate.recorded.unfit import UNFIT
from ldmref.models.model import LatentDiffusion
from ldmref.models.text import text_encoder_pooled

TEXTS = (0.0, 1.0)  # all tokens, and all numbers of the states, of two texts

ImageSize = tuple[int, int]  # width and height in pixels


def arrays_of_size(model: LatentDiffusion, size: ImageSize) -> dict[str, np.ndarray]:
    """Return the arrays that a family makes of the size of an image, by argument, (1, ...) each.

    Args:
        model: The model.
        size: Width and height in pixels.
    """
    ops = exact_backend()
    try:
        tokens = [tokenizer.tokenize([""]) for tokenizer in model.tokenizers]
        found = []
        for value in TEXTS:
            texts = [replace(one, ids=np.full_like(one.ids, int(value))) for one in tokens]
            compile_network = partial(_compile_constant, value)
            text = model.family.text.encode(ops, model.config.text_encoders, texts, compile_network)
            parts = model.family.text.condition(ops, model.config, text.states, text.pooled, size)
            found.append({"sizes": parts.sizes, **parts.more})
    except (LdmrefError, *UNFIT):  # a text path of another package may need what is not here
        return {}
    arrays = [{k: np.asarray(x) for k, x in one.items() if x is not None} for one in found]
    return {k: x[:1] for k, x in arrays[0].items() if x.ndim and np.array_equal(x, arrays[1][k])}


def _compile_constant(value: float, function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Stand for `compile_network`: all states of a text have one value."""

    def encode(config: Any, ids: np.ndarray, *_: object, **__: object) -> Any:
        width = config.hidden_size * max(len(getattr(config, "hidden_layers", ())), 1)
        states = np.full((*np.shape(ids), width), value)
        if function is not text_encoder_pooled:
            return states
        return states, np.full((len(states), config.projection_dim), value)

    return encode


def size_faults(
    model: LatentDiffusion, argument: str, size: ImageSize, rows: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield an array that follows from the size of the image, of another size: words, and it.

    Args:
        model: The model.
        argument: The denoiser's argument.
        size: Width and height of the image in pixels.
        rows: How many rows the array has.
    """
    width, height = size
    factor = model.config.vae.factor
    right = arrays_of_size(model, size).get(argument)
    if right is not None and right.shape[1:] == (6,):
        yield from _faults_of_six(np.repeat(right, rows, axis=0), factor)
        return
    others = {
        "width and height are exchanged": (height, width),
        "the size is that of the latents": (width // factor, height // factor),
    }
    for words, other in others.items():
        x = arrays_of_size(model, other).get(argument)
        if x is not None:
            yield words, np.repeat(x, rows, axis=0)


def _faults_of_six(right: np.ndarray, factor: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the six sizes of SDXL, (n, 6): original size, crop, target size."""
    yield "the micro-conditioning is forgotten: all sizes are zero", np.zeros_like(right)
    yield "width and height are exchanged", right[:, [1, 0, 3, 2, 5, 4]]
    yield "sizes of the latents instead of the image", right / factor
    moved = right[:, [0, 1, 4, 5, 2, 3]]
    yield "original and target size without the crop's place", moved
