"""Judge a training step: the noising, the target, and the losses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ldmref.locate.findings import Row
from ldmref.locate.parts.scheduler_faults import config_faults
from ldmref.locate.pipeline.context import PipelineContext
from ldmref.math.flow import flow_sample, flow_velocity
from ldmref.math.forward import q_sample
from ldmref.math.objective import min_snr_weight
from ldmref.math.prediction import v_from_x0_eps
from ldmref.samplers.path import FLOW
from ldmref.samplers.schedule import training_alphas_cumprod
from ldmref.trace.model import TraceEntry

GAMMA = 5.0  # the usual bound of min-SNR
LEAST = 1e-5  # relative error of alphas_cumprod from a float32 table, in the noised latents


def read_objective(context: PipelineContext) -> tuple[str, float]:
    """Return the loss and the gamma of min-SNR of a recorded recipe of ldmref."""
    objective = context.diffusion_stage.get("objective", {})
    return objective.get("loss", "simple"), float(objective.get("snr_gamma", GAMMA))


def loss_weights(
    context: PipelineContext, timesteps: np.ndarray, gamma: float
) -> dict[str, np.ndarray]:
    """Return the factors of the examples' squared errors, (n,), for each loss that has such."""
    weights = {"simple": np.ones(timesteps.size)}
    if context.config.path is not FLOW:
        alpha_bar = training_alphas_cumprod(context.config)[np.ravel(timesteps).astype(np.int64)]
        weights["min_snr"] = min_snr_weight(alpha_bar, context.config.prediction_type, gamma)
    return weights


def judge_training(context: PipelineContext) -> Iterator[Row]:
    """Yield rows for every recorded training step, as far as its arrays were recorded."""
    for entry in context.calls("train"):
        timesteps = context.read(entry, "timesteps")
        if timesteps is None:
            yield context.not_judged(entry, "noising", "the timesteps were not recorded")
            continue
        yield from _judge_step(context, entry, np.ravel(timesteps))


def _judge_step(context: PipelineContext, entry: TraceEntry, t: np.ndarray) -> Iterator[Row]:
    x0 = context.read(entry, "x0")
    noise = context.read(entry, "noise")
    if x0 is not None and noise is not None:
        x_t = context.recorded(entry, "x_t")
        if x_t is not None:
            (_, expected), *others = _noisings(context, t, x0, noise)
            yield context.judge(x_t, "noising", expected, least=LEAST, variants=others)
        target = context.recorded(entry, "target")
        if target is not None:
            targets = _targets(context, t, x0, noise)
            kind = context.config.prediction_type
            expected = targets.pop(kind)
            others = [(f"{name} instead of {kind}", array) for name, array in targets.items()]
            yield context.judge(target, "target", expected, least=LEAST, variants=others)
    yield from _judge_losses(context, entry, t)


def _noisings(
    context: PipelineContext, t: np.ndarray, x0: np.ndarray, noise: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the noisy latents, then what known faults give as such."""
    scale = context.latent_scale
    unscaled = context.denormalize(x0)
    z = None if unscaled is None else scale.fold(unscaled)
    if context.config.path is FLOW:
        s = t / context.config.num_train_timesteps
        yield "", flow_sample(x0, noise, s)
        yield "x0 and noise swapped: the time is 1 - s", flow_sample(noise, x0, s)
        yield "the time is not divided by its number of steps", flow_sample(x0, noise, t)
        if z is not None:
            yield "latents without the scaling factor", flow_sample(z, noise, s)
        return
    alphas = training_alphas_cumprod(context.config)
    t = t.astype(np.int64)
    last = len(alphas) - 1
    alpha_bar = alphas[t]
    column = alpha_bar.reshape(-1, *[1] * (x0.ndim - 1))
    yield "", q_sample(x0, alpha_bar, noise)
    yield "x0 and noise swapped", q_sample(noise, alpha_bar, x0)
    yield "alpha_bar instead of its square root", column * x0 + (1.0 - column) * noise
    for offset in (-1, 1):
        moved = alphas[np.clip(t + offset, 0, last)]
        yield f"alpha_bar of timestep t {offset:+d}", q_sample(x0, moved, noise)
    for text, changed in config_faults(context.config):
        yield text, q_sample(x0, training_alphas_cumprod(changed)[t], noise)
    if z is not None:
        yield "latents without the scaling factor", q_sample(z, alpha_bar, noise)


def _targets(
    context: PipelineContext, t: np.ndarray, x0: np.ndarray, noise: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the targets of each prediction type, and the negative ones."""
    targets = {"eps": noise, "x0": x0}
    if context.config.path is FLOW:
        targets["flow"] = flow_velocity(x0, noise)
    else:
        alpha_bar = training_alphas_cumprod(context.config)[t.astype(np.int64)]
        targets["v"] = v_from_x0_eps(x0, noise, alpha_bar)
    return targets | {f"-{name}": -array for name, array in targets.items()}


def _judge_losses(context: PipelineContext, entry: TraceEntry, t: np.ndarray) -> Iterator[Row]:
    """Yield rows for the loss of each example, and for their mean."""
    losses = context.recorded_output(entry, "losses")
    prediction = context.recorded(entry, "prediction")
    target = context.read(entry, "target")
    if losses is not None and prediction is not None and target is not None:
        kind, gamma = read_objective(context)
        weights = loss_weights(context, t, gamma)
        if kind not in weights:
            why, names = f"the loss {kind!r} is not recomputed", (*losses.names, *prediction.names)
            yield context.not_judged(entry, "losses", why, *names)
        else:
            error = prediction.array[:, : target.shape[1]] - target
            axes = tuple(range(1, error.ndim))
            squares = np.mean(error**2, axis=axes)
            expected = weights[kind] * squares
            names = {
                "simple": "the plain squared error",
                "min_snr": f"min-SNR with gamma {gamma:g}",
            }
            others = [
                (names[other], weights[other] * squares) for other in weights if other != kind
            ]
            others += [("the sum instead of the mean", np.sum(error**2, axis=axes))]
            others += [("the absolute error", np.mean(np.abs(error), axis=axes))]
            got = losses.made(losses.array, prediction)  # of which nothing else follows
            yield context.judge(got, "losses", expected, least=LEAST, variants=others)
    loss = context.recorded_output(entry, "loss")
    if loss is not None and losses is not None:
        got = loss.made(np.ravel(loss.array))
        others = [("the sum instead of the mean", np.sum(losses.array, keepdims=True))]
        mean = np.mean(losses.array, keepdims=True)
        row = context.judge(got, "loss", mean, least=LEAST, variants=others)
        yield replace(row, segment="the mean over the examples")
