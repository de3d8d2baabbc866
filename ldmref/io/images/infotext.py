"""A1111's text about an image, the infotext: how it is written and taken apart.

Format and names: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/infotext_utils.py,
processing.py, sd_samplers.py and sd_schedulers.py. It is not in `ldmref.apps.a1111`, which says
what the text means for a replay, because every image that `ldmref.io` saves holds it.

Only names that mean the same to A1111 are written without a prefix; the others begin with `ldmref`,
which A1111 does not know. A1111's LMS and UniPC differ from `lms` and `unipc`. Older files of
ldmref call these two "LMS" and "UniPC", so new files use neither word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

A1111_SAMPLERS = {  # by name here: the same method in A1111
    "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun", "pndm": "PLMS",
    "dpm_solver_2": "DPM2", "dpm_solver_2_a": "DPM2 a", "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun", "dpmpp_3m_sde": "DPM++ 3M SDE", "lcm": "LCM",
}  # fmt: skip
A1111_SCHEDULES = {"karras": "Karras", "exponential": "Exponential"}
A1111_RNGS = {"torch": "CPU", "a1111-gpu": "NV"}
A1111_UPSCALERS = {"latent": "Latent", "lanczos": "Lanczos"}
OURS = "ldmref "  # before a name that A1111 does not know
NAME = re.compile(r"[\w \-/]++(:?)")  # as much as there is, and whether it names a value
VALUE = re.compile(r'\s*("(?:\\.|[^\\"])++"(?=,|$)|[^,]*+),?')
NEGATIVE = "Negative prompt:"


def infotext(params: dict[str, Any]) -> str:
    """Return the parameters of one image as A1111 writes them: two prompts, then a line of pairs.

    Names that A1111 does not know, or uses with another meaning, begin with `ldmref`.
    """
    model = params.get("model", {})
    backend = params.get("backend", {})
    vae = model.get("vae", {})
    eta = "Eta DDIM" if params["sampler"] == "ddim" else "Eta"
    pairs = {
        "Steps": params["steps"],
        "Sampler": _name(params["sampler"], A1111_SAMPLERS),
        "Schedule type": _name(params.get("schedule"), A1111_SCHEDULES),
        "CFG scale": _shortest(params["cfg_scale"]),
        "Seed": params.get("seed"),
        "Size": f"{params['width']}x{params['height']}",
        "Model hash": model.get("sha256", "")[:10] or None,
        "Model": model.get("name"),
        "VAE hash": vae.get("sha256", "")[:10] or None,
        "VAE": vae.get("name"),
        "Denoising strength": _shortest(params.get("strength", params.get("upscale_strength"))),
        "Hires upscale": _shortest(params.get("upscale")),
        "Hires steps": params.get("upscale_steps"),
        "Hires upscaler": A1111_UPSCALERS.get(params.get("upscaler", "")),
        "Clip skip": params["clip_skip"] + 1 if params.get("clip_skip") else None,
        "Mask blur": _shortest(params.get("mask_blur")) or None,
        eta: _shortest(params.get("eta")) or None,
        "RNG": _name(params.get("rng"), A1111_RNGS),
        "Backend": backend.get("name"),
        "Version": f"ldmref {params.get('ldmref', '')}".strip(),
    }
    line = ", ".join(f"{key}: {_quote(value)}" for key, value in pairs.items() if value is not None)
    lines = [params["prompt"]]
    if params.get("negative_prompt"):
        lines.append(f"{NEGATIVE} {params['negative_prompt']}")
    return "\n".join([*(text.replace("\0", "") for text in lines), line])


def parse_infotext(text: str) -> dict[str, Any]:
    """Read A1111's text: prompt, negative_prompt and the pairs of the last line by their own names.

    >>> parse_infotext("a cat\\nSteps: 20, Seed: 1, Size: 64x64")["pairs"]["Seed"]
    '1'
    """
    *lines, last = text.strip().split("\n")
    found = [*_find_pairs(last)]
    pairs = {key: _unquote(value) for key, value in found}
    if len(found) < 3:
        lines = [*lines, last]
        pairs = {}
    prompt = []
    negative = []
    in_negative = False
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            in_negative = True
            line = line.removeprefix(NEGATIVE).strip()
        (negative if in_negative else prompt).append(line)
    texts = ("\n".join(part).lstrip("\n") for part in (prompt, negative))
    return dict(zip(("prompt", "negative_prompt"), texts, strict=True)) | {"pairs": pairs}


def _find_pairs(line: str) -> Iterator[tuple[str, str]]:
    r"""Yield names and values as A1111's expression finds them, in one pass.

    The expression is `\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)`. Its search tries every
    letter as the beginning of a name, which takes quadratic time in a text without colons. Here a
    name that is not followed by a colon is skipped as a whole.
    """
    position = 0
    while name := NAME.search(line, position):
        position = name.end()
        key = name[0].removesuffix(":").lstrip(" -/")
        if name[1] and len(key) > 1:
            value = VALUE.match(line, position)
            assert value is not None  # both parts may be empty
            position = value.end()
            yield key, value[1]


def _name(name: str | None, same: dict[str, str]) -> str | None:
    """Return A1111's name for the same thing, or ours with a prefix."""
    return None if not name else same.get(name, OURS + name)


def _shortest(number: float | None) -> float | int | None:
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _quote(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[,\n:]|^"', text) else text


def _unquote(value: str) -> Any:
    if len(value) > 1 and value.startswith('"') and value.endswith('"'):
        with suppress(ValueError):
            return json.loads(value)
    return value
