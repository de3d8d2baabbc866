"""The request of each mode: its parameters as the caller gives them, None for a default.

Dataclasses take the fields of the last base class first, so a request lists its bases from the
last group of parameters to the first. `job.py` turns a request into a `Job`, in which every default
is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal

from ldmref.declare import Check, Doc, Flag, Range
from ldmref.modes import validation
from ldmref.modes.edit_parameters import (
    EditParameters,
    FlowEditParameters,
    RFInversionParameters,
)
from ldmref.modes.image_parameters import (
    ControlParameter,
    Fill,
    ImageInput,
    Mask,
    MaskBlur,
    ReferencesParameter,
    ResizeMethod,
    Segmentation,
    Strength,
)
from ldmref.modes.notation import parse_jumps, parse_positions
from ldmref.modes.parameters import (
    NUMBERS,
    TEXTS,
    BatchParameters,
    CountParameter,
    EtaParameter,
    LatentsParameter,
    RngParameter,
    SamplerParameter,
    ScheduleParameter,
    SeedParameter,
    SigmasParameter,
    SizeParameters,
    StepParameter,
)
from ldmref.modes.prompt_parameters import (
    EmbeddingParameters,
    GuidanceParameters,
    GuideParameter,
    NegativePromptParameter,
    PromptParameters,
    SinglePrompt,
)
from ldmref.modes.upscale_parameters import UpscaleParameters
from ldmref.modes.validation import MAX_SIDE

Prompt = Annotated[
    str | Sequence[str] | None,
    Check(validation.check_texts, TEXTS),
    Flag(()),
    Doc(
        "Description of the image: one text, or a list of texts with an image for each.",
        "allowed with prompt_embeds only",
    ),
]
Edits = Annotated[
    str | Sequence[str],
    Check(validation.check_texts, TEXTS),
    Flag(()),
    Doc("Description of the edited image: one text, or a list of texts with an image for each."),
]
SourcePrompt = Annotated[
    str,
    Check(validation.check_single_text, {"type": "string"}),
    Flag(metavar="TEXT"),
    Doc("Description of the given image; FlowEdit needs one to know what is to change."),
]
Positions = Annotated[
    int | Sequence[float],
    Check(validation.check_positions, NUMBERS | {"type": ["integer", "array"]}),
    Flag((), "A,B,...", parse=parse_positions),
    Doc(
        "The number of images, at least 2, evenly spaced from 0 (the first prompt) to 1 (the "
        "last); or a list of positions."
    ),
]
Jumps = Annotated[
    tuple[int, int] | None,
    Check(validation.check_jumps, {"type": "array", "items": {"type": "integer"}}),
    Flag(
        metavar="LENGTH,SAMPLES",
        parse=parse_jumps,
        help="RePaint: go back and repeat every LENGTH steps, SAMPLES times in all, which fits "
        "the new part better to the rest.",
    ),
    Doc(
        "RePaint's (jump length, samples), such as (10, 10): every stretch of that many steps is "
        "denoised that many times, which fits the repainted part better to the rest.",
        "every step is taken once",
    ),
]


@dataclass(frozen=True, eq=False, repr=False)
class FromPrompts(
    BatchParameters,
    ReferencesParameter,
    ControlParameter,
    EmbeddingParameters,
    PromptParameters,
    SigmasParameter,
    RngParameter,
    EtaParameter,
    LatentsParameter,
    CountParameter,
    SizeParameters,
    SeedParameter,
    ScheduleParameter,
    SamplerParameter,
    GuideParameter,
    GuidanceParameters,
    StepParameter,
    NegativePromptParameter,
):
    """The parameters of modes with a prompt for each image."""

    prompt: Prompt


@dataclass(frozen=True, eq=False, repr=False)
class Txt2Img(UpscaleParameters, FromPrompts):
    """Generate images from prompts."""


@dataclass(frozen=True, eq=False, repr=False)
class Img2Img(FromPrompts):
    """Change an image towards a prompt."""

    image: ImageInput
    strength: Strength = 0.75
    _: KW_ONLY
    resize: ResizeMethod = "crop"


@dataclass(frozen=True, eq=False, repr=False)
class Inpaint(FromPrompts):
    """Repaint the white part of a mask."""

    image: ImageInput
    mask: Mask
    strength: Strength = 1.0
    mask_blur: MaskBlur = 0.0
    _: KW_ONLY
    fill: Annotated[
        Fill,
        Flag(metavar="NAME"),
        Doc(
            "What is below the mask before noise is added, which matters below strength 1: "
            "`original`, the image; `noise`, the initial noise of the seed; `fill`, the colours "
            "around; `nothing`, latents of 0."
        ),
    ] = "original"
    only_masked: Annotated[
        bool | None,
        Doc(
            "Generate only the region around the mask, scaled to width x height, and paste it "
            "back. The image may then have any size.",
            "for models of one size, if the image has a very different one, with a warning",
        ),
    ] = None
    padding: Annotated[
        int,
        Range(0, MAX_SIDE),
        Doc("Pixels around the mask that belong to the region, if only the region is generated."),
    ] = 32
    resample: Jumps = None
    mask_invert: Annotated[bool, Doc("Repaint the black part instead.")] = False


@dataclass(frozen=True, eq=False, repr=False)
class Interpolate(
    BatchParameters,
    ControlParameter,
    PromptParameters,
    SigmasParameter,
    RngParameter,
    EtaParameter,
    SizeParameters,
    SeedParameter,
    ScheduleParameter,
    SamplerParameter,
    GuideParameter,
    GuidanceParameters,
    StepParameter,
    NegativePromptParameter,
):
    """Generate images between two prompts."""

    prompt: SinglePrompt
    prompt_b: SinglePrompt
    positions: Positions = 8
    _: KW_ONLY
    path: Annotated[
        Literal["lerp", "slerp"],
        Doc(
            "Path from one prompt to the other: a straight line (`lerp`) or a circle (`slerp`) "
            "between their hidden states."
        ),
    ] = "lerp"


@dataclass(frozen=True, eq=False, repr=False)
class Invert(
    PromptParameters,
    SigmasParameter,
    SizeParameters,
    ScheduleParameter,
    GuidanceParameters,
    StepParameter,
    NegativePromptParameter,
):
    """Find the noise from which DDIM generates an image."""

    prompt: SinglePrompt
    image: ImageInput
    _: KW_ONLY
    resize: ResizeMethod = "crop"
    iterations: Annotated[
        int,
        Range(0, 100),
        Doc(
            "Iterations that make each step the inverse of the sampler's step; each costs an "
            "evaluation of the network. 0 is plain DDIM inversion."
        ),
    ] = 5


@dataclass(frozen=True, eq=False, repr=False)
class Edit(
    RFInversionParameters,
    FlowEditParameters,
    EditParameters,
    BatchParameters,
    PromptParameters,
    RngParameter,
    CountParameter,
    SizeParameters,
    SeedParameter,
    ScheduleParameter,
    GuidanceParameters,
    StepParameter,
    NegativePromptParameter,
):
    """Edit an image along the flow of a model."""

    prompt: Edits
    image: ImageInput
    source_prompt: SourcePrompt = ""
    _: KW_ONLY
    resize: ResizeMethod = "crop"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WithoutPrompt(
    BatchParameters,
    SigmasParameter,
    RngParameter,
    EtaParameter,
    LatentsParameter,
    CountParameter,
    SeedParameter,
    ScheduleParameter,
    SamplerParameter,
    StepParameter,
):
    """The parameters of modes without a prompt."""


@dataclass(frozen=True, eq=False, repr=False)
class Superres(WithoutPrompt):
    """Enlarge an image."""

    image: ImageInput


@dataclass(frozen=True, eq=False, repr=False)
class Seg2Img(WithoutPrompt):
    """Generate an image from a map of classes."""

    segmentation: Segmentation


Request = FromPrompts | Interpolate | Invert | Edit | Superres | Seg2Img
