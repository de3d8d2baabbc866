"""Code written for diffusers, on ldmref: change the import and keep the rest.

    from ldmref.compat.diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained("path/to/folder")
    image = pipe("a red heart", num_inference_steps=20).images[0]

The pipelines for text to image, image to image and inpainting take the arguments of diffusers
0.42.1, with its defaults, and return its image for the same folder, generator and scheduler. They
need neither diffusers nor torch. docs/compat.md lists what is supported.
"""

from ldmref.compat.diffusers.auto import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
    DiffusionPipeline,
)
from ldmref.compat.diffusers.generators import Generator
from ldmref.compat.diffusers.output import StableDiffusionPipelineOutput
from ldmref.compat.diffusers.pipelines import (
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from ldmref.compat.diffusers.schedulers import SCHEDULERS

DDIMScheduler = SCHEDULERS["DDIMScheduler"]
DDIMParallelScheduler = SCHEDULERS["DDIMParallelScheduler"]
DDPMScheduler = SCHEDULERS["DDPMScheduler"]
DDPMParallelScheduler = SCHEDULERS["DDPMParallelScheduler"]
DEISMultistepScheduler = SCHEDULERS["DEISMultistepScheduler"]
DPMSolverMultistepScheduler = SCHEDULERS["DPMSolverMultistepScheduler"]
DPMSolverSinglestepScheduler = SCHEDULERS["DPMSolverSinglestepScheduler"]
EulerAncestralDiscreteScheduler = SCHEDULERS["EulerAncestralDiscreteScheduler"]
EulerDiscreteScheduler = SCHEDULERS["EulerDiscreteScheduler"]
HeunDiscreteScheduler = SCHEDULERS["HeunDiscreteScheduler"]
KDPM2AncestralDiscreteScheduler = SCHEDULERS["KDPM2AncestralDiscreteScheduler"]
KDPM2DiscreteScheduler = SCHEDULERS["KDPM2DiscreteScheduler"]
LCMScheduler = SCHEDULERS["LCMScheduler"]
LMSDiscreteScheduler = SCHEDULERS["LMSDiscreteScheduler"]
PNDMScheduler = SCHEDULERS["PNDMScheduler"]
TCDScheduler = SCHEDULERS["TCDScheduler"]
UniPCMultistepScheduler = SCHEDULERS["UniPCMultistepScheduler"]

__all__ = [
    "AutoPipelineForImage2Image",
    "AutoPipelineForInpainting",
    "AutoPipelineForText2Image",
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DiffusionPipeline",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "Generator",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionPipeline",
    "StableDiffusionPipelineOutput",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
    "StableDiffusionXLPipeline",
    "TCDScheduler",
    "UniPCMultistepScheduler",
]


def __getattr__(name: str) -> object:
    """Refuse what other names of diffusers would be, with what there is."""
    if name.startswith("__"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    raise AttributeError(
        f"ldmref.compat.diffusers has no {name}; it has pipelines and schedulers of Stable "
        "Diffusion and SDXL, listed in docs/compat.md"
    )
