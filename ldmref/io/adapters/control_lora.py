"""LoRAs that widen the first layer of a denoiser, so that it also reads a control image.

FLUX.1 Canny [dev] LoRA and Depth [dev] LoRA are made for FLUX.1 [dev], whose first layer reads the
latents alone. Their change of this layer also has columns for the latents of a control image. The
model's own matrix gets zeros there, as in diffusers (`FluxLoraLoaderMixin`, loaders/
lora_pipeline.py); a LoRA without these columns leaves them alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmref.io.adapters.lora_keys import lora_names, unwrapped
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.models.model import model_spec
from ldmref.models.params import Shape, flatten
from ldmref.models.validate import check_config
from ldmref.support.deferred import DeferredArray

if TYPE_CHECKING:
    from ldmref.io.adapters.lora_file import Lora


def widen_config(config: ModelConfig, loras: Sequence[Lora]) -> ModelConfig:
    """Return the configuration of a model with LoRAs: with a control image if one of them reads it.

    Names and shapes are compared; no numbers are read.

    Args:
        config: The configuration of the model.
        loras: From `read_loras` or `open_loras`.

    >>> from ldmref.io.adapters.control_lora import widen_config
    >>> from ldmref.models import preset
    >>> widen_config(preset("flux-dev"), []).concat
    ''
    """
    with_control = family_of(config).lora.with_control
    if with_control is None or config.concat or not loras:
        return config
    wide = with_control(config)
    inputs = _differing(config, wide)
    known = lora_names(config)
    for lora in loras:
        for name in lora.tensors:
            targets = [t.tensor for t in known.get(unwrapped(name), ()) if t.role == "down"]
            columns = lora.shape_of(name)[1:2] if targets else ()
            if any(columns == inputs.get(target, ())[1:2] for target in targets):
                check_config(wide)
                return wide
    return config


def widen_tensors(
    config: ModelConfig, wide: ModelConfig, flat: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the tensors of a model with zeros where its first layer reads the control image.

    Args:
        config: The configuration of the tensors.
        wide: The configuration that `widen_config` returned for it.
        flat: Tensors of the model by our names.
    """
    widened: dict[str, Any] = dict(flat)
    inputs = _differing(config, wide) if wide is not config else {}
    for name, shape in inputs.items():
        base: Any = flat[name]
        fill = partial(pad_columns, columns=shape[1])
        deferred = isinstance(base, DeferredArray)
        widened[name] = base.then(fill, shape) if deferred else fill(base)
    return widened


def narrow_columns(config: ModelConfig) -> dict[str, int]:
    """Return the columns of each tensor that widens for a control image, without this image."""
    if config.concat != "control":
        return {}
    denoiser: Any = config.denoiser
    latents = replace(denoiser, in_channels=config.vae.latent_channels)
    narrow = replace(config, denoiser=latents, concat="")
    return {name: shape[1] for name, shape in _differing(config, narrow).items()}


def pad_columns(matrix: np.ndarray, columns: int) -> np.ndarray:
    """Return a matrix (o, i) with zeros in further columns, (o, columns)."""
    return np.pad(matrix, ((0, 0), (0, columns - matrix.shape[1])))


def _differing(config: ModelConfig, other: ModelConfig) -> dict[str, Shape]:
    """Return the shapes in another configuration of the tensors that have others in this one."""
    ours = flatten(model_spec(config))
    return {name: x for name, x in flatten(model_spec(other)).items() if ours.get(name) != x}
