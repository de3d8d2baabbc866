"""The request of each mode: its parameters as the caller gives them, None for a default.

Dataclasses take the fields of the last base class first, so a request lists its bases from the
last group of parameters to the first. `job.py` turns a request into a `Job`, in which every default
is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Literal, get_args

import numpy as np

from ldmref.declare import Attachment, Check, Doc, Flag, Range
from ldmref.io.images.pil import Source
from ldmref.modes import validation
from ldmref.modes.notation import parse_jumps, parse_positions
from ldmref.modes.parameters import (
    NUMBERS,
    TEXTS,
    BatchParameters,
    ControlParameter,
    CountParameters,
    NoiseParameters,
    SamplerParameter,
    ScheduleParameter,
    SeedParameter,
    SigmasParameter,
    SizeParameters,
    StepParameter,
    Unrecorded,
    accept,
)
from ldmref.modes.prompt_parameters import (
    EmbeddingParameters,
    GuidanceParameters,
    NegativePromptParameter,
    PromptParameters,
    SinglePrompt,
)
from ldmref.modes.upscale_parameters import UpscaleParameters
from ldmref.modes.validation import MAX_SIDE

Resize = Literal["crop", "stretch", "fill"]
Fill = Literal["original", "noise", "fill", "nothing"]
FILLS = get_args(Fill)
FILE = {"type": "string", "contentEncoding": "base64"}

Prompt = Annotated[
    str | Sequence[str] | None,
    Check(validation.check_texts, TEXTS),
    Flag(()),
    Doc(
        "Description of the image: one text, or a list of texts with an image for each.",
        "allowed with prompt_embeds only",
    ),
]
ImageFile = Annotated[Source | np.ndarray, Check(accept, FILE), Attachment("image"), Unrecorded()]
ImageInput = Annotated[
    ImageFile,
    Flag(
        ("-i", "--image"),
        "FILE",
        help="The given image: PNG, JPEG or WebP; - reads standard input. May be repeated.",
    ),
    Doc(
        "The given image: a path, an open file (PNG, JPEG, WebP), a Pillow image, or an array "
        "(H, W, 3) of uint8, or of floats from 0 to 1."
    ),
]
Mask = Annotated[
    ImageFile,
    Flag(
        metavar="FILE",
        help="White is repainted; black and transparent pixels are kept. If it is painted on "
        "transparency in dark colours only, its opaque part is repainted, with a warning. A mask "
        "of another size is stretched to the image's. One for all images, or one for each.",
    ),
    Doc(
        "An image or boolean array: white (True) is repainted, black and transparent are kept. "
        "Its luminance is cut at one half. If it is painted on transparency in dark colours only, "
        "its opaque part is repainted, with a warning. Another size is stretched to fit."
    ),
]
Segmentation = Annotated[
    ImageFile,
    Flag(
        ("-i", "--image", "--map", "--segmentation"),
        "FILE",
        help="The map: a grey or palette image whose values are the numbers of the classes. "
        "May be repeated.",
    ),
    Doc(
        "Numbers of classes: an integer array (H, W), or an image whose grey values or palette "
        "indices are these numbers."
    ),
]
Strength = Annotated[
    float | None,
    Range(0, 1),
    Doc("Amount of change: 0 returns the image, 1 replaces all of it."),
]
MaskBlur = Annotated[
    float,
    Range(0, 256),
    Doc(
        "Width of the transition around the white area, over which the repainted part fades out: "
        "a standard deviation in pixels."
    ),
]
ResizeMethod = Annotated[
    Resize,
    Doc("Method that brings the given image to the size of the result."),
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
    ControlParameter,
    EmbeddingParameters,
    PromptParameters,
    SigmasParameter,
    NoiseParameters,
    CountParameters,
    SizeParameters,
    SeedParameter,
    ScheduleParameter,
    SamplerParameter,
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
    NoiseParameters,
    SizeParameters,
    SeedParameter,
    ScheduleParameter,
    SamplerParameter,
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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WithoutPrompt(
    BatchParameters,
    SigmasParameter,
    NoiseParameters,
    CountParameters,
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


Request = FromPrompts | Interpolate | Invert | Superres | Seg2Img
