"""LoRAs merged into a model that is loaded, as a copy that shares everything else with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ldmref.io.adapters.bundled_words import bundled_words
from ldmref.io.adapters.control_lora import widen_config, widen_tensors
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_changes import match_tensors
from ldmref.io.adapters.lora_file import Lora
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten, unflatten


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
