"""Rows 48 and 60 to 79: images, masks and metadata."""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fault_cases import PYTHON, TINY, Case, case, command
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from ldmref.errors import ImageError, InputError, UsageError

Make = Callable[[Path], Path]
RNG_SEED = 0


def pixels(height: int = 16, width: int = 16, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(RNG_SEED).integers(0, 256, (height, width, channels), np.uint8)


def image_file(
    mode: str = "RGB", size: tuple[int, int] = (16, 16), ending: str = ".png", **options: Any
) -> Make:
    """A file of noise in a Pillow mode; a fresh name for each call in one folder."""

    def make(folder: Path) -> Path:
        path = folder / f"image-{len(list(folder.iterdir()))}{ending}"
        if mode == "I;16":
            image = Image.fromarray(pixels(*size[::-1], 1)[..., 0].astype(np.uint16) * 257)
        elif mode == "F":
            image = Image.fromarray(pixels(*size[::-1], 1)[..., 0].astype(np.float32) / 255)
        else:
            image = Image.fromarray(pixels(size[1], size[0])).convert(mode)
        image.save(path, **options)
        return path

    return make


def mask(
    box: tuple[int, int, int, int] = (0, 0, 16, 8),
    size: tuple[int, int] = (16, 16),
    mode: str = "L",
) -> Make:
    """White in a box, black elsewhere."""

    def make(folder: Path) -> Path:
        image = Image.new("L", size)
        image.paste(255, box)
        path = folder / f"mask-{len(list(folder.iterdir()))}.png"
        image.convert(mode).save(path)
        return path

    return make


def painted(folder: Path) -> Path:
    """Return a mask as transparency."""
    image = Image.new("RGBA", (16, 16), (9, 9, 9, 0))
    image.paste((200, 0, 0, 255), (0, 0, 8, 8))
    path = folder / "painted.png"
    image.save(path)
    return path


def changed(change: Callable[[bytes], bytes], ending: str = ".png") -> Make:
    """An image whose bytes are changed."""

    def make(folder: Path) -> Path:
        path = image_file(ending=ending)(folder)
        path.write_bytes(change(path.read_bytes()))
        return path

    return make


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_size(width: int, height: int) -> Callable[[bytes], bytes]:
    """A PNG whose header claims another size."""

    def change(content: bytes) -> bytes:
        head = struct.pack(">II", width, height) + content[24:29]
        return content[:8] + chunk(b"IHDR", head) + content[33:]

    return change


def with_bomb(content: bytes) -> bytes:
    text = zlib.compress(b"\0" * 8_000_000)
    return content[:33] + chunk(b"zTXt", b"parameters\0\0" + text) + content[33:]


def flipped(content: bytes) -> bytes:
    middle = content.index(b"IDAT") + 10
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


def animated(ending: str) -> Make:
    def make(folder: Path) -> Path:
        frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "green")]
        path = folder / f"animated{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=50)
        return path

    return make


def text_file(name: str, content: bytes = b"no image") -> Make:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


def recorded(**changes: Any) -> Make:
    """An image that records a request."""

    def make(folder: Path) -> Path:
        record = {
            "mode": "txt2img",
            "prompt": "cat",
            "negative_prompt": "",
            "steps": 1,
            "seed": 0,
            "width": 16,
            "height": 16,
            "cfg_scale": 2.0,
            "sampler": "euler",
        }
        info = PngInfo()
        info.add_text("ldmref", json.dumps(record | changes))
        path = folder / "recorded.png"
        Image.new("RGB", (16, 16)).save(path, pnginfo=info)
        return path

    return make


def recorded_text(text: str, key: str = "ldmref") -> Make:
    def make(folder: Path) -> Path:
        info = PngInfo()
        info.add_text(key, text)
        path = folder / "recorded.png"
        Image.new("RGB", (16, 16)).save(path, pnginfo=info)
        return path

    return make


def icc(folder: Path) -> Path:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    path = folder / "icc.png"
    Image.fromarray(pixels()).save(path, icc_profile=profile.tobytes())
    return path


def img2img(row: int, title: str, error: Any = None, code: str = "", **parameters: Any) -> Case:
    return case(
        row,
        title,
        error,
        code,
        mode="img2img",
        **{"image": image_file(), "strength": 1.0} | parameters,
    )


def inpaint(row: int, title: str, error: Any = None, code: str = "", **parameters: Any) -> Case:
    return case(
        row,
        title,
        error,
        code,
        mode="inpaint",
        **{"image": image_file(), "mask": mask()} | parameters,
    )


def replay(title: str, error: Any, code: str, make: Make, *flags: Any) -> Case:
    return command(71, title, error, code, "run", "--from", make, "-m", *(flags or (TINY,)))


IMAGES: list[Case] = [
    img2img(48, "0", warns=True, strength=0.0),
    img2img(48, "1", strength=1.0),
    img2img(48, "below a step", UsageError, "E-STRENGTH", strength=0.1, steps=4),
    *(img2img(48, title, UsageError, "E-STRENGTH", strength=value) for title, value in
      {"-0.1": -0.1, "1.1": 1.1, "NaN": math.nan, "infinite": math.inf}.items()),
    inpaint(49, "mask blur -1", UsageError, "E-MASK-BLUR", mask_blur=-1.0),
    inpaint(49, "mask blur 10^9", UsageError, "E-MASK-BLUR", mask_blur=1e9),
    inpaint(49, "padding -1", UsageError, "E-PADDING", padding=-1, only_masked=True),
    inpaint(49, "resample 0", UsageError, "E-RESAMPLE-JUMP-LENGTH", resample=(0, 0)),
    img2img(60, "16 bits", image=image_file("I;16")),
    img2img(61, "mode F as a TIFF", ImageError, "E-IMAGE", image=image_file("F", ending=".tiff")),
    img2img(61, "NaN", ImageError, "E-IMAGE-RANGE", only=PYTHON,
            image=np.full((16, 16, 3), np.nan)),
    img2img(61, "array in [0, 1]", only=PYTHON, image=pixels() / np.float32(255)),
    *(img2img(62, mode, image=image_file(mode)) for mode in ("RGBA", "LA")),
    img2img(62, "palette", image=image_file("P", transparency=0)),
    img2img(63, "CMYK", image=image_file("CMYK", ending=".jpg")),
    *(img2img(63, mode, image=image_file(mode)) for mode in ("L", "1", "P")),
    img2img(63, "LAB profile", image=icc),
    *(img2img(65, ending, warns=True, image=animated(ending)) for ending in (".webp", ".png")),
    img2img(65, "GIF", ImageError, "E-IMAGE", image=animated(".gif")),
    img2img(66, "20,000 x 20,000", ImageError, "E-IMAGE-SIZE",
            image=changed(with_size(20_000, 20_000))),
    img2img(66, "8,001 x 8,000", ImageError, "E-IMAGE-SIZE",
            image=changed(with_size(8_001, 8_000))),
    img2img(66, "2^31 x 2^31", ImageError, "E-IMAGE-SIZE",
            image=changed(with_size(2**31 - 1, 2**31 - 1))),
    *(img2img(67, ending, ImageError, "E-IMAGE", image=image_file(ending=ending))
      for ending in (".bmp", ".tiff", ".eps", ".ppm")),
    img2img(67, "SVG", ImageError, "E-IMAGE", image=text_file("a.svg", b"<svg xmlns='x'/>")),
    img2img(68, "truncated", ImageError, "E-IMAGE", image=changed(lambda content: content[:-30])),
    img2img(68, "truncated JPEG", ImageError, "E-IMAGE",
            image=changed(lambda content: content[: len(content) // 2], ".jpg")),
    img2img(68, "empty", ImageError, "E-IMAGE", image=text_file("a.png", b"")),
    img2img(68, "text", ImageError, "E-IMAGE", image=text_file("a.png")),
    img2img(68, "flipped byte", ImageError, "E-IMAGE", image=changed(flipped)),
    img2img(69, "1 x 1", image=image_file(size=(1, 1)), warns=True),
    img2img(69, "0 x 5", ImageError, "E-IMAGE", image=changed(with_size(0, 5))),
    img2img(69, "array without pixels", ImageError, "E-IMAGE", only=PYTHON,
            image=np.zeros((0, 5, 3), np.uint8)),
    img2img(70, "zTXt of 8 MB", ImageError, "E-IMAGE", image=changed(with_bomb)),
    *(replay(title, UsageError, code, recorded(**changes)) for title, code, changes in (
        ("steps 10^9", "E-STEPS", {"steps": 10**9}), ("width 10^9", "E-WIDTH", {"width": 10**9}),
        ("steps as a list", "E-STEPS", {"steps": [1]}), ("seed as text", "E-SEED", {"seed": "x"}),
        ("unknown sampler", "E-SAMPLER", {"sampler": "__import__('os')"}),
        ("unknown mode", "E-REPLAY", {"mode": "__proto__"}),
        ("prompt as a number", "E-REPLAY", {"prompt": 7}),
        ("prompt of 1 MB", "E-PROMPT-LENGTH", {"prompt": "a" * 10**6}),
        ("noise that is missing", "E-REPLAY", {"latents": ["0" * 64]}),
    )),
    replay("a path as model", InputError, "E-MODEL", recorded(model={"name": "/etc/passwd"}),
           "gone"),
    replay("deep JSON", UsageError, "E-REPLAY", recorded_text("[" * 100_000)),
    replay("no JSON", UsageError, "E-REPLAY", recorded_text("{'mode': 'txt2img'}")),
    replay("nothing", UsageError, "E-REPLAY", image_file()),
    replay("text file", ImageError, "E-IMAGE", text_file("a.png")),
    inpaint(72, "smaller", warns=True, mask=mask(size=(8, 8))),
    inpaint(72, "turned", warns=True, image=image_file(size=(16, 24)), mask=mask(size=(24, 16))),
    *(inpaint(73, mode, mask=mask(mode=mode)) for mode in ("RGB", "1", "P", "LA")),
    inpaint(73, "transparency", warns=True, mask=painted),
    inpaint(73, "inverted", mask=mask(), mask_invert=True),
    inpaint(73, "boolean array", only=PYTHON, mask=np.eye(16, dtype=bool)),
    inpaint(74, "all black", warns=True, mask=mask((0, 0, 0, 0))),
    inpaint(74, "all white", mask=mask((0, 0, 16, 16))),
    inpaint(75, "1 pixel: its latent cell is repainted", mask=mask((5, 5, 6, 6))),
    inpaint(75, "1 pixel that vanishes", warns=True, rng="torch", mask=mask((5, 5, 6, 6))),
    inpaint(77, "1 pixel at the corner", mask=mask((15, 15, 16, 16)), only_masked=True),
    inpaint(77, "empty", warns=True, mask=mask((0, 0, 0, 0)), only_masked=True),
    inpaint(77, "padding beyond the image", mask=mask(), only_masked=True, padding=8192),
    *(img2img(78, title, ImageError, "E-IMAGE-MISSING", image=source) for title, source in {
        "URL": "http://localhost/a.png", "file URL": "file:///etc/passwd", "command": "|id",
        "missing": "gone.png", "folder": "/",
    }.items()),
    img2img(78, "NUL", ImageError, "E-IMAGE-MISSING", only=PYTHON, image="a\0b.png"),
    img2img(78, "endless", ImageError, "E-IMAGE-MISSING", image="x" * 100_000),
    img2img(78, "None", ImageError, "E-IMAGE", only=PYTHON, image=None),
    img2img(78, "a list", ImageError, "E-IMAGE", only=PYTHON, image=[1, 2]),
    *(case(79, title, prompt=text) for title, text in {
        "path": "../../x", "absolute": "/etc/passwd", "device": "CON", "hyphen": "-rf",
        "long": "x" * 900, "emoji alone": "❤️", "dots": "..", "backslash": "..\\..\\x",
    }.items()),
]  # fmt: skip
