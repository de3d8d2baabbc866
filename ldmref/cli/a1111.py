"""Replays of images made by A1111: its noise levels for our model, and notes on differences."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

from ldmref.cli.tasks import Values
from ldmref.errors import UsageError
from ldmref.models.config import ModelConfig
from ldmref.modes import validation
from ldmref.modes.resolve import find_schedule
from ldmref.modes.run import Run
from ldmref.prompts.weights import parse_prompt_weights
from ldmref.samplers import ALIASES, SAMPLERS, get_sampler
from ldmref.samplers.a1111 import COMPVIS, UNIPC, Levels, Options, a1111_levels
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import check_steps

OWN_LEVELS = ("schedule", "sigmas")  # flags that replace A1111's noise levels
BROWNIAN = ("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde")
OPENCLIP_WIDTH = 1024  # hidden size of the text encoder of Stable Diffusion 2


def as_a1111(
    mode: str, config: ModelConfig, flags: Values, made: Values, own: Collection[str]
) -> tuple[Values, list[str]]:
    """Complete the values of a replay as A1111 would for this model.

    Args:
        mode: txt2img, img2img or inpaint.
        config: Configuration of the model that samples.
        flags: Values from the record and from the command line.
        made: The entry `a1111` of `replay_parameters`.
        own: Names of the values from the command line, which are kept.

    Returns:
        The values, and notes on differences from A1111, one line each.

    Raises:
        UsageError: The sampler is not available, or a number is out of range.
    """
    flags = dict(flags)
    notes: list[str] = []
    chunks = not config.unet.class_embed_type and config.text_encoder.model_type != "class"
    if "long_prompts" not in own and chunks:
        flags["long_prompts"] = "chunk"
    if "clip_skip" not in own and _ignores_clip_skip(config):
        flags["clip_skip"] = None
    if mode == "img2img" and "resize" not in own:
        flags["resize"] = "stretch"
    sampler = _resolve_sampler(config, flags["sampler"], made, own, notes)
    if flags["sampler"] is None or "sampler" not in own:
        flags["sampler"] = sampler
    noised = mode != "txt2img"
    levels = None
    if not set(OWN_LEVELS) & set(own) and not find_schedule(flags["sampler"]):
        levels = _compute_levels(config, flags, sampler, made, noised)
        if levels is None:
            notes.append(_no_levels(sampler, made["schedule"]))
    if levels is not None:
        flags |= {"sigmas": tuple(levels.sigmas.tolist()), "steps": None, "schedule": None}
        if noised:
            flags["strength"] = levels.strength
        notes += _about_levels(sampler, levels, made, noised)
    notes += _about_mode(mode, sampler)
    return flags, notes


def chunk_notes(run: Run, made: Values) -> Iterator[str]:
    """Yield notes on prompts of a prepared run that A1111 would split into other chunks."""
    encoded = run.text.encoded
    pairs = zip(run.text.prompts, run.text.negative_prompts, strict=True)
    for texts in dict.fromkeys(pairs):
        if not all(text in encoded for text in texts):
            continue
        counts = [encoded[text].tokens.counts[0] for text in texts]
        if counts[0] != counts[1] and not made["padded"]:
            yield (
                "prompt and negative prompt have a different number of chunks: the shorter one "
                "is padded, which A1111 does not do by default"
            )
        sections = [len(parse_prompt_weights(text)) for text in texts]
        cut = any(n > m for n, m in zip(counts, sections, strict=True))
        if cut and any("," in text for text in texts):
            yield (
                "a prompt is longer than a chunk: A1111 moves up to 20 tokens after the last "
                "comma to the next one"
            )


def _ignores_clip_skip(config: ModelConfig) -> bool:
    """Return whether A1111 ignores clip skip for a model: SDXL and Stable Diffusion 2."""
    return config.text_encoder_2 is not None or config.text_encoder.hidden_size == OPENCLIP_WIDTH


def _resolve_sampler(
    config: ModelConfig, value: Any, made: Values, own: Collection[str], notes: list[str]
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


def _compute_levels(
    config: ModelConfig, flags: Values, sampler: str, made: Values, noised: bool
) -> Levels | None:
    """Return A1111's noise levels, or None if it has none for this sampler and schedule."""
    table = sampling_sigmas(config.scheduler)
    steps = config.defaults.steps if flags["steps"] is None else flags["steps"]
    check_steps(steps, min(validation.MAX_STEPS, len(table)))
    strength = None
    if noised:
        strength = validation.check_number("strength", flags["strength"], 0.0, 1.0)
    alpha, beta = made["beta"]
    sdxl = bool(config.unet.addition_embed_type)
    options = Options((alpha, beta), made["discard"], sdxl)
    return a1111_levels(table, sampler, made["schedule"], steps, strength, options)


def _no_levels(sampler: str, schedule: str) -> str:
    if sampler == "lcm":
        return "A1111's LCM has other noise levels and timesteps: the model's are used"
    if sampler in COMPVIS:
        return "A1111 does nothing with so few steps of this sampler: the model's levels are used"
    return f"A1111's schedule {schedule[:40]!r} is unknown: the schedule of the model is used"


def _about_levels(sampler: str, levels: Levels, made: Values, noised: bool) -> Iterator[str]:
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
        yield (
            "A1111 encodes the image to a random sample of its posterior, not recorded; here it "
            "is the mean"
        )
    if mode == "inpaint":
        yield (
            "A1111 keeps the rest of the image in every prediction, with another blur of the "
            "mask; here in the noised latents: another image"
        )
