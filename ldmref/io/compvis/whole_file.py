"""CompVis single files: one safetensors file with all networks under their original names.

The family of a file is not guessed from a few names: it is the published configuration whose key
table the file fits, tensor by tensor. A file that fits none is refused with the problems of the
nearest family; files of other sizes need `config=`.

CompVis' trainer stores the U-Net's weights and an exponential moving average (EMA) of each, under
the weight's name without its dots, `model_ema.diffusion_modelinput_blocks00weight`, and two
scalars, `model_ema.decay` and `model_ema.num_updates`. Autoencoder and text encoder have none.

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

from ldmref.errors import CorruptModelError, UsageError
from ldmref.io.compvis.keys import UNET_PREFIX, compvis_table, unet_table
from ldmref.io.compvis.unet_file import is_unet_alone
from ldmref.io.key_table import KeyEntry, add_prefixes, find_matching, fit
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.safetensors import TensorView
from ldmref.models.clip import CLIP, is_openclip
from ldmref.models.config import ModelConfig
from ldmref.models.family import Averages, SingleFile
from ldmref.models.networks import model_spec
from ldmref.models.params import Shape
from ldmref.models.presets import PRESETS
from ldmref.models.presets_ldm import LDM_PRESETS
from ldmref.models.text_kind import kind_of

FAMILIES = ("sd15", "sd15-inpainting", "sd2-base", "sd2-v", "sd2-inpainting", "sdxl", *LDM_PRESETS)
PREDICTIONS = {"epsilon": "eps", "eps": "eps", "v": "v", "v_prediction": "v"}
CLIP_PREFIX = "cond_stage_model.transformer."
CLIP_MODULES = ("embeddings", "encoder", "final_layer_norm")
SCALE = "scale_factor"  # of the latents, measured in training (`scale_by_std`)

# Tensors that training and other programs leave in a file: buffers, averages (unless they are
# read), unused heads of the text encoders, a ControlNet, the state of the trainer.
IGNORED = (
    r"model_ema\..*|betas|alphas|alphas_cumprod(_prev)?|sqrt_.*alphas_cumprod.*|log_one_minus_.*"
    r"|posterior_.*|logvar|lvlb_weights|scale_factor|denoiser\.(log_)?sigmas"
    r"|.*\.position_ids|.*\.logit_scale|.*\.attn_mask"
    r"|first_stage_model\.((loss|model_ema)\..*|logvar)"
    r"|(cond_stage_model|conditioner\.embedders\.0)\.((model|transformer)\.)?text_projection"
    r"(\.weight)?|cond_stage_model\.transformer\.to_logits\..*"
    r"|control_model\..*|embedding_manager\..*|(optimizer|optimizer_states|lr_schedulers?|callbacks|loops)\..*"
    r"|epoch|global_step|v_pred|ztsnr"
)
# An autoencoder that also encodes the masked image is stored twice.
SECOND_COPY = r"cond_stage_model\.(encoder|decoder|quantize|quant_conv|post_quant_conv|loss)\..*"

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


def canonical_name(stored: str) -> str:
    """Return the name that the key tables use for a stored tensor.

    Some files have a `state_dict.` prefix. Those saved by transformers before 2022 lack
    `text_model.` below `cond_stage_model.transformer.`
    """
    name = stored.removeprefix("state_dict.")
    if (
        name.startswith(CLIP_PREFIX)
        and name.removeprefix(CLIP_PREFIX).split(".")[0] in CLIP_MODULES
    ):
        return f"{CLIP_PREFIX}text_model.{name.removeprefix(CLIP_PREFIX)}"
    return name


def list_entries(config: ModelConfig, network: str) -> dict[str, KeyEntry]:
    """Return the tensor of the file for each parameter of one network.

    No model is stored so whose U-Net embeds classes, for which CompVis has no name.
    """
    prefix = f"{network}."
    if config.unet.class_embed_type:
        return {}
    if network == "unet":  # which has these names beside an autoencoder of any kind
        return add_prefixes("", UNET_PREFIX, unet_table(config.unet))
    table = compvis_table(config)
    return {name.removeprefix(prefix): x for name, x in table.items() if name.startswith(prefix)}


def list_others(config: ModelConfig) -> dict[str, dict[str, KeyEntry]]:
    """Return the tensors of the other networks than the U-Net."""
    return {name: list_entries(config, name) for name in model_spec(config) if name != "unet"}


def list_unneeded(config: ModelConfig) -> str:
    """Return a pattern of the names that only models of this configuration do not need."""
    patterns = [SECOND_COPY] if config.concat == "masked_image" else []
    text = config.text_encoder
    if is_openclip(text) and config.text_encoder_2 is None:
        # SD 2 takes the penultimate layer of OpenCLIP, so the configuration lacks the last one
        last = text.num_hidden_layers
        patterns.append(rf"cond_stage_model\.model\.transformer\.resblocks\.{last}\..*")
    return "|".join(patterns)


def recognise(shapes: Mapping[str, Shape]) -> ModelConfig:
    """Return the first published configuration that a file fits, otherwise the nearest.

    A file with averages alone is compared by these. Without a name that a model has, it is not
    compared at all, and the first configuration is returned.
    """
    alone = has_ema(shapes) and not any(name.startswith(WRAPPER) for name in shapes)
    nearest = []
    for config in (PRESETS[name] for name in FAMILIES):
        table = ema_table(compvis_table(config)) if alone else compvis_table(config)
        if shapes.keys().isdisjoint(entry.name for entry in table.values()):
            nearest.append(((0, -len(shapes)), config))
            continue
        pattern = "|".join(filter(None, (IGNORED, list_unneeded(config))))
        report = fit(shapes, table, find_matching(pattern, shapes), squeezed=True)
        if report.fits:
            return config
        nearest.append((report.likeness, config))
    return max(nearest, key=lambda pair: pair[0])[1]


def refine(
    file: ModelFile, config: ModelConfig, stated: bool
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Return a configuration with what a file says of it beside the shapes of its tensors.

    These are what the network predicts, if the user gave no configuration, and the scaling factor
    of the latents.

    Args:
        file: The file.
        config: The configuration that it fits.
        stated: Whether the user gave it.

    Returns:
        The configuration, and the names of the tensors that it was completed from.

    Raises:
        CorruptModelError: The scaling factor is not one positive number.
        UsageError: Equal networks predict noise or velocity, and the file does not say which.
    """
    if not stated:
        config = _with_prediction(file, _list_alike(config))
    view = TensorView([file], canonical_name)
    if SCALE not in view:
        return config, ()
    scale = np.asarray(view[SCALE], np.float64)
    if scale.size != 1 or not 0 < scale.item() < np.inf:
        raise CorruptModelError(
            f"{file.path.name}: scale_factor must be one positive number", code="E-CONFIG"
        )
    vae = replace(config.kl_or_vq, scaling_factor=float(scale.item()))
    return replace(config, vae=vae), (SCALE,)


def _list_alike(config: ModelConfig) -> list[ModelConfig]:
    """Return the published configurations with the same tensors."""
    table = compvis_table(config)
    return [PRESETS[name] for name in FAMILIES if compvis_table(PRESETS[name]) == table]


def _with_prediction(file: ModelFile, fitting: list[ModelConfig]) -> ModelConfig:
    """Choose the family with the prediction type that the file names, for equal tensors."""
    metadata = str(file.metadata.get("modelspec.prediction_type", "")).lower()
    prediction = "v" if "v_pred" in file else PREDICTIONS.get(metadata, "")
    if "ztsnr" in file:  # trained with zero terminal SNR, which needs the last timestep
        zero = {"rescale_betas_zero_snr": True, "spacing": "trailing"}
        fitting = [replace(c, scheduler=replace(c.scheduler, **zero)) for c in fitting]
    for config in fitting:
        if config.scheduler.prediction_type == prediction:
            return config
    if prediction:
        scheduler = replace(fitting[0].scheduler, prediction_type=prediction)
        return replace(fitting[0], scheduler=scheduler)
    if len(fitting) > 1:
        names = [config.name for config in fitting]
        raise UsageError(
            f"{file.path.name} fits {' and '.join(map(repr, names))}, and does not say whether "
            "it predicts noise or velocity",
            code="E-FAMILY",
            hint="give config= " + " or ".join(names),
        )
    return fitting[0]


def make_scale_tensor(config: ModelConfig) -> dict[str, np.ndarray]:
    """Return the scaling factor as a tensor to store, if the family does not imply it."""
    scale = np.float64(config.kl_or_vq.scaling_factor)
    if all(family.kl_or_vq.scaling_factor == scale for family in _list_alike(config)):
        return {}
    short = np.float32(scale)
    return {SCALE: np.asarray(short if short == scale else scale)}


WHOLE_FILE = SingleFile(
    "a model of latent diffusion",
    recognise,
    lambda config: list_entries(config, "unet"),
    IGNORED,
    applies=lambda shapes: not is_unet_alone(shapes),
    others=list_others,
    whole=True,
    rename=canonical_name,
    unneeded=list_unneeded,
    averages=Averages(r"model_ema\..*", COUNTERS, ema_table, samples_with_averages),
    refine=refine,
)
"""All networks in one file."""
