"""Every parameter of an image, declared once.

A declaration holds name, type, range or choices, default, help, and the flag on the command line.
The checks, the documentation of each mode (`help(modes.img2img)`), the options of its command, the
JSON in an image, `ldmref run` and the JSON schema (`modes.schema`) are all made from it. A mode
takes the parameters in its signature: those with `Annotated` types, and the keys of the TypedDict
of its `**parameters`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict

import numpy as np

from ldmref.io.images.pil import Source
from ldmref.modes import validation
from ldmref.modes.control import Control, check_controls, parse_control
from ldmref.modes.declaration import Parameter
from ldmref.modes.embeddings import EmbeddingParameters
from ldmref.modes.guidance import check_guidance, parse_guidance
from ldmref.modes.notation import (
    parse_jumps,
    parse_positions,
    parse_seeds,
    parse_sigmas,
    read_noise,
)
from ldmref.modes.validation import MAX_COUNT, MAX_SIDE, MAX_STEPS
from ldmref.prompts.tokenizer import LONG_PROMPTS, PROMPT_WEIGHTS
from ldmref.samplers import Guidance, Sampler
from ldmref.samplers.noise import STREAMS

RESIZE = ("crop", "stretch", "fill")
FILLS = ("original", "noise", "fill", "nothing")
PATHS = ("lerp", "slerp")

_TEXTS = {"type": ["string", "array"], "items": {"type": "string"}}
_FILE = {"type": "string", "contentEncoding": "base64"}

Prompt = Annotated[
    str | Sequence[str] | None,
    Parameter(
        "What to draw; a list draws each. None with prompt_embeds.",
        check=validation.texts,
        flags=(),
        json=_TEXTS,
    ),
]
ImageInput = Annotated[
    Source | np.ndarray,
    Parameter(
        "The image: a path, an open file (PNG, JPEG, WebP), a Pillow image, or an array "
        "(H, W, 3) of uint8, or of floats from 0 to 1.",
        flags=("-i", "--image"),
        metavar="FILE",
        json=_FILE,
        recorded=False,
    ),
]
Mask = Annotated[
    Source | np.ndarray,
    Parameter(
        "An image or boolean array of the same size: white (True) is repainted, black is kept. "
        "Its transparency if that varies, else its luminance, is cut at one half.",
        metavar="FILE",
        json=_FILE,
        recorded=False,
    ),
]
SinglePrompt = Annotated[
    str, Parameter("One prompt.", check=validation.text, flags=(), metavar="TEXT")
]
Segmentation = Annotated[
    Source | np.ndarray,
    Parameter(
        "Numbers of classes: an integer array (H, W), or an image whose grey values or "
        "palette indices are these numbers.",
        metavar="FILE",
        json=_FILE,
        recorded=False,
        flags=("-i", "--image", "--map", "--segmentation"),
    ),
]
Strength = Annotated[
    float | None, Parameter("0 gives the image back, 1 ignores it.", minimum=0.0, maximum=1.0)
]
MaskBlur = Annotated[
    float,
    Parameter(
        "Standard deviation in pixels by which the repainted part fades out beyond the white.",
        minimum=0.0,
        maximum=256.0,
    ),
]


class PromptParameters(TypedDict, total=False):
    """How prompts are read, and how strongly they act."""

    negative_prompt: Annotated[
        str | Sequence[str] | None,
        Parameter(
            "What to keep away from; one, or as many as prompts.",
            "",
            check=validation.texts,
            flags=("-n", "--negative-prompt"),
            metavar="TEXT",
            json=_TEXTS,
        ),
    ]
    cfg_scale: Annotated[
        float | None,
        Parameter(
            "Guidance scale s in u + s (c - u); 0 ignores the prompt, 1 is no guidance.",
            minimum=-1000.0,
            maximum=1000.0,
            flags=("--cfg",),
            metavar="X",
        ),
    ]
    guidance: Annotated[
        str | Guidance | Mapping[str, Any] | None,
        Parameter(
            "How predictions are combined: a name in ldmref.samplers.GUIDANCES, a Guidance, or "
            '{"name": "rescale", "phi": 0.7}. None: classifier-free guidance.',
            check=check_guidance,
            parse=parse_guidance,
            metavar="NAME[:KEY=VALUE,...]",
            json={"type": ["string", "object"]},
        ),
    ]
    clip_skip: Annotated[
        int | None,
        Parameter("Last layers of the text encoder to leave out.", 0, minimum=0, maximum=1000),
    ]
    long_prompts: Annotated[
        str,
        Parameter(
            "`truncate` to what the text encoder reads at once, or `chunk`.",
            "truncate",
            choices=LONG_PROMPTS,
        ),
    ]
    prompt_weights: Annotated[
        str,
        Parameter("`none`, or `a1111` for (word:1.3) and [word].", "none", choices=PROMPT_WEIGHTS),
    ]
    strict_prompt: Annotated[
        bool,
        Parameter("Refuse a prompt that would be truncated.", False, recorded=False),
    ]


class ControlParameters(TypedDict, total=False):
    """ControlNets."""

    control: Annotated[
        Sequence[Control],
        Parameter(
            "ControlNets, each with the image that it reads; their outputs are added.",
            (),
            check=check_controls,
            parse=parse_control,
            metavar="NET:IMAGE[:WEIGHT[:START-END]]",
            multiple=True,
            json={"type": "array", "items": {"type": "object"}},
            recorded=False,
        ),
    ]


class StepParameters(TypedDict, total=False):
    """The steps of the sampler."""

    steps: Annotated[int | None, Parameter("Sampler steps.", minimum=1, maximum=MAX_STEPS)]
    schedule: Annotated[
        str | None,
        Parameter(
            "Spacing of the sigmas: leading, linspace, trailing, karras, exponential, beta, "
            "ays, ...",
            metavar="NAME",
        ),
    ]
    sigmas: Annotated[
        Sequence[float] | None,
        Parameter(
            "Noise levels in place of steps and schedule: floats, decreasing, the last 0 "
            "or, to leave noise, more.",
            check=validation.sigmas,
            parse=parse_sigmas,
            metavar="A,B,...",
            json={"type": "array", "items": {"type": "number"}},
        ),
    ]


class BatchParameters(TypedDict, total=False):
    """What goes through the networks at once."""

    batch_size: Annotated[
        int,
        Parameter(
            "Images drawn together. More than one may change the last bits of an image, "
            "and is faster on a GPU.",
            1,
            minimum=1,
            maximum=MAX_COUNT,
            flags=("--batch",),
            recorded=False,
        ),
    ]
    tile: Annotated[
        int | None,
        Parameter(
            "Decode in overlapping tiles of that many pixels a side, to save memory; colours "
            "may drift from tile to tile.",
            minimum=1,
            maximum=MAX_SIDE,
        ),
    ]


class NoiseParameters(TypedDict, total=False):
    """The sampler and its noise."""

    seed: Annotated[
        int | Sequence[int] | None,
        Parameter(
            "Image i has seed + i (modulo 2^64); a list gives each its own. Default: "
            "random, and recorded.",
            check=validation.seeds,
            parse=parse_seeds,
            metavar="N|-1|A,B,C",
            json={"type": ["integer", "array"]},
        ),
    ]
    sampler: Annotated[
        str | Sampler | None,
        Parameter(
            "A name in ldmref.samplers.SAMPLERS (`ldmref samplers`), or a Sampler.",
            metavar="NAME",
            json={"type": "string"},
        ),
    ]
    eta: Annotated[
        float | None,
        Parameter(
            "Fresh noise of ddim, euler_a and other samplers that have an eta.",
            minimum=0.0,
            maximum=1.0,
            metavar="X",
        ),
    ]
    rng: Annotated[
        str,
        Parameter(
            "Source of noise: `philox`; `torch`, with which a seed gives diffusers' image; "
            "`a1111-gpu`, with which it gives A1111's.",
            "philox",
            choices=STREAMS,
            metavar="NAME",
        ),
    ]


class CountParameters(TypedDict, total=False):
    """How many images, and from which noise."""

    count: Annotated[
        int,
        Parameter("Images per prompt.", 1, minimum=1, maximum=MAX_COUNT, flags=("-c", "--count")),
    ]
    latents: Annotated[
        np.ndarray | None,
        Parameter(
            "Unit-variance initial noise (n, c, h, w) in place of the seeds' first draw; on "
            "the command line a .npy file.",
            check=validation.noise,
            parse=read_noise,
            metavar="FILE",
            json={"type": "array"},
            recorded=False,
        ),
    ]


class SizeParameters(TypedDict, total=False):
    """The size of the image."""

    width: Annotated[
        int | None, Parameter("Pixels.", minimum=1, maximum=MAX_SIDE, flags=("-W", "--width"))
    ]
    height: Annotated[
        int | None, Parameter("Pixels.", minimum=1, maximum=MAX_SIDE, flags=("-H", "--height"))
    ]


class ResizeParameters(SizeParameters, total=False):
    """How a given image gets its size."""

    resize: Annotated[
        str, Parameter("How a given image is brought to size.", "crop", choices=RESIZE)
    ]


class SuperresParameters(
    StepParameters, BatchParameters, NoiseParameters, CountParameters, total=False
):
    """Of the modes without a prompt."""


class Txt2ImgParameters(
    PromptParameters,
    EmbeddingParameters,
    ControlParameters,
    SuperresParameters,
    SizeParameters,
    total=False,
):
    """Of txt2img."""


class Img2ImgParameters(Txt2ImgParameters, ResizeParameters, total=False):
    """Of img2img."""


class InpaintParameters(Txt2ImgParameters, total=False):
    """Of inpaint."""

    fill: Annotated[
        str,
        Parameter(
            "What is below the mask before noise is added, which matters below strength 1: "
            "`original`, the image; `noise`, the seed's own first draw; `fill`, the "
            "colours around; `nothing`, latents of 0.",
            "original",
            choices=FILLS,
            metavar="NAME",
        ),
    ]
    only_masked: Annotated[
        bool | None,
        Parameter(
            "Generate the region around the mask alone, scaled to width x height (default: "
            "the model's own size), and paste it back. The image may then have any size. "
            "Default: for models of one size if the image's is far from it, with a warning."
        ),
    ]
    padding: Annotated[
        int,
        Parameter(
            "Pixels around the mask that the model sees with only_masked.",
            32,
            minimum=0,
            maximum=MAX_SIDE,
        ),
    ]
    resample: Annotated[
        tuple[int, int] | None,
        Parameter(
            "RePaint's (jump length, samples), such as (10, 10): denoise each stretch of "
            "that many steps that often, so that the repainted part fits the rest better.",
            check=validation.jumps,
            parse=parse_jumps,
            metavar="LENGTH,SAMPLES",
            json={"type": "array", "items": {"type": "integer"}},
        ),
    ]
    mask_invert: Annotated[bool, Parameter("Repaint the black part instead.", False)]


class InvertParameters(PromptParameters, StepParameters, ResizeParameters, total=False):
    """Of invert."""

    iterations: Annotated[
        int,
        Parameter(
            "Evaluations of the fixed-point iteration that makes a step up the inverse of "
            "the step down; 0 is plain DDIM inversion.",
            5,
            minimum=0,
            maximum=100,
        ),
    ]


class InterpolateParameters(
    PromptParameters,
    ControlParameters,
    StepParameters,
    BatchParameters,
    NoiseParameters,
    SizeParameters,
    total=False,
):
    """Of interpolate."""

    path: Annotated[
        str,
        Parameter(
            "Of the prompts' hidden states: `lerp`, the straight line, or `slerp`.",
            "lerp",
            choices=PATHS,
        ),
    ]


Positions = Annotated[
    int | Sequence[float],
    Parameter(
        "How many images, evenly spaced from 0 to 1, at least 2; or their positions.",
        check=validation.positions,
        parse=parse_positions,
        flags=(),
        metavar="A,B,...",
        json={"type": ["integer", "array"], "items": {"type": "number"}},
    ),
]
