"""Cases of samplers: all states of a run, for a given sequence of predictions and noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ldmref.cases.parameters import random_array
from ldmref.cases.values import NamedArrays, ValueCase
from ldmref.math.sigmas import karras_sigmas
from ldmref.models.presets import PRESETS
from ldmref.samplers.config import SchedulerConfig
from ldmref.samplers.configure import configured_step
from ldmref.samplers.guidance_registry import BUILT_IN
from ldmref.samplers.interfaces import Guided, GuidedDenoiser, History, Interval, Step
from ldmref.samplers.loop import sample
from ldmref.samplers.path import FLOW, VE, NoisePath
from ldmref.samplers.registry import SAMPLERS
from ldmref.samplers.sampler import Sampler
from ldmref.samplers.schedule import make_schedule

SHAPE = (2, 3)
STEPS = 6
SIGMA_MIN = 0.0292
SIGMA_MAX = 14.6146
SHIFT = 3.0  # of the levels of a flow, as in Stable Diffusion 3
SCALE = 1.5  # of samplers that guide themselves


def sampler_cases() -> Iterator[ValueCase]:
    """Yield runs of every sampler on Karras' noise levels, in diffusers' convention and on a flow.

    Samplers that guide themselves have no case on a flow.
    """
    sigmas = np.append(karras_sigmas(STEPS, SIGMA_MIN, SIGMA_MAX, 7.0), 0.0)
    scheduler = PRESETS["sd15"].scheduler
    for name, sampler in SAMPLERS.items():
        if not sampler.adaptive:  # an adaptive method has as many predictions as its roundings say
            yield _case(f"samplers.{name}", sampler, sampler.make(), sigmas, range(STEPS + 1))
    for name, sampler in SAMPLERS.items():
        schedule = make_schedule(scheduler, sampler, None, STEPS)
        if sampler.adaptive or schedule.convention != "diffusers" or sampler.block:
            continue
        step, visits = configured_step(scheduler, sampler, schedule)
        label = f"samplers.diffusers.{name}"
        yield _case(label, sampler, step, schedule.sigmas, visits, convention="diffusers")
    flow = SchedulerConfig(prediction_type="flow", shift=SHIFT)
    for name, sampler in SAMPLERS.items():
        if sampler.adaptive or sampler.own_guidance:
            continue
        schedule = make_schedule(flow, sampler, "flow", STEPS)
        step, visits = configured_step(flow, sampler, schedule)
        yield _case(f"samplers.flow.{name}", sampler, step, schedule.sigmas, visits, path=FLOW)


def _case(
    name: str,
    sampler: Sampler,
    step: Step,
    sigmas: np.ndarray,
    visits: Sequence[int],
    convention: str = "",
    path: NoisePath = VE,
) -> ValueCase:
    data = Recorded(name, sigmas, path)
    run_sampler(step, data.x, data.sigmas, visits, data.predict, data.draw, path)
    inputs = {"sigmas": data.sigmas, "x": data.x, "predictions": np.stack(data.predictions)}
    if sampler.unconditional:
        inputs["unconditional"] = np.stack(data.unconditional)
    if data.noise:
        inputs["noise"] = np.stack(data.noise)

    def compute(arrays: NamedArrays) -> NamedArrays:
        replay = Replayed(arrays)
        sigmas = arrays["sigmas"]
        if path is FLOW:  # pure noise is at exactly 1, also in float32
            sigmas = np.where(data.sigmas == 1.0, 1.0, sigmas)
        predict, draw = replay.predict, replay.draw
        states = run_sampler(step, arrays["x"], sigmas, visits, predict, draw, path)
        return {
            "states": states,
            "evaluated_sigmas": np.asarray(replay.sigmas),
            "evaluated_x": np.stack(replay.x),
        }

    attributes: dict[str, Any] = {"sampler": sampler.name, "source": sampler.source}
    if sampler.eta is not None:
        attributes["eta"] = sampler.eta
    if sampler.own_guidance:
        attributes["cfg_scale"] = SCALE
    if convention:
        attributes["convention"] = convention
    if path is not VE:
        attributes["path"] = path.name
    if list(visits) != list(range(len(sigmas))):
        attributes["visits"] = list(visits)
    return ValueCase(name, "samplers", sampler.name, attributes, inputs, compute, 16.0 * STEPS)


def run_sampler(
    step: Step,
    x: np.ndarray,
    sigmas: np.ndarray,
    visits: Sequence[int],
    predict: Any,
    draw: Any,
    path: NoisePath = VE,
) -> np.ndarray:
    """Return the states after every step, (steps, ...)."""

    def guided(
        x: np.ndarray,
        sigma: float,
        memory: History,
        unconditional: bool,
        _: Interval | None,
        scale: float | None,
    ) -> Guided:
        x0, uncond = predict(x, sigma)
        return Guided(x0, uncond if unconditional else None, memory, SCALE)

    denoise = GuidedDenoiser(guided)
    run = sample(denoise, x, sigmas, step, noise=draw, visits=visits, path=path)
    return np.stack([state.x for state in run])


class Recorded:
    """The exact denoiser of normal data, whose predictions and noise are kept."""

    def __init__(self, name: str, sigmas: np.ndarray, path: NoisePath = VE):
        self.name = name
        self.path = path
        self.sigmas = np.asarray(sigmas, np.float64)
        self.x = self.sigmas[0] * random_array("samplers/x", SHAPE).astype(np.float64)
        self.mean = random_array("samplers/mean", SHAPE).astype(np.float64)
        self.uncond = random_array("samplers/uncond", SHAPE).astype(np.float64)
        self.variance = 0.25 + random_array("samplers/variance", SHAPE).astype(np.float64) ** 2
        self.predictions: list[np.ndarray] = []
        self.unconditional: list[np.ndarray] = []
        self.noise: list[np.ndarray] = []

    def predict(self, x: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Return E[x0 | x] for two means, with and without a prompt."""
        alpha = self.path.alpha(sigma)
        weight = alpha * self.variance / (alpha**2 * self.variance + sigma**2)
        cond, uncond = (m + weight * (x - alpha * m) for m in (self.mean, self.uncond))
        self.predictions.append(cond)
        self.unconditional.append(uncond)
        return cond, uncond

    def draw(self) -> np.ndarray:
        """Return the next noise."""
        noise = random_array(f"samplers/noise/{len(self.noise)}", SHAPE)
        self.noise.append(noise.astype(np.float64))
        return self.noise[-1]


class Replayed:
    """A denoiser that returns given predictions one after the other, and notes where."""

    def __init__(self, inputs: NamedArrays):
        self.inputs = inputs
        self.sigmas: list[float] = []
        self.x: list[np.ndarray] = []
        self.draws = 0

    def predict(self, x: np.ndarray, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        """Return the next prediction, with and without the prompt."""
        i = len(self.sigmas)
        self.sigmas.append(sigma)
        self.x.append(x)
        arrays = self.inputs["predictions"]
        return arrays[i], self.inputs.get("unconditional", arrays)[i]

    def draw(self) -> np.ndarray:
        """Return the next noise."""
        self.draws += 1
        return self.inputs["noise"][self.draws - 1]


def guidance_cases() -> Iterator[ValueCase]:
    """Yield every guidance at two scales; those with a memory make two steps."""
    shape = (2, 4, 3, 3)
    sigma = 2.0
    for cls in BUILT_IN:
        guidance = cls()
        for scale in (1.0, 7.5):
            names = guidance.needs(sigma, scale)
            steps = 2 if guidance.remembers else 1
            inputs = {
                f"{name}.{step}": random_array(f"guidance/{name}/{step}", shape).astype(float)
                for step in range(steps)
                for name in names
            }

            def compute(
                arrays: NamedArrays, guidance=guidance, scale=scale, names=names, steps=steps
            ) -> NamedArrays:
                memory: History = ()
                outputs = {}
                for step in range(steps):
                    predictions = {name: arrays[f"{name}.{step}"] for name in names}
                    y, memory = guidance(predictions, sigma, scale, memory)
                    outputs[f"guided.{step}"] = y
                return outputs

            record = dict(guidance.record)
            attributes = record | {"sigma": sigma, "cfg_scale": scale, "on": on(guidance)}
            name = f"guidance.{cls.name}.{scale:g}"
            yield ValueCase(name, "guidance", cls.name, attributes, inputs, compute, 64.0)


def on(guidance: Any) -> str:
    """Return what a guidance combines: "x0", "flow" (velocities) or the network's "prediction"."""
    return guidance.combines("prediction")
