"""What a picture is asked for: every argument checked and every default filled in.

A `Request` needs the model's configuration but not its weights, so all mistakes are found before
anything is loaded. Python calls, command line and replays go through the same `resolve`.
"""

from __future__ import annotations

import math
import numbers
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ldmref.errors import ResourceError, UsageError, did_you_mean
from ldmref.models.config import ModelConfig
from ldmref.models.tokenizer import MAX_CHARACTERS
from ldmref.samplers import ALIASES, get_sampler
from ldmref.samplers.grids import SPACINGS, sampling_alphas_cumprod

MAX_STEPS, MAX_COUNT, MAX_SIDE = 1000, 10_000, 8192
MAX_AREA = 64  # pixels, as a multiple of the area on which the model was trained
RNGS = ("philox",)


@dataclass(frozen=True)
class Request:
    """A fully resolved request; `params()` is its JSON form."""

    mode: str
    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    steps: int
    cfg_scale: float
    sampler: str
    schedule: str
    seeds: tuple[int, ...]
    width: int
    height: int
    eta: float | None
    clip_skip: int
    rng: str
    batch_size: int
    strength: float | None = None
    mask_blur: float | None = None

    @property
    def first_step(self) -> int:
        """Steps of the grid that are skipped: n - min(int(n strength), n), as diffusers counts."""
        if self.strength is None:
            return 0
        return self.steps - min(int(self.steps * self.strength), self.steps)

    def params(self) -> dict[str, Any]:
        """JSON-able arguments that make the same pictures again; single values stand alone."""

        def one(values: tuple[str, ...]) -> str | list[str]:
            return min(values) if len(set(values)) == 1 else list(values)

        seeds = self.seeds[0] if len(self.seeds) == 1 else list(self.seeds)
        params = {
            "mode": self.mode,
            "prompt": one(self.prompts),
            "negative_prompt": one(self.negative_prompts),
            "steps": self.steps,
            "cfg_scale": self.cfg_scale,
            "sampler": self.sampler,
            "schedule": self.schedule,
            "seed": seeds,
            "count": len(self.seeds) // (1 if len(set(self.prompts)) == 1 else len(self.prompts)),
            "width": self.width,
            "height": self.height,
            "eta": self.eta,
            "clip_skip": self.clip_skip,
            "rng": self.rng,
        }
        if self.strength is not None:
            params["strength"] = self.strength
        if self.mask_blur is not None:
            params["mask_blur"] = self.mask_blur
        return params


def resolve(
    config: ModelConfig,
    mode: str,
    prompt: str | Sequence[str],
    *,
    negative_prompt: str | Sequence[str] = "",
    steps: int | None = None,
    cfg_scale: float | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    seed: int | Sequence[int] | None = None,
    count: int = 1,
    width: int | None = None,
    height: int | None = None,
    eta: float | None = None,
    clip_skip: int | None = None,
    rng: str = "philox",
    batch_size: int = 1,
    strength: float | None = None,
    mask_blur: float | None = None,
) -> Request:
    """Check every argument and fill in the model's defaults.

    Raises:
        UsageError: says what was wrong, what is allowed and what to do.
        ResourceError: the picture is larger than the model can sensibly draw.
    """
    defaults, scheduler = config.defaults, config.scheduler
    count = _integer("count", count, 1, MAX_COUNT)
    prompts = [p for p in _texts("prompt", prompt) for _ in range(count)]
    negatives = _texts("negative_prompt", negative_prompt)
    if len(negatives) == 1:
        negatives *= len(prompts)
    elif len(negatives) * count == len(prompts):
        negatives = [n for n in negatives for _ in range(count)]
    else:
        raise UsageError(
            f"{len(negatives)} negative prompts for {len(prompts) // count} prompts",
            code="E-PROMPT",
            hint="give one, or as many as prompts",
        )
    top = min(MAX_STEPS, len(sampling_alphas_cumprod(scheduler)))
    steps = _integer("steps", defaults.steps if steps is None else steps, 1, top)
    sampler, schedule = _sampler_and_schedule(
        sampler or scheduler.sampler, schedule or scheduler.spacing
    )
    has_eta = get_sampler(sampler).eta
    if eta is not None:
        if has_eta is None:
            raise UsageError(
                f"sampler {sampler!r} has no eta", code="E-ETA", hint="use ddim or euler_a"
            )
        eta = _number("eta", eta, 0.0, 1.0)
    elif has_eta is not None:
        eta = has_eta
    if rng not in RNGS:
        raise UsageError(f"unknown rng {rng!r}", code="E-RNG", hint=did_you_mean(str(rng), RNGS))
    request = Request(
        mode=mode,
        prompts=tuple(prompts),
        negative_prompts=tuple(negatives),
        steps=steps,
        cfg_scale=_number(
            "cfg_scale", defaults.cfg_scale if cfg_scale is None else cfg_scale, -1000.0, 1000.0
        ),
        sampler=sampler,
        schedule=schedule,
        seeds=_seeds(seed, len(prompts)),
        width=_side(config, "width", defaults.width if width is None else width),
        height=_side(config, "height", defaults.height if height is None else height),
        eta=eta,
        clip_skip=_integer(
            "clip_skip", clip_skip or 0, 0, config.text_encoder.num_hidden_layers - 1
        ),
        rng=rng,
        batch_size=_integer("batch_size", batch_size, 1, MAX_COUNT),
        strength=None if strength is None else _number("strength", strength, 0.0, 1.0),
        mask_blur=None if mask_blur is None else _number("mask_blur", mask_blur, 0.0, 256.0),
    )
    area, trained = request.width * request.height, defaults.width * defaults.height
    if area > MAX_AREA * trained:
        raise ResourceError(
            f"{request.width} x {request.height} is more than {MAX_AREA} times the area that this "
            f"model draws",
            code="E-SIZE-LIMIT",
            hint=f"the model was trained at {defaults.width} x {defaults.height}",
        )
    if request.strength and request.first_step == steps:
        raise UsageError(
            f"strength {strength} of {steps} steps is less than one step",
            code="E-STRENGTH",
            hint=f"give at least {math.ceil(1000 / steps) / 1000} (or 0), or more steps",
        )
    return request


def _texts(name: str, value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if (
        not isinstance(texts, Sequence)
        or isinstance(texts, bytes)
        or not texts
        or not all(isinstance(text, str) for text in texts)
    ):
        raise UsageError(
            f"{name} must be a string or a list of strings, not {value!r}", code="E-PROMPT"
        )
    for text in texts:
        if len(text) > MAX_CHARACTERS:
            raise UsageError(
                f"the {name.replace('_', ' ')} is too long: {len(text)} characters, "
                f"the limit is {MAX_CHARACTERS}",
                code="E-PROMPT-LENGTH",
                hint="shorten it; the model reads only its first words anyway",
            )
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(
                f"the {name.replace('_', ' ')} is no valid Unicode text", code="E-PROMPT"
            ) from error
    return list(texts)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise UsageError(f"{name} must be a whole number, not {value!r}", code=_code(name))
    if not low <= int(value) <= high:
        raise UsageError(f"{name} must be from {low} to {high}, not {value}", code=_code(name))
    return int(value)


def _number(name: str, value: Any, low: float, high: float) -> float:
    number = not isinstance(value, bool) and isinstance(value, numbers.Real)
    if not number or not low <= float(value) <= high:
        raise UsageError(
            f"{name} must be a number from {low:g} to {high:g}, not {value!r}", code=_code(name)
        )
    return float(value)


def _code(name: str) -> str:
    return "E-" + name.upper().replace("_", "-")


def _side(config: ModelConfig, name: str, value: Any) -> int:
    value = _integer(name, value, 1, MAX_SIDE)
    m = config.size_multiple
    if value % m:
        low, high = value // m * m, (value // m + 1) * m
        raise UsageError(
            f"{name} must be a multiple of {m}, not {value}",
            code="E-SIZE",
            hint=f"use {low} or {high}" if low else f"use {high}",
        )
    return value


def _sampler_and_schedule(sampler: Any, schedule: Any) -> tuple[str, str]:
    if not isinstance(sampler, str) or not isinstance(schedule, str):
        raise UsageError("sampler and schedule must be names", code="E-SAMPLER")
    name = sampler.strip()
    head, _, tail = name.rpartition(" ")
    if head and tail.lower() in SPACINGS:  # A1111: "DPM++ 2M Karras"
        name, schedule = head, tail.lower()
    name = ALIASES.get(name.lower(), name.lower())
    get_sampler(name)
    if schedule not in SPACINGS:
        raise UsageError(
            f"unknown schedule {schedule!r}",
            code="E-SCHEDULE",
            hint=did_you_mean(schedule, SPACINGS),
        )
    return name, schedule


def _seeds(seed: Any, n: int) -> tuple[int, ...]:
    if isinstance(seed, Sequence) and not isinstance(seed, str | bytes):
        if len(seed) != n:
            raise UsageError(
                f"{len(seed)} seeds for {n} pictures", code="E-SEED", hint="one seed per picture"
            )
        return tuple(_seed(s) for s in seed)
    first = _seed(seed)
    return tuple((first + i) % 2**64 for i in range(n))


def _seed(seed: Any) -> int:
    whole = not isinstance(seed, bool) and isinstance(seed, numbers.Integral)
    if seed is None or (whole and seed == -1):
        return secrets.randbits(32)
    if not whole or not 0 <= int(seed) < 2**64:
        raise UsageError(
            f"seed must be a whole number from 0 to 2^64 - 1, or -1 for a random one, not {seed!r}",
            code="E-SEED",
        )
    return int(seed)
