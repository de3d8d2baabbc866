"""LoRA and its kin: small changes of a model's matrices and convolutions, merged into them.

    W <- W + weight * (alpha / rank) * up @ down

Hu et al. 2021, arXiv:2106.09685, section 4.1. A convolution's `down` is k x k, its `up` 1 x 1. LoHa
and LoKr have other products (`ldmref.io.adapters.formulas`), and DoRA gives the changed rows or
columns learned lengths.

Merging LoRAs into a loaded model makes a copy, which shares everything else with the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np

from ldmref.errors import CorruptModelError
from ldmref.io.adapters.bundled_words import bundled_words
from ldmref.io.adapters.control_lora import widen_config, widen_tensors
from ldmref.io.adapters.formulas import decomposed_weight, squared_norms
from ldmref.io.adapters.lora_changes import Change, lora_changes, match_tensors
from ldmref.io.adapters.lora_file import Lora
from ldmref.io.adapters.lora_forms import compute_change
from ldmref.math.layers import low_rank_update
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten, unflatten
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


def with_loras(model: LatentDiffusion, loras: Sequence[Lora]) -> LatentDiffusion:
    r"""Return a model with LoRAs merged in, recorded in `modifications`.

    .. math:: W' = W + w\,\frac{\alpha}{r}\,\mathrm{up}\,\mathrm{down}

    with w the weight of the LoRA, r its rank and alpha from the file (Hu et al. 2021,
    arXiv:2106.09685, section 4.1). Tensors that no LoRA changes are shared with `model`, which is
    not changed. The result is that of `ldmref.load(..., lora=...)`: computed in float32 or better
    and rounded once. Words that a file brings along are added. Only for a model in memory, in
    float16 or bfloat16, the numbers have been rounded before.

    Args:
        model: A model.
        loras: From `read_loras`; they are added in this order.

    Returns:
        A copy of the model.

    Raises:
        KeyMismatchError: A LoRA belongs to another model; the message lists what does not fit.
        CorruptModelError: It holds NaN or infinity, or needs something that is not supported.

    >>> import os
    >>> import tempfile
    >>> import numpy as np
    >>> from safetensors.numpy import save_file
    >>> import ldmref
    >>> from ldmref.io import read_loras, with_loras
    >>> model = ldmref.random_model("tiny")
    >>> path = os.path.join(tempfile.mkdtemp(), "style.safetensors")
    >>> down, up = np.ones((1, 4, 3, 3), np.float32), np.ones((16, 1, 1, 1), np.float32)
    >>> save_file({"unet.conv_in.lora_A.weight": down, "unet.conv_in.lora_B.weight": up}, path)
    >>> changed = with_loras(model, read_loras([(path, 0.5)]))
    >>> difference = changed.params.unet.conv_in.weight - model.params.unet.conv_in.weight
    >>> bool(np.allclose(difference, 0.5)), changed.modifications["loras"][0]["weight"]
    (True, 0.5)
    """
    ops = model.backend
    config = widen_config(model.config, loras)
    names = {name for lora in loras for name in match_tensors(config, lora)}
    networks = {name.partition(".")[0] for name in names}
    flat = {network: flatten(model.params[network], f"{network}.") for network in networks}
    stored = {network: model.params.stored(network) for network in networks}
    exact: dict[str, Any] = {}  # of the file, in place of what the backend has rounded
    for network, tree in stored.items():
        exact |= flatten(tree, f"{network}.") if tree is not None else {}
    base = {
        name: np.asarray(exact[name])
        if name in exact
        else ops.to_numpy(flat[name.partition(".")[0]][name])
        for name in sorted(names)
    }
    base = widen_tensors(model.config, config, base)
    for name, tensor in apply_loras(config, base, loras).items():
        flat[name.partition(".")[0]][name] = ops.weight(tensor)
    trees = {network: unflatten(flat[network])[network] for network in networks}
    merged = model.with_params(trees, ops)
    merged.config = config
    before = model.modifications.get("loras") or []
    records = [*before, *(lora.record for lora in loras)]
    merged.modifications = model.modifications | ({"loras": records} if records else {})
    words, warnings = bundled_words(config, loras)
    merged = merged.with_warnings(warnings)
    return merged.with_embeddings(words) if words else merged
