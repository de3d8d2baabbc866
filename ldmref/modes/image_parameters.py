"""The images that modes are given: to change, a mask, a map, to control; and how they are used.

As in `parameters.py`, each is declared once; `requests.py` makes fields of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import numpy as np

from ldmref.declare import Attachment, Check, Doc, Flag, Range
from ldmref.io.images.pil import Source
from ldmref.modes.control import CONTROLS, Control, check_controls, parse_control
from ldmref.modes.parameters import FILE, Unrecorded, accept
from ldmref.modes.references import MAX_REFERENCES, list_references

Resize = Literal["crop", "stretch", "fill"]
Fill = Literal["original", "noise", "fill", "nothing"]
FILLS = get_args(Fill)

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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ControlParameter:
    """ControlNets, and the image that some models read without one."""

    control: Annotated[
        Sequence[Control],
        Check(check_controls, CONTROLS),
        Attachment("controlnet"),
        Flag(
            metavar="NET:IMAGE[:WEIGHT[:START-END[:MODE]]]",
            parse=parse_control,
            multiple=True,
            help="A ControlNet and the image that it reads; may be repeated. In inpaint, an "
            "inpainting ControlNet is given without an image, as NET or NET::WEIGHT.",
        ),
        Unrecorded(),
        Doc("ControlNets, each with the image that it reads; their outputs are added."),
    ] = ()
    control_image: Annotated[
        Source | np.ndarray | None,
        Check(accept, FILE),
        Attachment("image"),
        Flag(metavar="FILE"),
        Unrecorded(),
        Doc(
            "The edges, depths or other image that a model like Flux.1 [Canny] or [Depth] reads "
            "beside the prompt.",
            "for all other models",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ReferencesParameter:
    """The images that some models read beside the prompt, without keeping their place."""

    references: Annotated[
        Sequence[Source | np.ndarray],
        Check(list_references, {"type": "array", "items": FILE, "maxItems": MAX_REFERENCES}),
        Attachment("images"),
        Flag(
            ("--reference",),
            "FILE",
            multiple=True,
            help="An image that a model such as FLUX.2 or Flux.1 Kontext reads beside the prompt; "
            "may be repeated, and the prompt may count them in this order.",
        ),
        Unrecorded(),
        Doc(
            "Images that a model such as FLUX.2 or Flux.1 Kontext reads beside the prompt, which "
            "may count them in this order; other models refuse them."
        ),
    ] = ()
