"""Judge what a family computes of the size of the image for its denoiser, as resolution or ratio.

The family's own `condition` says what these arrays should be. It is called with two texts that no
run has; what is the same for both depends on the size alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ldmref.errors import LdmrefError
from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.roles import roles_of
from ldmref.locate.pipeline.tokens import tokenize
from ldmref.locate.precision import exact_backend
from ldmref.locate.unfit import UNFIT
from ldmref.models.text import text_encoder_pooled
from ldmref.trace.model import TraceEntry

TEXTS = (0.0, 1.0)  # all tokens, and all numbers of the states, of two texts

ImageSize = tuple[int, int]  # width and height in pixels


def arrays_of_size(context: PipelineContext, size: ImageSize) -> dict[str, np.ndarray]:
    """Return the arrays that a family makes of the size of an image, by argument, (1, ...) each.

    Args:
        context: The run.
        size: Width and height in pixels.
    """
    model = context.model
    ops = exact_backend()
    try:
        encoders = range(len(model.config.text_encoders))
        tokens = [tokenize(context, i, [""], {}) for i in encoders]
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


def judge_conditions(context: PipelineContext) -> Iterator[Row]:
    """Yield a row for each array of the size that the denoiser is given, once for equal ones.

    The six sizes of SDXL, which a request may choose, are judged by themselves.
    """
    known: dict[ImageSize, dict[str, np.ndarray]] = {}
    seen: list[tuple[str, ImageSize, np.ndarray]] = []
    denoiser = context.model.denoiser
    made = [x for x in (*denoiser.inputs, *denoiser.optional) if x.argument != "sizes"]
    for network in context.calls(context.denoiser):
        size = size_of_image(context, network)
        if size is None:
            continue
        if size not in known:
            known[size] = arrays_of_size(context, size)
        for x in made:
            right = known[size].get(x.argument)
            names = roles_of(context, x.argument)
            got = context.read(network, *names)
            if right is None or got is None or x.content == "mask":
                continue
            context.compared(network, *names)
            if any((x.role, size) == s[:2] and np.array_equal(got, s[2]) for s in seen):
                continue
            seen.append((x.role, size, got))
            yield _judge_array(context, network, x.argument, x.role, got, right, size)


def _judge_array(
    context: PipelineContext,
    network: TraceEntry,
    argument: str,
    role: str,
    got: np.ndarray,
    right: np.ndarray,
    size: ImageSize,
) -> Row:
    width, height = size
    factor = context.model.config.vae.factor
    others = {
        "width and height are exchanged": (height, width),
        "the size is that of the latents": (width // factor, height // factor),
    }
    expected = np.repeat(right, len(got), axis=0)
    variants = [(f"the {role} is zero", np.zeros_like(expected))]
    for words, other in others.items():
        array = arrays_of_size(context, other).get(argument)
        if array is not None:
            variants.append((words, np.repeat(array, len(got), axis=0)))
    segment = f"from the size of the image to the denoiser's {role}"
    got = np.asarray(got, np.float64)
    return context.judge(
        network, role.replace("_", " "), got, expected, variants=variants, segment=segment
    )


def size_of_image(context: PipelineContext, network: TraceEntry) -> ImageSize | None:
    """Return width and height of the image of a call's latents; None if they are not known."""
    sample = context.read(network, *roles_of(context, "x"))
    if sample is None or sample.ndim != 4:
        return None
    factor = context.model.config.vae.factor
    height, width = (int(side) * factor for side in sample.shape[2:])
    return width, height
