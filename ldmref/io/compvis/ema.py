"""Exponential moving averages (EMA) of the U-Net in training checkpoints.

CompVis' trainer stores the U-Net's weights and an exponential moving average of each, under the
weight's name without its dots, `model_ema.diffusion_modelinput_blocks00weight`, and two scalars,
`model_ema.decay` and `model_ema.num_updates`. Autoencoder and text encoder have none.

Whether to sample with the averages depends on the family's configuration. `use_ema` is True by
default, and latent-diffusion's scripts sample within `ema_scope()`. Its configurations for
cin256-v2 and txt2img-1p4B set `use_ema: False`, as do Stable Diffusion's for inference: their
scripts sample with `model.*`, even if the file holds averages, and so do diffusers
(`extract_ema=False`) and the other common programs. Files published for inference hold the average
as `model.*`.

Sources: CompVis/latent-diffusion (ldm/modules/ema.py, ldm/models/diffusion/ddpm.py,
configs/latent-diffusion/cin256-v2.yaml, txt2img-1p4B-eval.yaml, models/ldm/*/config.yaml,
scripts/sample_diffusion.py, scripts/inpaint.py, scripts/txt2img.py), CompVis/stable-diffusion
(configs/stable-diffusion/v1-inference.yaml), huggingface/diffusers
(loaders/single_file_utils.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from ldmref.io.key_table import KeyEntry
from ldmref.models.clip import CLIP
from ldmref.models.config import ModelConfig
from ldmref.models.presets_ldm import LDM_PRESETS
from ldmref.models.text_kind import kind_of

WRAPPER = "model."
PREFIX = "model_ema."
COUNTERS = (PREFIX + "decay", PREFIX + "num_updates")
WITHOUT_EMA = ("ldm-imagenet", "ldm-text2img-large")  # configured with `use_ema: False`


def ema_name(name: str) -> str:
    """Return the name of a weight's average; the weight's name begins with `model.`.

    >>> ema_name("model.diffusion_model.out.2.weight")
    'model_ema.diffusion_modelout2weight'
    """
    return PREFIX + name.removeprefix(WRAPPER).replace(".", "")


def ema_table(table: Mapping[str, KeyEntry]) -> dict[str, KeyEntry]:
    """Return a key table with the averages instead of the weights that have one.

    Args:
        table: A table from `compvis_table`.

    Returns:
        The table; networks without averages keep their weights.

    >>> from ldmref.io import compvis_table, ema_table
    >>> from ldmref.models import preset
    >>> ema_table(compvis_table(preset("sd15")))["unet.conv_in.weight"].name
    'model_ema.diffusion_modelinput_blocks00weight'
    """
    return {
        ours: replace(entry, name=ema_name(entry.name)) if entry.name.startswith(WRAPPER) else entry
        for ours, entry in table.items()
    }


def has_ema(names: Iterable[str]) -> bool:
    """Return whether canonical tensor names include averages; the two scalars do not count."""
    return any(name.startswith(PREFIX) and name not in COUNTERS for name in names)


def family_uses_ema(config: ModelConfig) -> bool:
    """Return `use_ema` of the family's original configuration.

    The text encoder identifies the family.
    """
    text = config.text_encoder
    without = [LDM_PRESETS[name].text_encoder for name in WITHOUT_EMA]
    return kind_of(text) is not CLIP and text not in without


def samples_with_averages(config: ModelConfig, tensors: Mapping[str, np.ndarray]) -> bool:
    """Return whether a family is sampled with averages, and training updated those of a file.

    Training did if `num_updates` is absent or not 0.
    """
    if not family_uses_ema(config):
        return False
    return COUNTERS[1] not in tensors or bool(np.any(np.asarray(tensors[COUNTERS[1]]) != 0))
