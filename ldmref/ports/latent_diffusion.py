"""diffusers' pipelines of models with a U-Net: how they are made, and asked for an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.errors import UsageError
from ldmref.io.diffusers.ldm import LDM_PIPELINES
from ldmref.models.clip import CLIP
from ldmref.models.config import ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.ldmbert import LDMBERT
from ldmref.models.text_kind import kind_of
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import FamilyPort
from ldmref.ports.sizes_of_images import divide_vector
from ldmref.ports.text_encoders import select_hidden_states
from ldmref.ports.written import SCHEDULERS, write_scheduler_config, write_unet_config

CODE = "E-PASSPORT"
NAMES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")  # with one text encoder, with two
OTHERWISE = "record its networks, and compare them with the kit's trace"
UNUSED = ("safety_checker", "feature_extractor")  # parts of Stable Diffusion 1 that see images


def describe_pipeline(config: ModelConfig) -> LibraryObject:
    """Return diffusers' pipeline of a configuration.

    Raises:
        UsageError: diffusers has none.
    """
    kinds = [kind_of(text) for text in config.text_encoders]
    if kinds == [LDMBERT]:
        return LibraryObject(f"diffusers:{LDM_PIPELINES[-1]}")
    if kinds not in ([CLIP], [CLIP, CLIP]):
        message = f"no pipeline of diffusers is declared for the text encoder of {config.name}"
        raise UsageError(message, code=CODE, hint=OTHERWISE)
    if config.unet.class_embed_type:
        message = f"diffusers has no pipeline of {config.name}: its U-Net adds the text to the time"
        raise UsageError(message, code=CODE, hint=OTHERWISE)
    if len(kinds) == 2:
        settings = {"force_zeros_for_empty_prompt": config.zero_empty_negative}
        return LibraryObject(f"diffusers:{NAMES[1]}", settings | {"add_watermarker": False})
    settings = dict.fromkeys(UNUSED) | {"requires_safety_checker": False}
    return LibraryObject(f"diffusers:{NAMES[0]}", settings)


def require_kit(config: ModelConfig) -> None:
    """Refuse a model whose pipeline cannot run the request of a kit.

    Raises:
        UsageError: It is one of latent diffusion.
    """
    if kind_of(config.text_encoder) is LDMBERT:
        message = f"diffusers' pipeline of {config.name} cannot run a kit: {LDM_PIPELINES[-1]}"
        rest = "reads 77 tokens, for which the kit has no places, and no negative prompt"
        raise UsageError(f"{message} {rest}", code=CODE, hint=OTHERWISE)


def describe_denoiser(config: ModelConfig) -> LibraryObject:
    """Return diffusers' U-Net of a configuration."""
    settings = write_unet_config(config.unet)
    return LibraryObject(f"diffusers:{settings.pop('_class_name')}", settings)


def describe_scheduler(config: ModelConfig, sampler: str) -> LibraryObject:
    """Return diffusers' scheduler of a configuration for a sampler.

    Args:
        config: The configuration of the model.
        sampler: The sampler of a run, a name in `SAMPLERS`.

    Returns:
        Its class with its settings.

    Raises:
        UsageError: No class of diffusers has this sampler alone.

    >>> from ldmref.models import preset
    >>> describe_scheduler(preset("sd15"), "ddim").path
    'diffusers:DDIMScheduler'
    """
    if sampler not in SCHEDULERS:
        message = f"no scheduler of diffusers has the sampler {sampler!r} alone"
        raise UsageError(message, code=CODE, hint=f"it has those of {', '.join(SCHEDULERS)}")
    settings = write_scheduler_config(config.scheduler, sampler)
    return LibraryObject(f"diffusers:{settings.pop('_class_name')}", settings)


def leave_size(config: ModelConfig, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call for the size, which the given latents decide.

    The pipelines refuse sides that are not multiples of 8, also where a cell has fewer pixels. SDXL
    reads the size apart from that, and has zeros for no negative prompt, not for an empty one.
    """
    assert isinstance(config.denoiser, UNetConfig)
    found: dict[str, Any] = {"width": None, "height": None}
    if config.denoiser.addition_embed_type:
        sides = (asked["height"], asked["width"])
        found |= {"original_size": sides, "target_size": sides}
    if config.zero_empty_negative and not asked["negative_prompt"]:
        found["negative_prompt"] = None
    return found


PARTS = PipelineParts(
    describe_pipeline,
    describe_denoiser,
    describe_scheduler,
    request=leave_size,
    require_kit=require_kit,
)


PORT = FamilyPort(
    "latent-diffusion",
    ("UNet2DConditionModel",),
    states=select_hidden_states,
    first_layers={
        "t": (("time_proj", "input"),),
        "context": (("attn2.to_k", "input"),),
        "hint": (("controlnet_cond_embedding", "output"),),
    },
    joined=divide_vector,
    parts=PARTS,
)
