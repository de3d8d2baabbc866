"""What a command reads: the prompt, the picture and the mask that flags or standard input give."""

from __future__ import annotations

import io
import sys
from typing import Any

from ldmref.errors import UsageError
from ldmref.io.images import read_mask
from ldmref.models.config import ModelConfig
from ldmref.modes.masked import picture_and_size
from ldmref.modes.picture import mask_of, sized_picture
from ldmref.modes.request import resolve


def read_prompt(words: str | None, prompt: str | None) -> str:
    """The prompt of the flag or the bare argument; `-` is standard input."""
    if words is not None and prompt is not None:
        raise UsageError(
            "the prompt is given twice", code="E-USAGE", hint="use -p or a bare prompt, not both"
        )
    text = words if prompt is None else prompt
    if text is None:
        raise UsageError("no prompt", code="E-USAGE", hint='ldmref txt2img "red heart"')
    if text != "-":
        return text
    try:
        return standard_input().decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError("the prompt on standard input is no UTF-8", code="E-PROMPT") from error


def standard_input() -> bytes:
    """All of standard input."""
    if sys.stdin is None or sys.stdin.closed:
        raise UsageError("standard input is closed", code="E-USAGE")
    return sys.stdin.buffer.read()


def read_sources(
    mode: str, config: ModelConfig, prompt: str, asked: dict[str, Any], flags: dict[str, Any]
) -> dict[str, Any]:
    """The pictures that a mode starts from, found to fit each other and the model."""
    if mode == "txt2img":
        return {}
    image = io.BytesIO(standard_input()) if flags["image"] == "-" else flags["image"]
    if mode == "img2img":
        size = asked["width"], asked["height"]
        picture, _ = sized_picture(config, image, *size, flags["resize"])
        asked = asked | dict(zip(("width", "height"), picture.size, strict=True))
        resolve(config, mode, prompt, **asked)
        return {"image": rewound(image), "resize": flags["resize"]}
    size = asked["width"], asked["height"]
    picture, _ = picture_and_size(config, image, asked["only_masked"], *size)
    mask = read_mask(flags["mask"])
    if flags["mask_invert"]:
        mask = mask.point(lambda value: 255 - value)
    mask_of(mask, picture, 0.0)
    return {"image": picture, "mask": mask}


def rewound(source: Any) -> Any:
    """The same source, ready to be read once more."""
    if isinstance(source, io.BytesIO):
        source.seek(0)
    return source
