"""Averaged weights (EMA) in the files of a training run.

CompVis' trainer keeps, beside the U-Net's weights, an exponential moving average of them: buffers
named as the weights are, without the dots, `model_ema.diffusion_modelinput_blocks00weight`, and two
numbers, `model_ema.decay` and `model_ema.num_updates`. Autoencoder and text encoder have none.

Which of the two draws is a matter of the family. latent-diffusion's configurations build the model
with its averages (`use_ema` is True unless they say otherwise) and its scripts sample within
`ema_scope()`. The inference configurations of Stable Diffusion say `use_ema: False`, so its scripts
draw with `model.*`, whatever else the file holds; so do diffusers (`extract_ema=False`) and the
other common programs. Files published for inference hold the average as `model.*`.

Sources: CompVis/latent-diffusion (ldm/modules/ema.py, ldm/models/diffusion/ddpm.py,
scripts/sample_diffusion.py, scripts/inpaint.py), CompVis/stable-diffusion
(configs/stable-diffusion/v1-inference.yaml), huggingface/diffusers
(loaders/single_file_utils.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from ldmref.io.compvis.key_entry import Entry
from ldmref.models.config import ModelConfig

WRAPPER, PREFIX = "model.", "model_ema."
COUNTERS = (PREFIX + "decay", PREFIX + "num_updates")


def ema_name(name: str) -> str:
    """The name of a weight's average, from that of the weight, which begins with `model.`.

    >>> ema_name("model.diffusion_model.out.2.weight")
    'model_ema.diffusion_modelout2weight'
    """
    return PREFIX + name.removeprefix(WRAPPER).replace(".", "")


def ema_table(table: Mapping[str, Entry]) -> dict[str, Entry]:
    """A table of `io.compvis.keys` with the averages in place of the weights that have one."""
    return {
        ours: replace(entry, name=ema_name(entry.name)) if entry.name.startswith(WRAPPER) else entry
        for ours, entry in table.items()
    }


def has_averages(names: Iterable[str]) -> bool:
    """Whether a file holds averages, by the names that the tables use; the numbers are none."""
    return any(name.startswith(PREFIX) and name not in COUNTERS for name in names)


def draws_with_averages(config: ModelConfig) -> bool:
    """Whether the makers of such a model draw with its averages: latent diffusion's do, Stable
    Diffusion's, whose models are those that read their prompts with CLIP, do not."""
    return config.text_encoder.model_type != "clip"


def were_updated(file: Mapping[str, np.ndarray], names: Mapping[str, str]) -> bool:
    """Whether training moved the averages: not where their `num_updates` is 0.

    `names`: the name that the tables use -> the name in the file.
    """
    stored = names.get(COUNTERS[1])
    return stored is None or bool(np.any(file[stored] != 0))
