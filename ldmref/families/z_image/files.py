"""The files of Z-Image: diffusers' folders, and single files with the makers' names or ComfyUI's.

ComfyUI's files, such as z_image_turbo_bf16.safetensors, stack queries, keys and values and name
ends and norms in another way; most GGUF files are made of them. Files of either kind may hold the
autoencoder (CompVis' names) and the text encoder as well. No tensor tells Z-Image from
Z-Image-Turbo: a file is taken for Turbo, as by diffusers, unless a configuration is given.

Sources: Tongyi-MAI/Z-Image, src/zimage/transformer.py; huggingface/diffusers, loaders/
single_file_utils.py (convert_z_image_transformer_checkpoint_to_diffusers); Comfy-Org/ComfyUI,
comfy/utils.py (z_image_to_diffusers), comfy/supported_models.py (ZImage).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ldmref.families.qwen3.files import read_pipeline
from ldmref.families.transformer_files import (
    MakersNames,
    count_blocks,
    find_model,
    list_entries,
    list_files,
    reads_sizes,
    stack_layers,
)
from ldmref.families.z_image.config import ZImageConfig, transformer_of
from ldmref.families.z_image.network import FORM, transformer_spec
from ldmref.families.z_image.presets import SCALE, STEPS, TURBO, make_presets
from ldmref.families.z_image.text import as_text_encoder
from ldmref.io.compvis.keys import autoencoder_table, clip_table
from ldmref.io.diffusers.declared import read_denoiser
from ldmref.io.key_table import KeyEntry, add_prefixes
from ldmref.math.tokens import PATCH
from ldmref.models.config import Defaults, ModelConfig
from ldmref.models.params import Shape

# -- diffusers' folders ----------------------------------------------------------------------------

PIPELINES = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
PLAIN: dict[str, tuple[Any, ...]] = {
    "all_patch_size": ([2],),
    "all_f_patch_size": ([1],),
    "qk_norm": (True,),
    "siglip_feat_dim": (None,),
}


def convert_transformer_config(data: Mapping[str, Any]) -> ZImageConfig:
    """Convert the configuration of a `ZImageTransformer2DModel`; see `read_denoiser`."""
    omitted = ZImageConfig()
    heads = {"n_kv_heads": (data.get("n_heads", omitted.n_heads),)}
    return read_denoiser(omitted, data, PLAIN | heads)


read_folder = partial(
    read_pipeline,
    convert_transformer=convert_transformer_config,
    as_text_encoder=as_text_encoder,
    defaults=Defaults(STEPS, SCALE),
)
"""Reads the configuration of a folder of diffusers, of its path and its model_index.json."""


# -- single files ----------------------------------------------------------------------------------

AUTOENCODER = "vae."
TEXT = "text_encoders.qwen3_4b.transformer."
# A norm and a token that nothing reads, a number of the training, the embedding as the last layer.
UNUSED = (
    r"(model\.diffusion_model\.)?(norm_final\.weight|siglip_pad_token)"
    r"|text_encoders\..*(logit_scale|lm_head\.weight)"
)
ENDS = {f"all_x_embedder.{FORM}": "x_embedder", f"all_final_layer.{FORM}": "final_layer"}
BLOCK: MakersNames = {
    **stack_layers("attention.qkv", ("attention.to_q", "attention.to_k", "attention.to_v")),
    "attention.to_out.0": "attention.out",
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
}
BLOCKS = {name: (name, BLOCK) for name in ("noise_refiner", "context_refiner", "layers")}


def makers_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor in the makers' files for each parameter of the transformer: as here."""
    return list_entries(transformer_spec(transformer_of(config)), {}, {}, prefix)


def comfyui_table(config: ModelConfig, prefix: str = "") -> dict[str, KeyEntry]:
    """Return the tensor in ComfyUI's files for each parameter of the transformer."""
    return list_entries(transformer_spec(transformer_of(config)), ENDS, BLOCKS, prefix)


@reads_sizes
def recognise(own: Mapping[str, Shape], comfyui: bool = False) -> ModelConfig | None:
    """Return the configuration of a file of these names; None if it is another file.

    Args:
        own: Names and shapes of the transformer.
        comfyui: Whether they are ComfyUI's.
    """
    first = "x_embedder" if comfyui else f"all_x_embedder.{FORM}"
    norm = "attention.q_norm" if comfyui else "attention.norm_q"
    d, patch = own[f"{first}.weight"]
    (text,) = own["cap_embedder.0.weight"]
    (head,) = own[f"layers.0.{norm}.weight"]
    if own["x_pad_token"][-1] != d:
        return None
    network = ZImageConfig(
        in_channels=patch // PATCH**2,
        out_channels=patch // PATCH**2,
        dim=d,
        n_layers=count_blocks(own, "layers"),
        n_refiner_layers=count_blocks(own, "noise_refiner"),
        n_heads=max(d // head, 1),
        cap_feat_dim=text,
    )
    models = {TURBO.name: TURBO} | make_presets()
    return find_model(models, network, head, TURBO, "axes_dims")


def list_others(config: ModelConfig) -> dict[str, dict[str, KeyEntry]]:
    """Return the tables of autoencoder and text encoder, for `SingleFile.others`."""
    text = clip_table(config.text_encoder)
    return {
        "vae": add_prefixes("", AUTOENCODER, autoencoder_table(config.kl_or_vq)),
        "text_encoder": add_prefixes("", f"{TEXT}model.", text),
    }


OF_COMFYUI = list_files(
    "the transformer of Z-Image with the names of ComfyUI",
    partial(recognise, comfyui=True),
    comfyui_table,
    UNUSED,
    others=list_others,
)
OF_MAKERS = list_files(
    "the transformer of Z-Image with the names of its makers",
    recognise,
    makers_table,
    UNUSED,
    others=list_others,
)
SINGLE_FILES = (*OF_COMFYUI, *OF_MAKERS)
"""The files of both kinds."""
