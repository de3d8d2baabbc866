"""A1111's text about a picture: written, read, and turned into parameters that draw it again.

Its format, and what its values mean there: AUTOMATIC1111/stable-diffusion-webui,
modules/infotext_utils.py, processing.py, sd_schedulers.py and sd_samplers_kdiffusion.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ldmref.errors import InputError, one_line

A1111_SAMPLERS = {
    "ddpm": "DDPM", "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun",
    "lms": "LMS", "pndm": "PLMS", "deis": "DEIS", "dpm_solver_2": "DPM2",
    "dpm_solver_2_a": "DPM2 a", "dpmpp_2s": "DPM++ 2S", "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun", "dpmpp_3m_sde": "DPM++ 3M SDE", "unipc": "UniPC",
    "lcm": "LCM",
}  # fmt: skip
SCHEDULES = {
    "uniform": "linspace", "normal": "linspace", "karras": "karras", "exponential": "exponential",
    "polyexponential": "exponential", "sgm uniform": "trailing", "simple": "trailing",
    "ddim": "leading", "beta": "beta_sigma", "align your steps": "ays",
}  # fmt: skip
AUTOMATIC = {  # what the schedule "Automatic" is, where it is not uniform
    "dpm++ 2m": "karras", "dpm++ sde": "karras", "dpm++ 2s a": "karras", "dpm2": "karras",
    "dpm2 a": "karras", "dpm++ 2m sde": "exponential", "dpm++ 2m sde heun": "exponential",
    "dpm++ 3m sde": "exponential", "ddim": "leading", "plms": "leading",
}  # fmt: skip
OLD_SCHEDULES = {"ddim": "leading", "plms": "leading"}  # else uniform, before "Schedule type"
BROWNIAN = ("dpm++ sde", "dpm++ 2m sde", "dpm++ 3m sde")
SILENT = {"Version", "User", "Backend", "Model", "Model hash"}  # about no pixel, or compared
NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
PROMPT_EDITING = re.compile(r"\[[^\[\]]*[:|][^\[\]]*\]|\b(?:AND|BREAK)\b")
PAIR = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')
NEGATIVE = "Negative prompt:"


def infotext(params: dict[str, Any]) -> str:
    """The parameters of one picture as A1111 writes them: two prompts, then a line of pairs."""
    model, backend = params.get("model", {}), params.get("backend", {})
    vae = model.get("vae", {})
    pairs = {
        "Steps": params["steps"],
        "Sampler": A1111_SAMPLERS.get(params["sampler"], params["sampler"]),
        "Schedule type": params["schedule"].capitalize() if params.get("schedule") else None,
        "CFG scale": _shortest(params["cfg_scale"]),
        "Seed": params.get("seed"),
        "Size": f"{params['width']}x{params['height']}",
        "Model hash": model.get("sha256", "")[:10] or None,
        "Model": model.get("name"),
        "VAE hash": vae.get("sha256", "")[:10] or None,
        "VAE": vae.get("name"),
        "Denoising strength": _shortest(params.get("strength")),
        "Clip skip": params["clip_skip"] + 1 if params.get("clip_skip") else None,
        "Mask blur": _shortest(params.get("mask_blur")) or None,
        "Eta": _shortest(params.get("eta")) or None,
        "RNG": params.get("rng"),
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
    pairs = {key: _unquote(value) for key, value in PAIR.findall(last)}
    if len(PAIR.findall(last)) < 3:
        lines, pairs = [*lines, last], {}
    prompt, negative, in_negative = [], [], False
    for line in lines:
        if line.strip().startswith(NEGATIVE):
            in_negative, line = True, line.strip().removeprefix(NEGATIVE).strip()
        (negative if in_negative else prompt).append(line)
    return {"prompt": "\n".join(prompt), "negative_prompt": "\n".join(negative), "pairs": pairs}


def replay_parameters(text: str) -> tuple[dict[str, Any], list[str]] | None:
    """What A1111's text says about how to draw its picture again, as far as it goes.

    Returns:
        (parameters, notes): parameters as `modes.plan` takes them, not yet checked, with a `mode`,
        and the `model` as a picture records it; notes on what is not exact, one line each. None if
        the text has no line of pairs.

    Raises:
        InputError: a number in it is none.
    """
    parsed = parse_infotext(text)
    pairs: dict[str, Any] = dict(parsed["pairs"])
    if not pairs:
        return None
    notes = ["replayed from text, which is not exact"]
    params: dict[str, Any] = {"mode": _mode(pairs), "prompt": parsed["prompt"],
                              "negative_prompt": parsed["negative_prompt"]}  # fmt: skip
    params["model"] = {"name": pairs.get("Model"), "sha256": pairs.get("Model hash")}
    if any(key.startswith("Hires") for key in pairs):
        notes.append("A1111 enlarged it in a second pass; this is the first, smaller picture")
    if str(pairs.get("Version", "")).startswith("ldmref"):
        schedule, rng = pairs.pop("Schedule type", None), pairs.pop("RNG", None)
        params |= {"schedule": schedule and schedule.lower(), "rng": rng}
    else:
        _as_a1111(params, pairs, notes)
    for key, (name, convert) in VALUES.items():
        if key in pairs and not (key == "Denoising strength" and params["mode"] == "txt2img"):
            params[name] = _converted(key, pairs.pop(key), convert)
    size = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", str(pairs.get("Size", "")))
    if size:
        params |= {"width": int(size[1]), "height": int(size[2])}
        del pairs["Size"]
    rest = [f"{key}: {pairs[key]}"[:80] for key in sorted(pairs) if key not in SILENT]
    if rest:
        notes.append("not repeated: " + ", ".join(rest))
    params = {name: value for name, value in params.items() if value is not None}
    return params, [one_line(note) for note in notes]


VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", int), "Sampler": ("sampler", str), "Seed": ("seed", int),
    "CFG scale": ("cfg_scale", float), "Eta": ("eta", float), "Eta DDIM": ("eta", float),
    "Denoising strength": ("strength", float), "Mask blur": ("mask_blur", float),
    "Clip skip": ("clip_skip", lambda text: int(text) - 1),
}  # fmt: skip


def _mode(pairs: dict[str, Any]) -> str:
    """Which mode wrote the pairs; txt2img with a second pass has a denoising strength, too."""
    if "Denoising strength" not in pairs or any(key.startswith("Hires") for key in pairs):
        return "txt2img"
    return "inpaint" if {"Mask blur", "Masked content", "Inpaint area"} & set(pairs) else "img2img"


def _as_a1111(params: dict[str, Any], pairs: dict[str, Any], notes: list[str]) -> None:
    """Prompt, schedule and noise as A1111 means them."""
    words = params["prompt"] + "\n" + params["negative_prompt"]
    for tag in NETWORK.findall(words):
        notes.append(f"left out of the prompt: {tag[:80]}; add the file as lora=")
    if PROMPT_EDITING.search(NETWORK.sub("", words)):
        notes.append("A1111 reads [a:b:n], [a|b], AND and BREAK in a prompt, ldmref does not")
    for name in ("prompt", "negative_prompt"):
        params[name] = NETWORK.sub("", params[name]).strip()
    params["prompt_weights"] = "a1111"
    if (
        len(re.findall(r"\w+|[^\w\s]", max(params["prompt"], params["negative_prompt"], key=len)))
        > 50
    ):
        params["long_prompts"] = "chunk"  # it may be more than the text encoder reads at once
    params["rng"] = "torch" if pairs.pop("RNG", "GPU") == "CPU" else "a1111-gpu"
    sampler = str(pairs.get("Sampler", "")).lower()
    kind = str(pairs.pop("Schedule type", "")).lower()
    if kind == "automatic":
        params["schedule"] = AUTOMATIC.get(sampler, "linspace")
    elif kind:
        params["schedule"] = SCHEDULES.get(kind)
        if kind not in SCHEDULES:
            notes.append(f"no schedule {kind[:40]!r} here: drawn with the model's own")
    elif not sampler.endswith((" karras", " exponential")):
        params["schedule"] = OLD_SCHEDULES.get(sampler, "linspace")
    if sampler.startswith(BROWNIAN):
        notes.append("A1111 draws this sampler's noise from a Brownian tree: another picture")


def _converted(key: str, text: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(text)
    except ValueError:
        what = f"{key} in the picture's text is no number: {str(text)[:80]!r}"
        raise InputError(what, code="E-REPLAY") from None


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
