"""A replay of an image of A1111: its noise levels for our model, and notes on differences."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ldmref.apps.a1111.levels import COMPVIS, UNIPC, Levels, Options, levels_for
from ldmref.apps.a1111.prompts import read_clip_skip, reads_chunks
from ldmref.apps.a1111.second_pass import STRENGTH, second_pass_levels
from ldmref.declare import get_fields
from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.models.family import family_of
from ldmref.modes.resolve import find_schedule
from ldmref.modes.upscale_parameters import UpscaleParameters
from ldmref.samplers import ALIASES, SAMPLERS, get_sampler
from ldmref.samplers.path import FLOW

OWN_LEVELS = ("schedule", "sigmas")  # parameters that replace A1111's noise levels
SECOND_PASS = {*get_fields(UpscaleParameters)}
POSTERIOR = (
    "A1111 encodes the image to a random sample of its posterior, not recorded; here it is the mean"
)
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")


def replay_request(
    mode: str,
    config: ModelConfig,
    values: Mapping[str, Any],
    made: Mapping[str, Any],
    own: Collection[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Complete the parameters of a replay as A1111 would for this model.

    Args:
        mode: txt2img, img2img or inpaint.
        config: Configuration of the model that samples.
        values: Parameters of the record and those that replace them; None stands for the default.
        made: The entry `a1111` of `reading.replay_parameters`.
        own: Names of the parameters that were asked for, which are kept.

    Returns:
        The parameters, and notes on differences from A1111, one line each.

    Raises:
        UsageError: The sampler is not available, or a number is out of range.
    """
    values = dict(values)
    notes: list[str] = []
    if "long_prompts" not in own and reads_chunks(config):
        values["long_prompts"] = "chunk"
    if "clip_skip" not in own and values.get("clip_skip") is not None:
        values["clip_skip"] = read_clip_skip(config, values["clip_skip"] + 1, notes) or None
    if mode == "img2img" and "resize" not in own:
        values["resize"] = "stretch"
    asked = values.get("sampler")
    sampler = _resolve_sampler(config, asked, made, own, notes)
    if asked is None or "sampler" not in own:
        values["sampler"] = sampler
    values |= _read_guidance(config, values, made, own, notes)
    if values.get("eta") is not None and "eta" not in own and SAMPLERS[sampler].eta is None:
        notes.append(f"eta {values['eta']:g} has no effect on {sampler} and is left out")
        values["eta"] = None
    noised = mode != "txt2img"
    if values.get("upscale") is not None and config.defaults.one_size:
        values = {name: value for name, value in values.items() if name not in SECOND_PASS}
        notes.append(f"{config.name!r} generates one size: the second pass of A1111 is left out")
    levels = None
    second = None
    if not set(OWN_LEVELS) & set(own) and not find_schedule(values["sampler"]):
        alpha, beta = made["beta"]
        sdxl = config.text_encoder_2 is not None
        options = Options((alpha, beta), made["discard"], sdxl, made["drops_level"])
        strength = values.get("strength") if noised else None
        levels = levels_for(
            config, sampler, made["schedule"], values.get("steps"), strength, options
        )
        if levels is None:
            notes.append(_no_levels(config, sampler, made["schedule"]))
        if values.get("upscale") is not None and "upscale_sigmas" not in own:
            second = second_pass_levels(
                config,
                sampler,
                made["schedule"],
                values.get("upscale_steps") or values.get("steps"),
                values.get("upscale_strength") or STRENGTH,
                options,
            )
    if levels is not None:
        values |= levels.parameters(noised)
        notes += _about_levels(sampler, levels, made, noised)
    if second is not None:
        values |= {"upscale_sigmas": second.taken, "upscale_steps": None, "upscale_strength": None}
    notes += _about_mode(mode, sampler)
    if values.get("upscaler") == "lanczos":
        notes.append(f"the second pass: {POSTERIOR}")
    return values, notes


def _read_guidance(
    config: ModelConfig,
    values: Mapping[str, Any],
    made: Mapping[str, Any],
    own: Collection[str],
    notes: list[str],
) -> dict[str, Any]:
    """Return the guidance of a network that reads it: the distilled one of the text, if recorded.

    Such a text also has the scale of classifier-free guidance, which other models follow. SD.Next
    hands its scale to diffusers' pipelines, where up to 1 most are without guidance.
    """
    asked = values.get("cfg_scale")
    if made["diffusers"] and asked is not None and "cfg_scale" not in own:
        theirs = family_of(config).guidance_scale
        return {"cfg_scale": theirs.read(config, asked) if theirs.reads(config) else 1.0}
    distilled = made["distilled"]
    flow = config.scheduler.path is FLOW
    if distilled is None or "cfg_scale" in own or not (flow and config.denoiser.reads_guidance):
        return {}
    scale = values.get("cfg_scale")
    if scale not in (None, 1.0):
        notes.append(f"CFG scale {scale:g}, a second guidance, is not repeated")
    return {"cfg_scale": distilled}


def _resolve_sampler(
    config: ModelConfig, value: Any, made: Mapping[str, Any], own: Collection[str], notes: list[str]
) -> str:
    """Return our name of the sampler, and append notes about it."""
    if value is None:
        return config.scheduler.sampler
    if "sampler" in own:
        suffix = find_schedule(value)
        return get_sampler(str(value).strip()[: -len(suffix) or None].strip()).name
    name = ALIASES.get(value, value)
    if name not in SAMPLERS:  # a downloaded image must not import a plug-in
        raise UsageError(
            f"the image's sampler {made['label'][:80]!r} is not available",
            code="E-SAMPLER",
            hint="choose another with --sampler NAME; ldmref samplers lists them",
        )
    if name == UNIPC:
        notes.append(
            "A1111's UniPC is of order 3, variant bh1, with lower orders at the end; "
            f"sampled with {UNIPC}, variant bh2"
        )
    elif made["unknown"]:
        notes.append(f"A1111 has no sampler {made['label'][:80]!r}: sampled with {name}")
    return name


def _no_levels(config: ModelConfig, sampler: str, schedule: str) -> str:
    if config.scheduler.path is FLOW:
        return f"{config.name!r} is of flow matching: its own noise levels are used"
    if sampler == "lcm":
        return "A1111's LCM has other noise levels and timesteps: the model's are used"
    if sampler in COMPVIS:
        return "A1111 does nothing with so few steps of this sampler: the model's levels are used"
    return f"A1111's schedule {schedule[:40]!r} is unknown: the schedule of the model is used"


def _about_levels(
    sampler: str, levels: Levels, made: Mapping[str, Any], noised: bool
) -> Iterator[str]:
    first = float(levels.sigmas[0])
    last = float(levels.sigmas[-1])
    if not noised and sampler not in COMPVIS and not made["scaled"]:
        more = math.hypot(1.0, first) / first - 1.0
        yield (f"A1111's start noise is sigma z; here sqrt(1 + sigma^2) z, {100 * more:.2g} % more")
    if noised and levels.first == 0:
        yield "A1111 starts from the image with noise; here from noise alone, at this strength"
    if noised and sampler in COMPVIS:
        yield (
            "A1111 adds the noise of one timestep and starts at the next lower one; here both "
            "are the lower one"
        )
    if sampler not in COMPVIS and last > 0.0:
        less = 1.0 - 1.0 / math.hypot(1.0, last)
        yield (
            f"the levels end at {last:.3g}, where A1111 decodes x; here x / sqrt(1 + sigma^2), "
            f"{100 * less:.2g} % less"
        )


def _about_mode(mode: str, sampler: str) -> Iterator[str]:
    if sampler in BROWNIAN:
        yield "A1111's noise for this sampler comes from a Brownian tree: another image"
    if sampler == "dpmpp_3m_sde":
        yield "A1111 keeps order 3 to the end; here the last two steps are of lower order"
    if mode != "txt2img":
        yield POSTERIOR
    if mode == "inpaint":
        yield (
            "A1111 keeps the rest of the image in every prediction, with another blur of the "
            "mask; here in the noised latents: another image"
        )
