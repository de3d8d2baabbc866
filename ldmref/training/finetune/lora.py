"""Training a LoRA: low-rank changes of frozen matrices and convolutions.

    W' = W + (alpha / rank) up @ down

Hu et al. 2021, arXiv:2106.09685, section 4.1: `down` is random and `up` zero at the start, so
training begins at the model itself. The networks are called with the changed parameters W', and
gradients flow through them to `up` and `down`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ldmref.io.adapters.lora_keys import has_kohyas_names, lora_file_name
from ldmref.io.tensors.writer import source, write_tensors
from ldmref.math.layers import low_rank_update
from ldmref.models.config import ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import Params, flatten, init, unflatten


def initial_lora(config: ModelConfig, layers: Sequence[str], rank: int, seed: int) -> Params:
    """Return `down`, uniform in +-1/sqrt(fan-in) as in PEFT, and `up`, zero, for each layer."""
    shapes = flatten(model_spec(config))
    spec = {}
    for name in layers:
        out, *rest = shapes[name]
        spec[f"{name}.down"] = (rank, *rest)
        spec[f"{name}.up"] = (out, rank, *(1 for _ in rest[1:]))
    flat = flatten(init(spec, seed))
    return unflatten({k: np.zeros_like(v) if k.endswith(".up") else v for k, v in flat.items()})


def with_lora(params: Mapping[str, Params], lora: Params, scale: float) -> Params:
    """Return the parameters with the changes added; `scale` is alpha / rank.

    Unchanged tensors are shared with `params`, which is not modified.
    """
    flat = flatten(params)
    changes = flatten(lora)
    for name in {name.rpartition(".")[0] for name in changes}:
        down = changes[f"{name}.down"]
        up = changes[f"{name}.up"]
        flat[name] = low_rank_update(flat[name], down, up, scale)
    return unflatten(flat)


def write_lora(
    path: Path, config: ModelConfig, lora: Params, alpha: float, metadata: Mapping[str, str]
) -> None:
    """Write the changes under the names of `lora_file_name`, which diffusers and ComfyUI read.

    kohya's format holds alpha. In diffusers', which has no place for it that every program reads,
    alpha / rank is multiplied into `up`.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {}
    for name, tensor in flatten(lora).items():
        layer, _, role = name.rpartition(".")
        if has_kohyas_names(config):
            tensors[lora_file_name(config, layer, "alpha")] = np.asarray(alpha, np.float32)
        elif role == "up":
            tensor = tensor * (alpha / tensor.shape[1])
        tensors[lora_file_name(config, layer, role)] = np.ascontiguousarray(tensor, np.float32)
    sources = {name: source(tensor) for name, tensor in tensors.items()}
    write_tensors(path, sources, metadata, overwrite=True)
