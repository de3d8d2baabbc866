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
SECTIONS = {  # what a line begins with -> where it belongs
    NEGATIVE: "negative_prompt",
    "Template:": "Template",
    "Negative template:": "Negative template",
}
TEMPLATES = ("Template:", "Negative Template:", "Negative template:")  # after the line of pairs
SD_CPP = "Version: stable-diffusion.cpp"
LIST = re.compile(r": (\[[^\]\"]*\])")


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
    """Read A1111's text: prompt, negative_prompt and the pairs of its line by their own names.

    The line is the last one, or stands before the templates that extensions add. It has at least
    three pairs, among them `Steps` and `Seed` (ours: `Steps` and `Version`); a text without such a
    line, such as another program's JSON, is a prompt alone. SD.Next's `Template:` and `Negative
    template:` are pairs as well.

    >>> parse_infotext("a cat\\nSteps: 20, Seed: 1, Size: 64x64")["pairs"]["Seed"]
    '1'
    """
    lines = text.strip().split("\n")
    end, pairs = _find_line(lines) if not _is_json(text) else (len(lines), {})
    sections: dict[str, list[str]] = {"prompt": []}
    section = "prompt"
    for line in map(str.strip, lines[:end]):
        start = next((name for name in _section_starts(pairs) if line.startswith(name)), "")
        if start:
            section = SECTIONS[start]
            line = line.removeprefix(start).strip()
        sections.setdefault(section, []).append(line)
    if pairs and end + 1 < len(lines):
        sections["Template"] = "\n".join(lines[end + 1 :]).removeprefix("Template:").split("\n")
    texts = {name: "\n".join(part).lstrip("\n") for name, part in sections.items()}
    found = {name: texts.pop(name, "") for name in ("prompt", "negative_prompt")}
    return found | {"pairs": pairs | texts}


def _find_line(lines: list[str]) -> tuple[int, dict[str, Any]]:
    """Return the index of the line of pairs, and these; the number of lines and {} without one."""
    followed = (i for i, line in enumerate(lines) if i and line.startswith(TEMPLATES))
    for i in (len(lines) - 1, *(start - 1 for start in followed)):
        pairs = _read_line(lines[i])
        if pairs:
            return i, pairs
    return len(lines), {}


def _read_line(line: str) -> dict[str, Any]:
    """Return the pairs of a line that records how an image was made; {} for any other line."""
    if "Steps" not in line:
        return {}
    pairs = {key: _unquote(value) for key, value in _find_pairs(_plain(line))}
    if not _records(pairs) and "|" in line:  # some versions of SD.Next part them so
        parts = (part.partition(":") for part in line.split("|"))
        pairs = {key.strip(): value.strip() for key, colon, value in parts if colon}
    return pairs if _records(pairs) else {}


def _records(pairs: dict[str, Any]) -> bool:
    ours = str(pairs.get("Version", "")).startswith(OURS.strip())
    return len(pairs) >= 3 and "Steps" in pairs and ("Seed" in pairs or ours)


def _plain(line: str) -> str:
    """Return a line of stable-diffusion.cpp with its lists in quotes, and without its JSON.

    Other programs quote a value that has a comma.
    """
    if SD_CPP not in line:
        return line
    return LIST.sub(r': "\1"', line.partition(", SDCPP: {")[0])


def _section_starts(pairs: dict[str, Any]) -> tuple[str, ...]:
    return tuple(SECTIONS) if pairs.get("App") == "SD.Next" else (NEGATIVE,)


def _is_json(text: str) -> bool:
    if not text.lstrip().startswith("{"):
        return False
    with suppress(ValueError, RecursionError):
        return isinstance(json.loads(text), dict)
    return False


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
