"""What a picture is asked for: every argument checked and every default filled in.

A `Request` needs the model's configuration but not its weights, so all mistakes are found before
anything is loaded. Python calls, command line and replays go through the same `resolve`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ldmref.errors import ResourceError, UsageError
from ldmref.models.config import ModelConfig
from ldmref.modes import checks
from ldmref.modes.checks import MAX_AREA, MAX_COUNT, MAX_SIDE, MAX_STEPS
from ldmref.modes.conditions import check_conditions
from ldmref.modes.control import Control, checked_controls
from ldmref.prompts.tokenizer import PromptOptions
from ldmref.samplers import get_sampler
from ldmref.samplers.grids import sampling_alphas_cumprod
from ldmref.samplers.noise import STREAMS

RNGS = tuple(STREAMS)
FILLS = ("original", "noise", "fill", "nothing")
STRENGTHS = {"img2img": 0.75, "inpaint": 1.0}  # what None means in these modes


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
    reading: PromptOptions = field(default_factory=PromptOptions)
    control: tuple[Control, ...] = ()
    fill: str | None = None
    only_masked: bool = False
    padding: int | None = None
    resample: tuple[int, int] | None = None
    tile: int | None = None

    @property
    def first_step(self) -> int:
        """Steps of the grid that are skipped: n - min(int(n strength), n), as diffusers counts."""
        if self.strength is None:
            return 0
        return self.steps - min(int(self.steps * self.strength), self.steps)

    def params(self) -> dict[str, Any]:
        """JSON-able arguments that make the same pictures again; single values stand alone."""

        alike = len(set(self.prompts)) == 1 == len(set(self.negative_prompts))
        prompts, negatives = list(self.prompts), list(self.negative_prompts)
        seeds = self.seeds[0] if len(self.seeds) == 1 else list(self.seeds)
        params = {
            "mode": self.mode,
            "prompt": prompts[0] if alike else prompts,
            "negative_prompt": negatives[0] if len(set(negatives)) == 1 else negatives,
            "steps": self.steps,
            "cfg_scale": self.cfg_scale,
            "sampler": self.sampler,
            "schedule": self.schedule,
            "seed": seeds,
            "count": len(self.seeds) if alike else 1,
            "width": self.width,
            "height": self.height,
            "eta": self.eta,
            "clip_skip": self.clip_skip,
            "rng": self.rng,
            "long_prompts": self.reading.long_prompts,
            "prompt_weights": self.reading.prompt_weights,
        }
        if self.strength is not None:
            params["strength"] = self.strength
        if self.mask_blur is not None:
            params["mask_blur"] = self.mask_blur
        if self.fill is not None:
            params |= {"fill": self.fill, "only_masked": self.only_masked}
        if self.only_masked:
            params["padding"] = self.padding
        if self.resample is not None:
            params["resample"] = list(self.resample)
        if self.tile is not None:
            params["tile"] = self.tile
        return params


def resolve(
    config: ModelConfig,
    mode: str,
    prompt: str | Sequence[str],
    *,
    negative_prompt: str | Sequence[str] | None = "",
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
    long_prompts: str = "truncate",
    prompt_weights: str = "none",
    control: Sequence[Control] = (),
    fill: str | None = None,
    only_masked: bool = False,
    padding: int | None = None,
    resample: Sequence[int] | None = None,
    tile: int | None = None,
) -> Request:
    """Check every argument and fill in the model's defaults.

    Raises:
        UsageError: says what was wrong, what is allowed and what to do.
        ResourceError: the picture is larger than the model can sensibly draw.
    """
    defaults, scheduler = config.defaults, config.scheduler
    count = checks.integer("count", count, 1, MAX_COUNT)
    prompts = [p for p in checks.texts("prompt", prompt) for _ in range(count)]
    negatives = checks.texts("negative_prompt", "" if negative_prompt is None else negative_prompt)
    strength = STRENGTHS.get(mode) if strength is None else strength
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
    steps = checks.integer("steps", defaults.steps if steps is None else steps, 1, top)
    sampler, schedule = checks.sampler_and_schedule(
        sampler or scheduler.sampler, schedule or scheduler.spacing
    )
    has_eta = get_sampler(sampler).eta
    if eta is not None:
        if has_eta is None:
            raise UsageError(
                f"sampler {sampler!r} has no eta", code="E-ETA", hint="use ddim or euler_a"
            )
        eta = checks.number("eta", eta, 0.0, 1.0)
    elif has_eta is not None:
        eta = has_eta
    usual = (mode == "inpaint" and defaults.inpaint_cfg_scale) or defaults.cfg_scale
    request = Request(
        mode=mode,
        prompts=tuple(prompts),
        negative_prompts=tuple(negatives),
        steps=steps,
        cfg_scale=checks.number(
            "cfg_scale", usual if cfg_scale is None else cfg_scale, -1000.0, 1000.0
        ),
        sampler=sampler,
        schedule=schedule,
        seeds=checks.seeds(seed, len(prompts)),
        width=checks.side(config, "width", defaults.width if width is None else width),
        height=checks.side(config, "height", defaults.height if height is None else height),
        eta=eta,
        clip_skip=checks.integer(
            "clip_skip", clip_skip or 0, 0, config.text_encoder.num_hidden_layers - 1
        ),
        rng=checks.choice("rng", rng, RNGS),
        batch_size=checks.integer("batch_size", batch_size, 1, MAX_COUNT),
        strength=None if strength is None else checks.number("strength", strength, 0.0, 1.0),
        mask_blur=None if mask_blur is None else checks.number("mask_blur", mask_blur, 0.0, 256.0),
        reading=checks.reading(config, long_prompts, prompt_weights),
        control=checked_controls(config, control),
        fill=None if fill is None else checks.choice("fill", fill, FILLS),
        only_masked=checks.flag("only_masked", only_masked),
        padding=None if padding is None else checks.integer("padding", padding, 0, MAX_SIDE),
        resample=checks.resampling(resample, steps),
        tile=checks.tile(config, tile),
    )
    check_conditions(config, mode, [*prompts, *negatives], request.cfg_scale)
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
