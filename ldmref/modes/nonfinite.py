"""The origin of NaN or infinity: the failing computation is repeated and watched layer by layer.

Nothing here runs as long as images are healthy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ldmref.backends import finite
from ldmref.backends.finite import FiniteBackend
from ldmref.errors import NumericError
from ldmref.math.arrays import Array
from ldmref.models.model import LatentDiffusion


def find_layer(
    model: LatentDiffusion, network: str, compute: Callable[[LatentDiffusion], Any]
) -> str:
    """Return the first operation of a network that is not finite when `compute(model)` runs, or "".

    `compute` is called with a copy of the model whose backend checks every operation.
    """

    def watched(ops: FiniteBackend) -> None:
        compute(model.with_backend(ops))

    return finite.first_layer(model.backend, {network: model.params[network]}, watched)


def step_error(
    model: LatentDiffusion,
    x: Array,
    step: int,
    steps: int,
    sigma: float,
    repeat: Callable[[LatentDiffusion], Iterable[Any]],
) -> NumericError:
    """Return the error of a step that turned x into NaN or infinity; `repeat` takes it again."""
    where = f"in step {step + 1} of {steps}, to sigma {sigma:.4g}"
    if not model.backend.is_finite(x):
        return _error(model, "the initial latents are NaN or infinite: so the image was encoded")
    layer = find_layer(model, model.denoiser.params, lambda watched: [*repeat(watched)])
    cause = f"first in {layer}" if layer else "in the step itself: the network's output is finite"
    return _error(model, f"the latents became NaN or infinite {where}, {cause}")


def decoder_error(model: Any, decode: Callable[[Any], Any]) -> NumericError:
    """Return the error of a decoder, a `LatentDiffusion` or TAESD, whose output is not finite."""
    layer = find_layer(model, "vae", decode) if isinstance(model, LatentDiffusion) else ""
    cause = f", first in {layer}" if layer else ""
    return _error(model, f"the decoder gave NaN or infinity{cause}")


def _error(model: LatentDiffusion, message: str) -> NumericError:
    narrow = model.backend.dtype in ("float16", "bfloat16")
    hint = "try dtype float32 (--dtype float32)" if narrow else ""
    return NumericError(f"{message} ({model.backend!r})", code="E-NAN", hint=hint)
