"""Pictures that know how they were made: A1111's `parameters` text and exact JSON in `ldmref`.

PNG has a chunk for each. JPEG and WebP have EXIF: the text as user comment, where A1111 writes it,
the JSON as maker note, which EXIF leaves to the program that made the picture.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldmref.errors import OutputError
from ldmref.io.atomic import whole_file
from ldmref.io.pictures.images import open_image

_A1111_SAMPLERS = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "lms": "LMS",
    "pndm": "PLMS",
    "deis": "DEIS",
    "dpm_solver_2": "DPM2",
    "dpm_solver_2_a": "DPM2 a",
    "dpmpp_2s": "DPM++ 2S",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun",
    "dpmpp_3m_sde": "DPM++ 3M SDE",
    "unipc": "UniPC",
    "lcm": "LCM",
}
EXIF_IFD, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
NOTE = b"ldmref\0"  # before the JSON, UTF-8
MAX_EXIF = 65_500  # bytes in a JPEG
_FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}


def infotext(params: dict[str, Any]) -> str:
    """The parameters of one picture as A1111 writes them: two prompts, then a line of pairs."""
    model, backend = params.get("model", {}), params.get("backend", {})
    pairs = {
        "Steps": params["steps"],
        "Sampler": _A1111_SAMPLERS.get(params["sampler"], params["sampler"]),
        "Schedule type": params["schedule"].capitalize(),
        "CFG scale": _plain(params["cfg_scale"]),
        "Seed": params["seed"],
        "Size": f"{params['width']}x{params['height']}",
        "Model hash": model.get("sha256", "")[:10] or None,
        "Model": model.get("name"),
        "VAE hash": model.get("vae", {}).get("sha256", "")[:10] or None,
        "VAE": model.get("vae", {}).get("name"),
        "Denoising strength": _plain(params.get("strength")),
        "Clip skip": params["clip_skip"] + 1 if params.get("clip_skip") else None,
        "Mask blur": _plain(params.get("mask_blur")) if params.get("mask_blur") else None,
        "Eta": _plain(params.get("eta")) if params.get("eta") else None,
        "RNG": params.get("rng"),
        "Backend": backend.get("name"),
        "Version": f"ldmref {params.get('ldmref', '')}".strip(),
    }
    line = ", ".join(f"{key}: {_quote(value)}" for key, value in pairs.items() if value is not None)
    lines = [_strip(params["prompt"])]
    if params.get("negative_prompt"):
        lines.append(f"Negative prompt: {_strip(params['negative_prompt'])}")
    return "\n".join([*lines, line])


def parse_infotext(text: str) -> dict[str, Any]:
    """Read A1111's text: prompt, negative_prompt and the pairs of the last line by their own names.

    >>> parse_infotext("a cat\\nSteps: 20, Seed: 1, Size: 64x64")["pairs"]["Seed"]
    '1'
    """
    *lines, last = text.strip().split("\n")
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    if len(found) < 3:
        lines, found = [*lines, last], []
    pairs = {}
    for key, value in found:
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            try:
                value = json.loads(value)
            except ValueError:
                pass
        pairs[key] = value
    prompt, negative, in_negative = [], [], False
    for line in lines:
        if line.strip().startswith("Negative prompt:"):
            in_negative, line = True, line.strip()[len("Negative prompt:") :].strip()
        (negative if in_negative else prompt).append(line)
    return {"prompt": "\n".join(prompt), "negative_prompt": "\n".join(negative), "pairs": pairs}


def write_picture(
    path: Path, image: Image.Image, params: dict[str, Any] | None, *, overwrite: bool = False
) -> None:
    """Write a picture with its parameters; the file appears whole or not at all.

    Raises:
        OutputError: the file exists, its folder does not, or it cannot be written.
    """
    kind = check_target(path, overwrite=overwrite)
    with whole_file(path, overwrite=overwrite) as file:
        save_image(file, image, kind, params)


def save_image(file: Any, image: Image.Image, kind: str, params: dict[str, Any] | None) -> None:
    """Encode a picture into an open binary file.

    In a JPEG, where EXIF is short, the JSON of prompts of many thousand letters is left out.
    """
    if kind == "PNG":
        info = PngInfo()
        if params is not None:
            text = infotext(params)
            latin = text.encode("latin-1", "ignore").decode("latin-1") == text
            (info.add_text if latin else info.add_itxt)("parameters", text)
            info.add_text("ldmref", json.dumps(params, sort_keys=True))
        image.save(file, "PNG", pnginfo=info)
        return
    options: dict[str, Any] = {"quality": 95} if kind == "JPEG" else {"lossless": True}
    if params is not None:
        exif = Image.Exif()
        ifd = exif.get_ifd(EXIF_IFD)
        ifd[USER_COMMENT] = b"UNICODE\0" + infotext(params).encode("utf-16-be")
        ifd[MAKER_NOTE] = NOTE + json.dumps(params, sort_keys=True, ensure_ascii=False).encode()
        if kind == "JPEG" and len(exif.tobytes()) > MAX_EXIF:
            del ifd[MAKER_NOTE]
        options["exif"] = exif
    image.save(file, kind, **options)


def check_target(path: Path, *, overwrite: bool) -> str:
    """Refuse a path that cannot be written, before any work is done for it; returns the format."""
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise OutputError(
            f"unknown picture format {path.suffix!r}",
            code="E-FORMAT",
            hint="use " + ", ".join(_FORMATS),
        )
    if not path.parent.is_dir():
        raise OutputError(
            f"the folder {str(path.parent)!r} does not exist",
            code="E-FOLDER",
            hint="create it first",
        )
    if path.is_dir():
        raise OutputError(f"{str(path)!r} is a folder", code="E-EXISTS", hint="name a file in it")
    if path.exists() and not overwrite:
        raise OutputError(f"{str(path)!r} exists", code="E-EXISTS", hint="add --overwrite")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"cannot write into {str(path.parent)!r}", code="E-WRITE")
    return kind


def read_parameters(source: str | Path) -> dict[str, Any]:
    """What a picture says of itself: `ldmref` (exact) and `parameters` (A1111's text), if there."""
    image = open_image(source)
    found: dict[str, Any] = {}
    ifd = image.getexif().get_ifd(EXIF_IFD)
    note = ifd.get(MAKER_NOTE)
    told = image.info.get("ldmref")
    if told is None and isinstance(note, bytes) and note.startswith(NOTE):
        told = note.removeprefix(NOTE)
    if told is not None:
        try:
            found["ldmref"] = json.loads(told)
        except (ValueError, TypeError, RecursionError):
            pass
    if isinstance(image.info.get("parameters"), str):
        found["parameters"] = image.info["parameters"]
    else:
        comment = ifd.get(USER_COMMENT)
        if isinstance(comment, bytes) and comment.startswith(b"UNICODE\0"):
            found["parameters"] = comment[8:].decode("utf-16-be", "replace")
    return found


def _plain(number: float | None) -> Any:
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r"[,\n:]", text) else text


def _strip(text: str) -> str:
    return text.replace("\0", "")
