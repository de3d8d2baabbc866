"""Cases of noise schedules: betas, alpha-bars, sigmas and timesteps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from ldmref.cases.values import NamedArrays, ValueCase
from ldmref.math.schedules import (
    alphas_cumprod,
    cosine_betas,
    linear_betas,
    rescale_zero_terminal_snr,
    scaled_linear_betas,
    sigma_from_alpha_bar,
    sigmoid_betas,
)
from ldmref.models.presets import PRESETS, list_presets
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.registry import SAMPLERS
from ldmref.samplers.schedule import make_schedule, sampling_sigmas
from ldmref.samplers.spacings import FLOW_SPACINGS, SPACINGS

T = 1000
BETAS = {
    "linear": (linear_betas, {"n": T, "start": 0.0015, "end": 0.0195}),
    "scaled_linear": (scaled_linear_betas, {"n": T, "start": 0.00085, "end": 0.012}),
    "cosine": (cosine_betas, {"n": T}),
    "sigmoid": (sigmoid_betas, {"n": T, "start": 0.0001, "end": 0.02}),
}
STEPS = (4, 20)
DIFFUSERS_STEPS = 7
TOKENS = 1024  # of an image of 512 x 512 pixels, on which a dynamic shift depends
FLOW_ROUNDINGS = 32.0


def schedule_cases() -> Iterator[ValueCase]:
    """Yield the cases of training schedules, of spacings, and of diffusers' conventions."""
    for name, (make, arguments) in BETAS.items():
        yield from _training(name, make(**arguments), arguments, make)
    betas = scaled_linear_betas(T, 0.00085, 0.012)
    yield ValueCase(
        "schedules.rescale_zero_terminal_snr",
        "schedules",
        "rescale_zero_terminal_snr",
        {},
        {"betas": betas},
        lambda x: {"betas": rescale_zero_terminal_snr(x["betas"])},
        T,
    )
    sd = SchedulerConfig()
    for spacing in SPACINGS:
        for steps in STEPS:
            yield _grid(
                f"{spacing}.{steps}", replace(sd, final_sigma="zero"), "euler", spacing, steps
            )
    yield _grid("leading.sigma_min.20", sd, "ddim", "leading", 20)
    published = PRESETS["sd15"].scheduler
    for names in _samplers_by_grid(published):
        yield _grid(f"diffusers.{names[0]}", published, names[0], None, DIFFUSERS_STEPS, names)
    for spacing in ("leading", "linspace", "trailing", "karras"):
        for name in ("euler", "ddim", "dpmpp_2m"):
            label = f"diffusers.{name}.{spacing}"
            yield _grid(label, published, name, spacing, DIFFUSERS_STEPS)
    zero = replace(published, rescale_betas_zero_snr=True, prediction_type="v")
    yield _grid("diffusers.zero_snr.ddim", zero, "ddim", "trailing", DIFFUSERS_STEPS)
    yield _grid("diffusers.zero_snr.euler", zero, "euler", "trailing", DIFFUSERS_STEPS)
    for name in ("sd3-medium", "flux-dev", "flux-schnell"):
        flow = list_presets()[name].scheduler
        for spacing in FLOW_SPACINGS:
            for steps in STEPS:
                yield _flow_grid(f"flow.{name}.{spacing}.{steps}", flow, spacing, steps)


def _training(name: str, betas: np.ndarray, arguments: Mapping, make) -> Iterator[ValueCase]:
    yield ValueCase(
        f"schedules.betas.{name}",
        "schedules",
        f"{name}_betas",
        arguments,
        {},
        lambda _: {"betas": make(**arguments)},
        2000.0 if name == "cosine" else 16.0,
        relative=name != "cosine",
    )
    product = 3.0 * math.sqrt(2.0 * T)  # Higham and Mary 2019: 2 T independent roundings
    yield ValueCase(
        f"schedules.alphas_cumprod.{name}",
        "schedules",
        "alphas_cumprod",
        {},
        {"betas": betas},
        lambda x: {"alphas_cumprod": alphas_cumprod(x["betas"])},
        product,
    )
    table = alphas_cumprod(betas)
    yield ValueCase(
        f"schedules.sigmas.{name}",
        "schedules",
        "sigma_from_alpha_bar",
        {},
        {"alphas_cumprod": table},
        lambda x: {"sigmas": sigma_from_alpha_bar(x["alphas_cumprod"])},
        relative=True,
    )


def _samplers_by_grid(config: SchedulerConfig) -> list[list[str]]:
    """Return groups of samplers that share their noise levels and timesteps in diffusers."""
    groups: dict[bytes, list[str]] = {}
    for name, sampler in SAMPLERS.items():
        schedule = make_schedule(config, sampler, None, DIFFUSERS_STEPS)
        key = schedule.sigmas.tobytes() + np.asarray(schedule.timesteps, np.float64).tobytes()
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _grid(
    label: str,
    config: SchedulerConfig,
    sampler: str,
    spacing: str | None,
    steps: int,
    also: Sequence[str] = (),
) -> ValueCase:
    table = sampling_sigmas(config)

    def compute(_: NamedArrays) -> NamedArrays:
        schedule = make_schedule(config, SAMPLERS[sampler], spacing, steps)
        return {
            "sigmas": schedule.sigmas,
            "timesteps": schedule.timesteps,
            "init_noise_sigma": np.asarray(schedule.init_noise_sigma),
        }

    neutral = asdict(SchedulerConfig())
    differing = {k: v for k, v in asdict(config).items() if v != neutral[k]}
    attributes: dict[str, Any] = {
        "scheduler": differing,
        "sampler": sampler,
        "spacing": spacing or config.spacing,
        "steps": steps,
    }
    if len(also) > 1:
        attributes["samplers"] = list(also)
    units = table_roundings(table)
    return ValueCase(
        f"schedules.{label}",
        "schedules",
        "make_schedule",
        attributes,
        {},
        compute,
        units,
        relative=True,
        perturb=False,
        absolute={"timesteps": 4.0 * units},
    )


def _flow_grid(label: str, config: SchedulerConfig, spacing: str, steps: int) -> ValueCase:
    """Return the case of the levels of a flow, of an image of `TOKENS` tokens.

    A flow time k s / (1 + (k - 1) s) has the slope k at most, which is below 3.2 in these
    configurations, and s and k are the results of few operations: FLOW_ROUNDINGS units of 1.
    """

    def compute(_: NamedArrays) -> NamedArrays:
        schedule = make_schedule(config, SAMPLERS["euler"], spacing, steps, tokens=TOKENS)
        return {"sigmas": schedule.sigmas, "timesteps": schedule.timesteps}

    neutral = asdict(SchedulerConfig())
    differing = {k: v for k, v in asdict(config).items() if v != neutral[k]}
    attributes = {"scheduler": differing, "sampler": "euler", "spacing": spacing, "steps": steps}
    if config.dynamic_shift:
        attributes["tokens"] = TOKENS
    name = f"schedules.{label}"
    return ValueCase(
        name, "schedules", "make_schedule", attributes, {}, compute, FLOW_ROUNDINGS, perturb=False
    )


def table_roundings(table: np.ndarray) -> float:
    """Return the largest relative error of a table of sigmas in units of roundoff.

    alpha-bar of timestep t has 2 (t + 1) roundings, 3 sqrt(2 (t + 1)) units (Higham and Mary 2019),
    and d sigma / sigma = (1 + sigma^2) / (2 sigma^2) d alpha-bar / alpha-bar.
    """
    t = np.arange(len(table))
    return float(np.max(3.0 * np.sqrt(2.0 * (t + 1)) * (1.0 + table**2) / (2.0 * table**2))) + 64.0
