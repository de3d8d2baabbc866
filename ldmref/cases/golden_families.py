"""The small models and golden runs of families: ldmref's, and where those of packages are found.

A package declares them with an entry point that names a `GoldenModels` and is called as the family:

    [project.entry-points."ldmref.cases"]
    dit = "ldmref_dit.golden:MODELS"
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ldmref.families.flux.presets import shrink as shrink_flux
from ldmref.families.flux2.presets import shrink as shrink_flux2
from ldmref.families.flux3.presets import shrink as shrink_flux3
from ldmref.families.krea2.presets import shrink as shrink_krea2
from ldmref.families.qwen_image_21.presets import shrink as shrink_qwen_image_21
from ldmref.families.sd3.presets import shrink as shrink_sd3
from ldmref.families.z_image.presets import shrink as shrink_z_image
from ldmref.models.config import ModelConfig
from ldmref.models.family import Family
from ldmref.support.plugins import find_optional

GROUP = "ldmref.cases"
BUILT_IN = {
    "latent-diffusion": f"{__name__}:LATENT_DIFFUSION_MODELS",
    "sd3": f"{__name__}:SD3_MODELS",
    "flux": f"{__name__}:FLUX_MODELS",
    "z-image": f"{__name__}:Z_IMAGE_MODELS",
    "flux2": f"{__name__}:FLUX2_MODELS",
    "flux3": f"{__name__}:FLUX3_MODELS",
    "krea2": f"{__name__}:KREA2_MODELS",
    "qwen-image-2.1": f"{__name__}:QWEN_IMAGE_21_MODELS",
}


@dataclass(frozen=True)
class GoldenRun:
    """A run of a family's small model, of which the golden cases hold a trace.

    Attributes:
        preset: The name of the model, which `GoldenModels.shrink` makes small.
        sampler: The name of the sampler.
        mode: "txt2img", "img2img" or "inpaint".
        params: Parameters of the mode in place of those of all runs: prompt, negative_prompt,
            steps, cfg_scale.
        vocabulary: "words" if the text encoder reads whole words. "": the vocabulary of its kind.

    >>> from ldmref.cases import GoldenRun
    >>> GoldenRun("sd15", "ddim").name
    'sd15.txt2img.ddim'
    """

    preset: str
    sampler: str
    mode: str = "txt2img"
    params: Mapping[str, Any] = field(default_factory=dict)
    vocabulary: str = ""

    @property
    def name(self) -> str:
        """Return the name of the case, `PRESET.MODE.SAMPLER`."""
        return f"{self.preset}.{self.mode}.{self.sampler}"


@dataclass(frozen=True)
class GoldenModels:
    """The small models of a family whose numbers golden cases hold.

    Attributes:
        shrink: Returns a small version of a configuration. None: the model is not made smaller.
        runs: The runs of small versions of the presets that are held as traces.

    >>> from ldmref.models import preset
    >>> from ldmref.models.family import find_family
    >>> golden_models_of(find_family("flux")).shrink(preset("flux-dev")).denoiser.num_layers
    2
    """

    shrink: Callable[[ModelConfig], ModelConfig] | None = None
    runs: Sequence[GoldenRun] = ()


def golden_models_of(family: Family) -> GoldenModels:
    """Return the small models and golden runs of a family; none if nothing declares them.

    Raises:
        UsageError: Its plug-in cannot be used.
    """
    former = getattr(family, "golden", None)  # a declaration of an earlier version
    found = former or find_optional(GROUP, BUILT_IN, family.name, GoldenModels)
    return found or GoldenModels()


LATENT_DIFFUSION_MODELS = GoldenModels(
    runs=(  # each model that reads a text with a deterministic sampler, some with another one
        GoldenRun("sd15", "ddim"),
        GoldenRun("sd2-base", "pndm"),
        GoldenRun("sd2-v", "ddim"),
        GoldenRun("sdxl", "euler", params={"negative_prompt": ""}),  # which is encoded as zeros
        GoldenRun("ldm-text2img-large", "ddim"),
        GoldenRun("ldm-text2img256", "euler"),
        GoldenRun("emoji", "dpmpp_2m", vocabulary="words"),
        GoldenRun("emoji-128", "euler", vocabulary="words"),
        GoldenRun("sd15", "euler_a"),
        GoldenRun("sd2-v", "euler_a"),
        GoldenRun("sdxl", "euler_a"),
        GoldenRun("emoji", "euler_a", vocabulary="words"),
        GoldenRun("sd15", "ddim", "img2img"),
        GoldenRun("sd15", "ddim", "inpaint"),
    )
)
SD3_MODELS = GoldenModels(
    shrink_sd3,
    (
        GoldenRun("sd3-medium", "euler"),
        GoldenRun("sd35-medium", "heun"),
        GoldenRun("sd35-medium", "euler_a"),
        GoldenRun("sd3-medium", "euler", "img2img"),
    ),
)
FLUX_MODELS = GoldenModels(
    shrink_flux,
    (
        GoldenRun("flux-dev", "euler", params={"negative_prompt": ""}),  # it reads the scale
        GoldenRun("flux-schnell", "euler"),
        GoldenRun("flux-dev", "euler", "img2img", {"negative_prompt": ""}),
    ),
)
Z_IMAGE_MODELS = GoldenModels(
    shrink_z_image, (GoldenRun("z-image", "euler"), GoldenRun("z-image-turbo", "euler"))
)
FLUX2_MODELS = GoldenModels(
    shrink_flux2,
    (
        GoldenRun("flux2-klein-4b", "euler"),
        GoldenRun("flux2-klein-base-4b", "euler"),
        GoldenRun("flux2-klein-base-4b", "euler", "img2img"),
    ),
)
FLUX3_MODELS = GoldenModels(
    shrink_flux3,
    (
        GoldenRun("flux3-klein-base", "euler"),
        GoldenRun("flux3-klein", "euler", params={"negative_prompt": "", "cfg_scale": 1.0}),
    ),
)
KREA2_MODELS = GoldenModels(
    shrink_krea2, (GoldenRun("krea-2", "euler"), GoldenRun("krea-2-turbo", "euler"))
)
QWEN_IMAGE_21_MODELS = GoldenModels(
    shrink_qwen_image_21,
    (GoldenRun("qwen-image-2.1", "euler"), GoldenRun("qwen-image-2.1-turbo", "euler")),
)
