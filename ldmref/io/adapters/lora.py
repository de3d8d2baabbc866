"""LoRA and its kin: small changes of a model's matrices and convolutions, merged into them.

    W <- W + weight * (alpha / rank) * up @ down

Hu et al. 2021, arXiv:2106.09685, section 4.1. A convolution's `down` is k x k, its `up` 1 x 1. LoHa
and LoKr have other products (`ldmref.io.adapters.formulas`), and DoRA gives the changed rows or
columns learned lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.io.adapters.formulas import decomposed_weight, squared_norms
from ldmref.io.adapters.lora_changes import Change, lora_changes
from ldmref.io.adapters.lora_file import Lora
from ldmref.io.adapters.lora_forms import compute_change
from ldmref.math.layers import low_rank_update
from ldmref.models.config import ModelConfig
from ldmref.support.deferred import DeferredArray

LayerPart = tuple[np.ndarray, Change]  # a tensor of ours in a layer of the file


def apply_loras(
    config: ModelConfig, flat: Mapping[str, np.ndarray], loras: Sequence[Lora]
) -> dict[str, np.ndarray]:
    r"""Return the tensors of a model with the LoRAs merged in.

    .. math:: W' = W + w\,\frac{\alpha}{r}\,\mathrm{up}\,\mathrm{down}

    with w the weight of the LoRA, r its rank and alpha from the file, by default r. In place of
    up down, LoHa has a product entry by entry, LoKr a Kronecker product. DoRA's W' is

    .. math:: W' = (1 - w)\,W + w\,m\,\frac{W + \Delta}{\lVert W + \Delta \rVert}

    with its learned lengths m of rows or columns, and the change Delta of weight 1. Differences,
    `.diff`, are added as they are, times w.

    The inputs are not changed. Changed tensors are float32, or float64 if they were. A LoRA is
    merged in this type, the others in float64 before they are rounded to it.

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
        changes = lora_changes(config, lora)
        before = dict(merged) if any(change.by_columns for change in changes.values()) else merged
        for name, change in changes.items():
            base: Any = merged[name]
            layer = [(before[other], changes[other]) for other in change.siblings]
            text = f"{where} makes {name}"
            read = partial(_merge_finite, base, change, lora.weight, text, layer)
            if isinstance(base, DeferredArray):  # a quantised matrix is expanded when it is used
                wide = np.result_type(base.dtype, np.float32)
                merged[name] = cast(np.ndarray, DeferredArray(read, base.shape, wide))
            else:
                merged[name] = read()
    return merged


def _merge_finite(
    base: np.ndarray, change: Change, weight: float, text: str, layer: Sequence[LayerPart]
) -> np.ndarray:
    """Return a tensor with a change, in float32 or better; `text` begins the error's message.

    Raises:
        CorruptModelError: The change makes it infinite.
    """
    w = base.astype(np.result_type(base.dtype, np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        merged = merge(w, change, weight, layer)
    if not np.isfinite(merged).all() and np.isfinite(w).all():
        hint = "its alpha or its numbers are too large"
        raise CorruptModelError(f"{text} infinite", code="E-NONFINITE", hint=hint)
    return merged


def merge(
    w: np.ndarray, change: Change, weight: float = 1.0, layer: Sequence[LayerPart] = ()
) -> np.ndarray:
    """Compute w + weight * scale * change, or what DoRA makes of it, in the type of `w`.

    Args:
        w: Our tensor, (o, i) or (o, i, k, k), or (o,).
        change: Its change. A LoRA has `down`, (r, i) or (r, i, k, k), and `up`, (o, r) or
            (o, r, 1, 1). A norm becomes (1 - weight) * w + weight * whole.
        weight: The weight of the file.
        layer: With lengths of columns, all tensors of the layer, each with its change. Empty: `w`
            is the layer.
    """
    parts = change.parts
    if change.form == "whole":
        return (1.0 - weight) * w + weight * parts["whole"].astype(w.dtype)
    if change.form in ("offset", "difference"):
        added = parts["offset" if change.form == "offset" else "diff"]
        return w + weight * change.scale * added.astype(w.dtype).reshape(w.shape)
    if change.form == "LoRA" and "mid" not in parts and change.magnitude is None:
        down, up = parts["down"].astype(w.dtype), parts["up"].astype(w.dtype)
        return low_rank_update(w, down, up, weight * change.scale)
    changed = _changed(w, change)
    if change.magnitude is not None:
        by_columns = change.by_columns
        whole = [_changed(np.asarray(x), of_x) for x, of_x in layer] or [changed]
        squared = np.sum([squared_norms(part, by_columns) for part in whole], axis=0)
        changed = decomposed_weight(changed, change.magnitude, squared, by_columns)
    wide = w.astype(np.float64)
    return (wide + weight * (changed - wide)).astype(w.dtype)


def _changed(w: np.ndarray, change: Change) -> np.ndarray:
    """Return our tensor with the change of weight 1, in float64."""
    if change.form == "LoKr" and change.entry is not None:
        delta = change.entry.read(compute_change(change.form, change.parts, change.layer))
    else:
        delta = compute_change(change.form, change.parts, w.shape)
    return w.astype(np.float64) + change.scale * delta
