"""Judge the noise that is added to the latents of an image, for img2img and inpainting.

A diffusion model starts from sqrt(alpha-bar) x0 + sqrt(1 - alpha-bar) noise, or from
x0 + sigma noise; a flow from (1 - sigma) x0 + sigma noise.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.locate.pipeline.coverage import RecordedArray
from ldmref.locate.pipeline.images import judge_encoded, repeat_rows
from ldmref.locate.pipeline.noise_tests import judge_normal
from ldmref.locate.recorded.layouts import relative_error
from ldmref.locate.recorded.precision import round_to
from ldmref.math.forward import q_sample
from ldmref.math.schedules import alpha_bar_from_sigma, sigma_from_alpha_bar
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.trace.model import TraceEntry

NOISED = ("original_samples", "x0", "sample", "input")  # the latents of the image, by program
TIMES = ("timestep", "timesteps")
LEAST = 1e-4  # relative error: a table of alphas_cumprod in float32
EQUAL_FACTORS = 1e-3  # relative difference of fitted factors that are one
LEAST_OF_CHANNEL = 16  # values from which three factors of a channel can be told

Changes = dict[str, np.ndarray]


def judge_added_noise(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for noise that is added to the latents of an image (img2img, inpainting)."""
    for entry in context.calls("add_noise"):
        yield from _judge_sources(context, entry)
        x0 = context.read(entry, *NOISED)
        noise = context.read(entry, "noise")
        t = context.number(entry, *TIMES)
        output = context.recorded_output(entry)
        if x0 is None or noise is None or t is None or output is None:
            continue
        unknown = context.unknown_scheduler if np.isfinite(t) else f"its timestep is {t}"
        if unknown:
            yield context.not_judged(entry, "add_noise", unknown, *output.names)
            continue
        mix = _mix_of_flow if context.path is FLOW else _mix_of_diffusion
        expected, changes = mix(context, t, x0, noise)
        if context.path is FLOW:
            changes |= _fitted(output.array, x0, noise, expected)
        least = max(LEAST, context.rounding, 2.0 * _table_error(context, t, x0, noise))
        yield context.judge(output, "add_noise", expected, least=least, variants=changes.items())


def _table_error(context: PipelineContext, t: float, x0: np.ndarray, noise: np.ndarray) -> float:
    """Return the relative error of noised latents from a table of alpha-bar in the port's format.

    diffusers casts its table: in bfloat16, alpha-bar is 1 at the first training timesteps.
    """
    if context.path is FLOW or context.dtype not in ("float16", "bfloat16"):
        return 0.0
    table = training_alphas_cumprod(context.config)
    alpha_bar = table[min(max(int(t), 0), len(table) - 1)]
    right, rounded = (
        q_sample(x0, a, noise) for a in (alpha_bar, round_to(alpha_bar, context.dtype))
    )
    return relative_error(rounded, right)


def _judge_sources(context: PipelineContext, entry: TraceEntry) -> Iterator[Row]:
    """Yield rows for the image, the noise and the time of an addition."""
    x0 = context.recorded(entry, *NOISED)
    if x0 is not None:
        yield from _judge_image(context, entry, x0)
    yield from _judge_noise(context, entry)
    time = context.recorded(entry, *TIMES)
    timesteps = context.read_output(context.schedule_entry, "timesteps")
    if time is None or not time.array.size or timesteps is None:
        return
    order = context.port.calls
    following = [
        s for s in context.calls("sampler") if order.index(s.call) > order.index(entry.call)
    ]
    expected = context.number(following[0], "timestep") if following else None
    if expected is not None:
        t = np.ravel(time.array)
        words = f"the noise of timestep {t[0]:g} instead of {expected:g}, where the state is"
        right = np.full(t.shape, expected)
        yield context.judge(time.made(t), "noise time", right, least=1e-5, variants=[(words, t)])


def _judge_image(context: PipelineContext, entry: TraceEntry, x0: RecordedArray) -> Iterator[Row]:
    """Yield a row for the latents of the image, from the encoder or from the request."""
    segment = f"from the encoder to {entry.call}"
    row = judge_encoded(context, x0, "prepare_latents", segment)
    if row is not None:
        yield row
        return
    if context.calls("vae.encode"):
        why = "what was drawn from the encoder's distribution was not recorded"
        context.coverage.explain(x0.names, why)
        return
    requested = context.requested("image")
    if requested is not None and requested.shape[1:] == x0.array.shape[1:]:
        yield context.judge(x0, "encoded latents", repeat_rows(requested, len(x0.array)))
    else:
        context.coverage.give(x0.names)


def _judge_noise(context: PipelineContext, entry: TraceEntry) -> Iterator[Row]:
    """Yield a row for noise that was drawn, or that is not the given one.

    If the first noise is added again, it is judged once.
    """
    noise = context.recorded(entry, "noise")
    if noise is None:
        return
    requested = context.requested("latents")
    if requested is not None and requested.shape != noise.array.shape:
        context.coverage.give(noise.names)
        return
    if requested is not None:
        if not context.agrees(noise, requested):
            yield context.judge(noise, "noise", requested)
        return
    first = context.calls("add_noise")[0]
    earlier = None if first is entry else context.read(first, "noise")
    if earlier is None or not context.agrees(noise, earlier):
        yield judge_normal(context, noise, "noise")


def _mix_of_diffusion(
    context: PipelineContext, t: float, x0: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, Changes]:
    """Return noised latents of a diffusion model, and those of known faults."""
    table = training_alphas_cumprod(context.config)
    exploding = context.choose_sampler(context.config)[0].family == "euler"
    index = min(max(int(t), 0), len(table) - 1)
    sigma = context.sigma_at(t)  # schedules may have levels between those of the table
    if sigma is None:
        sigma = float(sigma_from_alpha_bar(table[index]))
    alpha_bar = float(alpha_bar_from_sigma(np.float64(sigma)))
    preserving = q_sample(x0, np.float64(alpha_bar), noise)
    exploded = x0 + sigma * noise
    changes = {
        "added as x0 + sigma noise, not variance-preserving": exploded,
        "added variance-preserving, not as x0 + sigma noise": preserving,
        "the noise is not added": x0,
        "only the noise": noise,
        "image and noise are exchanged": q_sample(noise, np.float64(alpha_bar), x0),
    }
    for name, step in (("next", 1), ("previous", -1)):
        other = float(table[min(max(index + step, 0), len(table) - 1)])
        changes[f"noise of the {name} training timestep"] = q_sample(x0, np.float64(other), noise)
    return exploded if exploding else preserving, changes


def _mix_of_flow(
    context: PipelineContext, t: float, x0: np.ndarray, noise: np.ndarray
) -> tuple[np.ndarray, Changes]:
    """Return noised latents of a flow, and those of known faults."""
    sigma = context.sigma_at(t)
    if sigma is None:
        sigma = t / context.config.num_train_timesteps

    def mixed(level: float) -> np.ndarray:
        return (1.0 - level) * x0 + level * noise

    changes = {
        "the noise is not added": x0,
        "only the noise": noise,
        "image and noise are exchanged": mixed(1.0 - sigma),
        "added as x0 + sigma noise: x0 is not multiplied by 1 - sigma": x0 + sigma * noise,
        "added variance-preserving, x0 by sqrt(1 - sigma^2)": np.sqrt(1.0 - sigma**2) * x0
        + sigma * noise,
    }
    schedule = context.make_schedule()
    if schedule is not None:
        index = int(np.argmin(np.abs(schedule.sigmas - sigma)))
        for name, i in (("next", index + 1), ("previous", index - 1)):
            if 0 <= i < len(schedule.sigmas):
                changes[f"noise of the {name} step"] = mixed(float(schedule.sigmas[i]))
    return mixed(sigma), changes


def _fitted(output: np.ndarray, x0: np.ndarray, noise: np.ndarray, expected: np.ndarray) -> Changes:
    """Return the mixture a x0 + b noise + c with factors of each channel that is nearest."""
    if output.ndim != 4 or not output.shape == x0.shape == noise.shape == expected.shape:
        return {}
    finite = all(np.isfinite(x).all() for x in (output, x0, noise, expected))
    if output[:, 0].size < LEAST_OF_CHANNEL or not finite:
        return {}
    nearest = np.empty_like(expected)
    ratios = []  # of the fitted factors to the right ones, by channel
    for k in range(output.shape[1]):
        terms = np.stack([x0[:, k].ravel(), noise[:, k].ravel(), np.ones(x0[:, k].size)], axis=1)
        got = np.linalg.lstsq(terms, output[:, k].ravel())[0]
        right = np.linalg.lstsq(terms, expected[:, k].ravel())[0]
        nearest[:, k] = (terms @ got).reshape(nearest[:, k].shape)
        ratios.append(
            [*np.divide(got[:2], right[:2], out=np.ones(2), where=right[:2] != 0), got[2]]
        )
    return {_describe(np.asarray(ratios)): nearest}


def _describe(ratios: np.ndarray) -> str:
    """Return in words what the factors of each channel, (c, 3), were multiplied by."""
    parts = []
    for name, factors in (("the image", ratios[:, 0]), ("the noise", ratios[:, 1])):
        if np.abs(factors - 1.0).max() < EQUAL_FACTORS:
            continue
        one = np.ptp(factors) < EQUAL_FACTORS * np.abs(factors).max()
        number = f"{factors[0]:.4g}" if one else f"{factors.min():.4g} to {factors.max():.4g}"
        parts.append(f"{name} is multiplied by {number}{'' if one else ' by channel'}")
    if np.abs(ratios[:, 2]).max() > EQUAL_FACTORS:
        shifts = f"{ratios[:, 2].min():.4g} to {ratios[:, 2].max():.4g}"
        parts.append(f"{shifts} is added")
    return "; ".join(parts) or "image and noise are mixed"
