"""A1111's text about an image, the infotext, turned into parameters that replay the image.

Meaning: AUTOMATIC1111/stable-diffusion-webui 1.10, modules/infotext_utils.py, processing.py,
sd_samplers.py, sd_schedulers.py and sd_samplers_kdiffusion.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ldmref.apps.a1111.names import is_of_a1111, split_sampler
from ldmref.apps.a1111.programs import SD_CPP, SD_NEXT, Program, find_program, rename_pairs
from ldmref.apps.a1111.prompts import prompt_notes, split_networks
from ldmref.apps.a1111.second_pass import read_second_pass
from ldmref.errors import InputError, one_line
from ldmref.io.images.infotext import A1111_RNGS, OURS, parse_infotext

LARGEST = 2**64  # a seed; no other number of a text is as large
SILENT = {"Version", "User", "Backend", "Model", "Model hash", "App"}  # without effect, or noted
DISTILLED = "Distilled CFG Scale"  # the guidance that a network reads, as Flux.1 [dev] does
A1111_VERSION = re.compile(r"v?1\.(?:9|10)\.")
VALUES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "Steps": ("steps", int),
    "Seed": ("seed", int),
    "CFG scale": ("cfg_scale", float),
    "Eta": ("eta", float),
    "Eta DDIM": ("eta", float),
    "Denoising strength": ("strength", float),
    "Mask blur": ("mask_blur", float),
    "Clip skip": ("clip_skip", lambda text: int(text) - 1),
}


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
    if not parsed["pairs"]:
        return None
    program = find_program(parsed["pairs"])
    pairs = rename_pairs(program, parsed["pairs"])
    notes: list[str] = []
    params: dict[str, Any] = {
        "mode": _mode(pairs),
        "prompt": parsed["prompt"],
        "negative_prompt": parsed["negative_prompt"],
    }
    params["model"] = {"name": pairs.get("Model"), "sha256": pairs.get("Model hash")}
    if any(key.startswith("Hires") for key in pairs):
        second = read_second_pass(pairs, _converted)
        params |= second
        if not second:
            notes.append(
                f"{program.name} enlarged it in a second pass; this is the first, smaller image"
            )
    if str(pairs.get("Version", "")).startswith("ldmref"):
        _as_ours(params, pairs, notes)
    else:
        _as_a1111(program, params, pairs, notes)
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


def _as_a1111(
    program: Program, params: dict[str, Any], pairs: dict[str, Any], notes: list[str]
) -> None:
    """Read prompt, sampler, noise levels and noise as A1111, or a program like it, means them."""
    notes.insert(
        0,
        "replayed from text, which is not exact: read as of A1111 1.10, with the "
        "defaults of all options that it does not record",
    )
    version = str(pairs.get("Version", ""))
    if program is SD_NEXT:  # its version is a commit
        version = f"SD.Next {version}".strip()
    if version and not A1111_VERSION.match(version):
        notes.append(f"made by version {version[:40]}, which may differ from 1.10")
    for name in ("prompt", "negative_prompt"):
        words, tags = split_networks(params[name])
        params[name] = words.strip()
        notes += [f"left out of the prompt: {tag[:80]}; add the file as lora=" for tag in tags]
    notes += prompt_notes(params["prompt"], params["negative_prompt"])
    params["prompt_weights"] = "a1111"
    params["rng"] = _read_rng(program, pairs, notes)
    if params["rng"] == "torch" and params["mode"] != "txt2img":
        notes.append(
            "RNG CPU: rng torch encodes the image with the seed's first numbers, of which "
            "A1111 makes the noise: another image"
        )
    label = str(pairs.pop("Sampler", "")).strip()
    kind = str(pairs.pop("Schedule type", "")).lower().replace("_", " ")
    sampler, suffix = program.read_sampler(label)
    method = split_sampler(label)[0]
    params["sampler"] = sampler or method.lower() or None
    if method.partition(" ")[0] in program.own_samplers:
        notes.append(
            f"{program.name}'s {method.partition(' ')[0]} is another method: another image"
        )
    beta = [_shape(pairs, f"Beta schedule {name}") for name in ("alpha", "beta")]
    distilled = pairs.pop(DISTILLED, None)
    params["a1111"] = {
        "label": label,
        "unknown": program is not SD_CPP and not is_of_a1111(method),
        "schedule": suffix or kind or "uniform",
        "beta": beta,
        "discard": _flag(pairs, "Discard penultimate sigma"),
        "drops_level": program.drops_level,
        "padded": _flag(pairs, "Pad conds"),
        "scaled": _flag(pairs, "SGM noise multiplier"),
        "diffusers": program is SD_NEXT,
        "distilled": None if distilled is None else _converted(DISTILLED, distilled, float),
    }


def _read_rng(program: Program, pairs: dict[str, Any], notes: list[str]) -> str:
    """Return the source of noise; one that is not here is left in the pairs, and noted."""
    name = pairs.get("RNG")
    rng = program.rngs.get(str(name))
    if name is None or rng is not None:
        pairs.pop("RNG", None)
    else:
        notes.append(f"the noise of RNG {str(name)[:40]} is not here: another image")
    return rng or "a1111-gpu"


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


def _converted(key: str, text: str, convert: Callable[[str], Any]) -> Any:
    try:
        value = convert(text)
        if not -LARGEST <= value <= LARGEST:  # nor is NaN
            raise ValueError(f"out of range: {text[:80]}")
        return value
    except ValueError:
        what = f"{key} in the image's text is not a number: {str(text)[:80]!r}"
        raise InputError(what, code="E-REPLAY") from None
