"""Single files that hold text encoders and an autoencoder beside a transformer.

The text encoders have the names of transformers, the autoencoder those of CompVis. Sources: the
names of sd3_medium_incl_clips_t5xxlfp16.safetensors; huggingface/diffusers, loaders/
single_file_utils.py; Comfy-Org/ComfyUI, comfy/supported_models.py (SD3, Flux).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ldmref.io.compvis.keys import autoencoder_table, clip_table, original_autoencoder_table
from ldmref.io.diffusers.folder import diffusers_autoencoder_table
from ldmref.io.key_table import KeyEntry, add_prefixes, key_table
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.params import Shape, flatten
from ldmref.models.text_kind import kind_of

TEXTS = "text_encoders."
CLIP_L, CLIP_G, T5 = "clip_l", "clip_g", "t5xxl"
# Of a language model beside a transformer: a number of the training, the last layer, what sees.
UNUSED_OF_COMFYUI = (
    r"text_encoders\.\w+\.(logit_scale|transformer\.(lm_head\.weight|(model\.)?visual\..*))"
    r"|vae\.bn\.num_batches_tracked"
)
PROJECTION = "text_projection.weight"
# Numbers of the training, positions, and T5's vocabulary, also as a second name of its embedding.
# Nobody reads the projection of `clip_l`, and T5 may be left out.
UNUSED = (
    r"text_encoders\.(\w+\.(logit_scale|transformer\.text_model\.embeddings\.position_ids)"
    r"|clip_l\.(transformer\.)?text_projection(\.weight)?|t5xxl\..*)"
)


def list_other_networks(
    config: ModelConfig, texts: Sequence[str], autoencoder: str
) -> dict[str, dict[str, KeyEntry | np.ndarray]]:
    """Return the tables of the networks beside the transformer, for `SingleFile.others`.

    The pooled output of `clip_l` is not projected in these models: where the configuration has a
    projection, as diffusers' folders do, it is the identity.

    Args:
        config: The configuration of the model.
        texts: The names of its text encoders in a file: `clip_l`, `clip_g`, `t5xxl`.
        autoencoder: The prefix of the autoencoder's names.
    """
    tables: dict[str, dict[str, KeyEntry | np.ndarray]] = {
        "vae": {**add_prefixes("", autoencoder, autoencoder_table(config.kl_or_vq))}
    }
    for network, text, stored in zip(TEXT_ENCODERS, config.text_encoders, texts, strict=False):
        table = {**add_prefixes("", f"{TEXTS}{stored}.transformer.", clip_table(text))}
        if stored == CLIP_L and PROJECTION in table:
            tables[network] = table | {PROJECTION: np.eye(*table[PROJECTION].shape, dtype="f4")}
        else:
            tables[network] = {**table}
    return tables


def list_comfyui_networks(
    config: ModelConfig, text: str
) -> dict[str, dict[str, KeyEntry | np.ndarray]]:
    """Return the tables of autoencoder and text encoder in a complete checkpoint of ComfyUI.

    Args:
        config: The configuration of the model.
        text: ComfyUI's name of its only text encoder, a language model, such as `qwen3vl_4b`.
    """
    entries = original_autoencoder_table(config.vae) or diffusers_autoencoder_table(config.vae)
    spec = flatten(kind_of(config.text_encoder).spec(config.text_encoder))
    return {
        "vae": {**add_prefixes("", "vae.", entries)},
        "text_encoder": {
            **add_prefixes("", f"{TEXTS}{text}.transformer.", key_table(spec, {"": "model"}))
        },
    }


def lacks_t5(shapes: Mapping[str, Shape]) -> bool:
    """Return whether a file holds text encoders, but not T5."""
    names = [name for name in shapes if name.startswith(TEXTS)]
    return bool(names) and not any(name.startswith(f"{TEXTS}{T5}.") for name in names)
