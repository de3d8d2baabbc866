"""LoRA: low-rank changes of a model's matrices and convolutions, merged into them.

    W <- W + weight * (alpha / rank) * up @ down

Hu et al. 2021, arXiv:2106.09685, section 4.1. A convolution's `down` is k x k, its `up` 1 x 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.io.adapters.lora_changes import Change, lora_changes
from ldmref.io.adapters.lora_file import Lora
from ldmref.math.layers import low_rank_update
from ldmref.models.config import ModelConfig
from ldmref.support.deferred import DeferredArray


def apply_loras(
    config: ModelConfig, flat: Mapping[str, np.ndarray], loras: Sequence[Lora]
) -> dict[str, np.ndarray]:
    r"""Return the tensors of a model with the LoRAs merged in.

    .. math:: W' = W + w\,\frac{\alpha}{r}\,\mathrm{up}\,\mathrm{down}

    with w the weight of the LoRA, r its rank and alpha from the file, by default r.

    The inputs are not changed. Changed tensors are float32, or float64 if they were.

    Args:
        config: The configuration of the model.
        flat: The tensors of the model by our names, such as those of `open_checkpoint`, each of its
            shape (o, i) or (o, i, k, k).
        loras: From `read_loras`; they are added in this order.

    Returns:
        All tensors of the model by name, in the shapes of `flat`. Of a quantised file, a changed
        tensor is computed when it is used, as the others are, and an infinite one refused then.

    Raises:
        KeyMismatchError: A LoRA belongs to another model; the message lists what does not fit.
        CorruptModelError: It holds NaN or infinity, or needs something that is not supported.

    >>> from ldmref.io import apply_loras, open_checkpoint, read_loras
    >>> checkpoint = open_checkpoint("sd15")  # doctest: +SKIP
    >>> loras = read_loras(["style.safetensors"])  # doctest: +SKIP
    >>> tensors = apply_loras(checkpoint.config, checkpoint.tensors, loras)  # doctest: +SKIP
    """
    merged = dict(flat)
    for lora in loras:
        where = f"the LoRA {lora.name!r} with weight {lora.weight:g}"
        for name, change in lora_changes(config, lora).items():
            base: Any = merged[name]
            read = partial(_merge_finite, base, change, lora.weight, f"{where} makes {name}")
            if isinstance(base, DeferredArray):  # a quantised matrix is expanded when it is used
                wide = np.result_type(base.dtype, np.float32)
                merged[name] = cast(np.ndarray, DeferredArray(read, base.shape, wide))
            else:
                merged[name] = read()
    return merged


def _merge_finite(base: np.ndarray, change: Change, weight: float, text: str) -> np.ndarray:
    """Return a tensor with a change, in float32 or better; `text` begins the error's message.

    Raises:
        CorruptModelError: The change makes it infinite.
    """
    w = base.astype(np.result_type(base.dtype, np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        merged = merge(w, change, weight)
    if not np.isfinite(merged).all() and np.isfinite(w).all():
        hint = "its alpha or its numbers are too large"
        raise CorruptModelError(f"{text} infinite", code="E-NONFINITE", hint=hint)
    return merged


def merge(w: np.ndarray, change: Change, weight: float = 1.0) -> np.ndarray:
    """Compute w + weight * (alpha / rank) * up @ down, in the type of `w`.

    w: (o, i) or (o, i, k, k); down: (r, i) or (r, i, k, k); up: (o, r) or (o, r, 1, 1);
    alpha: a number, by default r. A bias w, (o,), becomes w + weight * (alpha / rank) * offset, and
    a norm (1 - weight) * w + weight * whole.
    """
    if "whole" in change:
        return (1.0 - weight) * w + weight * change["whole"].astype(w.dtype)
    rank = len(change["down"])
    alpha = float(change["alpha"].reshape(())) if "alpha" in change else float(rank)
    scale = weight * alpha / rank
    if "offset" in change:
        return w + scale * change["offset"].astype(w.dtype)
    return low_rank_update(w, change["down"].astype(w.dtype), change["up"].astype(w.dtype), scale)
