"""A1111's text about an image: written, read, and turned into parameters that replay the image.

Format and meaning: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/infotext_utils.py,
processing.py, sd_samplers.py, sd_schedulers.py and sd_samplers_kdiffusion.py.

Only names that mean the same to A1111 are written without a prefix; the others begin with `ldmref`,
which A1111 does not know. A1111's LMS and UniPC differ from `lms` and `unipc`. Older files of
ldmref call these two "LMS" and "UniPC", so new files use neither word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from ldmref.errors import InputError, one_line

A1111_SAMPLERS = {  # by name here: the same method in A1111
    "ddim": "DDIM", "euler": "Euler", "euler_a": "Euler a", "heun": "Heun", "pndm": "PLMS",
    "dpm_solver_2": "DPM2", "dpm_solver_2_a": "DPM2 a", "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE", "dpmpp_2m": "DPM++ 2M", "dpmpp_2m_sde": "DPM++ 2M SDE",
    "dpmpp_2m_sde_heun": "DPM++ 2M SDE Heun", "dpmpp_3m_sde": "DPM++ 3M SDE", "lcm": "LCM",
}  # fmt: skip
READ = {label.lower(): name for name, label in A1111_SAMPLERS.items()} | {
    "lms": "lms_euler",
    "unipc": "unipc_3",
}
A1111_SCHEDULES = {"karras": "Karras", "exponential": "Exponential"}
A1111_RNGS = {"torch": "CPU", "a1111-gpu": "NV"}
OURS = "ldmref "  # before a name that A1111 does not know
SUFFIXES = (" karras", " exponential", " polyexponential")  # of samplers, before "Schedule type"
SILENT = {"Version", "User", "Backend", "Model", "Model hash"}  # without effect, or noted
NETWORK = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
PROMPT_EDITING = re.compile(r"\[[^\[\]:|]*[:|][^\[\]]*\]|\bAND\b")
BRACKETS = re.compile(r"\\.|[()\[\]]|\bBREAK\b")
BREAK = re.compile(r"\bBREAK\b")
A1111_VERSION = re.compile(r"v?1\.(?:9|10)\.")
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
        "Denoising strength": _shortest(params.get("strength")),
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


def replay_parameters(text: str) -> tuple[dict[str, Any], list[str]] | None:
    """Return what A1111's text says about sampling its image again.

    Returns:
        (parameters, notes). The parameters are as `modes.plan` takes them, not yet checked, with a
        `mode`, the `model` as an image records it, and, if A1111 wrote the text, `a1111`: the
        settings that its noise levels depend on. The notes, one line each, list what is not exact.
        None if the text has no line of pairs.

    Raises:
        InputError: A value that should be a number is not one.
    """
    parsed = parse_infotext(text)
    pairs: dict[str, Any] = dict(parsed["pairs"])
    if not pairs:
        return None
    notes: list[str] = []
    params: dict[str, Any] = {
        "mode": _mode(pairs),
        "prompt": parsed["prompt"],
        "negative_prompt": parsed["negative_prompt"],
    }
    params["model"] = {"name": pairs.get("Model"), "sha256": pairs.get("Model hash")}
    if any(key.startswith("Hires") for key in pairs):
        notes.append("A1111 enlarged it in a second pass; this is the first, smaller image")
    if str(pairs.get("Version", "")).startswith("ldmref"):
        _as_ours(params, pairs, notes)
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
    "Steps": ("steps", int), "Seed": ("seed", int), "CFG scale": ("cfg_scale", float),
    "Eta": ("eta", float), "Eta DDIM": ("eta", float), "Denoising strength": ("strength", float),
    "Mask blur": ("mask_blur", float), "Clip skip": ("clip_skip", lambda text: int(text) - 1),
}  # fmt: skip


def _mode(pairs: dict[str, Any]) -> str:
    """Return the mode that wrote the pairs; txt2img with a second pass also has a strength."""
    if "Denoising strength" not in pairs or any(key.startswith("Hires") for key in pairs):
        return "txt2img"
    return "inpaint" if {"Mask blur", "Masked content", "Inpaint area"} & set(pairs) else "img2img"


def _as_ours(params: dict[str, Any], pairs: dict[str, Any], notes: list[str]) -> None:
    """Read sampler, schedule and noise as ldmref writes them, with or without its prefix."""
    notes.insert(0, "replayed from text, which is not exact")
    sampler, schedule, rng = (pairs.pop(key, None) for key in ("Sampler", "Schedule type", "RNG"))
    if schedule is None:
        notes.append("its noise levels are not in the text: those of the model are used")
    noise = {label: name for name, label in A1111_RNGS.items()}
    params["sampler"] = sampler and sampler.removeprefix(OURS)
    params["schedule"] = schedule and schedule.removeprefix(OURS).lower()
    params["rng"] = rng and noise.get(rng, rng.removeprefix(OURS))


def _as_a1111(params: dict[str, Any], pairs: dict[str, Any], notes: list[str]) -> None:
    """Read prompt, sampler, noise levels and noise as A1111 means them."""
    notes.insert(
        0,
        "replayed from text, which is not exact: read as of A1111 1.10, with the "
        "defaults of all options that it does not record",
    )
    version = str(pairs.get("Version", ""))
    if version and not A1111_VERSION.match(version):
        notes.append(f"made by version {version[:40]}, which may differ from 1.10")
    _prompts_of_a1111(params, notes)
    cpu = pairs.pop("RNG", "GPU") == "CPU"
    params["rng"] = "torch" if cpu else "a1111-gpu"
    if cpu and params["mode"] != "txt2img":
        notes.append(
            "RNG CPU: rng torch encodes the image with the seed's first numbers, of which "
            "A1111 makes the noise: another image"
        )
    label = str(pairs.pop("Sampler", "")).strip()
    kind = str(pairs.pop("Schedule type", "")).lower().replace("_", " ")
    sampler = label.lower()
    suffix = next((x for x in SUFFIXES if sampler.endswith(x)), "")
    sampler = sampler.removesuffix(suffix)
    params["sampler"] = READ.get(sampler, sampler) or None
    beta = [_shape(pairs, f"Beta schedule {name}") for name in ("alpha", "beta")]
    params["a1111"] = {
        "label": label,
        "unknown": sampler not in READ,
        "schedule": suffix.strip() or kind or "uniform",
        "beta": beta,
        "discard": _flag(pairs, "Discard penultimate sigma"),
        "padded": _flag(pairs, "Pad conds"),
        "scaled": _flag(pairs, "SGM noise multiplier"),
    }


def _prompts_of_a1111(params: dict[str, Any], notes: list[str]) -> None:
    """Remove networks from the prompts, and note what ldmref reads differently."""
    for name in ("prompt", "negative_prompt"):
        for tag in NETWORK.findall(params[name]):
            notes.append(f"left out of the prompt: {tag[:80]}; add the file as lora=")
        params[name] = NETWORK.sub("", params[name]).strip()
    both = params["prompt"], params["negative_prompt"]
    if any(PROMPT_EDITING.search(words) for words in both):
        notes.append("A1111 reads [a:b:n], [a|b] and AND in a prompt, ldmref does not")
    if any(_break_in_brackets(words) for words in both):
        notes.append("BREAK within brackets is text in A1111, and a break here")
    params["prompt_weights"] = "a1111"


def _break_in_brackets(words: str) -> bool:
    depth = 0
    for token in BRACKETS.findall(words):
        if token in "([":
            depth += 1
        elif token in ")]":
            depth = max(0, depth - 1)
        elif token == "BREAK" and depth:
            return True
    return False


def _shape(pairs: dict[str, Any], key: str) -> float:
    """Return a shape of the Beta distribution; one outside A1111's range is not repeated."""
    with suppress(ValueError):
        shape = float(pairs.get(key, 0.6))
        if 0.01 <= shape <= 1.0:
            pairs.pop(key, None)
            return shape
    return 0.6


def _flag(pairs: dict[str, Any], key: str) -> bool:
    """Return whether an option is set; any other value than True is not repeated."""
    if pairs.get(key) != "True":
        return False
    del pairs[key]
    return True


def _name(name: str | None, same: dict[str, str]) -> str | None:
    """Return A1111's name for the same thing, or ours with a prefix."""
    return None if not name else same.get(name, OURS + name)


def _converted(key: str, text: str, convert: Callable[[str], Any]) -> Any:
    try:
        return convert(text)
    except ValueError:
        what = f"{key} in the image's text is not a number: {str(text)[:80]!r}"
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
