"""The question of piece 3: a loop of gradient steps that reaches the smallest possible loss.

The loop is watched as it runs: which data, timesteps and noise it takes, and which losses it
returns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ldmref.check.capstone.questions import Question, Student, outcome
from ldmref.check.comparison import as_numpy
from ldmref.check.results import CheckResult
from ldmref.math import (
    alphas_cumprod,
    eps_from_x0,
    linear_betas,
    log_snr,
    q_sample,
    sigma_from_alpha_bar,
    v_from_x0_eps,
)
from ldmref.testing import three_modes

STEPS = 1500
ALLOWED = 0.05  # above the smallest possible loss
FEW = 10_000  # data for all steps: with more, one large batch is as good as fresh ones
ENOUGH = 2000  # examples, in which no timestep is left out by chance
FEW_EXAMPLES = 16  # in a batch, whose loss says little
BELOW = 2.5  # a loss below it counts more: only chance can take it there
LAW = "the loss of the last 200 steps is near the smallest possible"
CALL = "train(draw=<draw>, features=<features>, alpha_bar=[...] (100), steps=1500, rng=<rng>)"


class WatchedTraining:
    """Data and features of a training, which record what the loop asks for."""

    def __init__(self, student: Student):
        self.array = student.array
        self.rng = student.rng("train")
        self.chain = alphas_cumprod(linear_betas(100, 1e-3, 0.12))
        self.frequencies = self.rng.standard_normal((3, 256)) * [[1.2], [1.2], [0.6]]
        self.phases = self.rng.uniform(0, 2 * np.pi, 256)
        self.problem = three_modes()
        self.drawn = np.zeros((0, 2))
        self.steps: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # x_0, x_t, t

    def draw(self, n: int) -> Any:
        """Return n points of the mixture."""
        self.drawn = self.problem.sample(n, self.rng)
        return self.array(self.drawn)

    def features(self, xt: object, t: object) -> Any:
        """Return cosines of the point and the log-SNR, the point, and 1."""
        points, times = as_numpy(xt), as_numpy(t).astype(int)
        if points.shape == self.drawn.shape:
            if len(self.steps) == 1 and len(self.steps[0][1]) < len(points):
                self.steps.clear()  # one example, to learn the number of features
            self.steps.append((self.drawn, points, times))
        return self.array(self.of(points, times))

    def has_one_batch(self) -> bool:
        """Return whether all steps take the same few data, on which a loss may be too good."""
        data = {id(x0) for x0, _, _ in self.steps}
        return len(self.steps) >= STEPS and len(data) == 1 and len(self.drawn) < FEW

    def of(self, xt: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return the features as NumPy computes them."""
        inputs = np.concatenate([xt, 0.5 * log_snr(self.chain[t])[:, None]], axis=1)
        waves = np.cos(inputs @ self.frequencies + self.phases)
        return np.concatenate([waves, xt, np.ones((len(xt), 1))], axis=1)

    def best_and_own(self, layer: np.ndarray, n: int = 100_000) -> tuple[float, dict[str, float]]:
        """Return the error of E[eps | x_t], and those of a layer for each target, on fresh data."""
        x0, t = self.problem.sample(n, self.rng), self.rng.integers(100, size=n)
        eps = self.rng.standard_normal((n, 2))
        xt = q_sample(x0, self.chain[t], eps)
        best = 0.0
        for i, a in enumerate(self.chain):
            at = t == i
            x0_hat = self.problem.denoise(xt[at] / np.sqrt(a), sigma_from_alpha_bar(a))
            best += float(np.sum((eps_from_x0(xt[at], x0_hat, a) - eps[at]) ** 2))
        few = slice(0, 20_000)
        predicted = self.of(xt[few], t[few]) @ layer
        v = v_from_x0_eps(x0[few], eps[few], self.chain[t[few]])
        targets = {"the noise": eps[few], "x0": x0[few], "v": v}
        own = {name: float(np.mean((predicted - y) ** 2)) for name, y in targets.items()}
        return best / eps.size, own


def trainings(student: Student) -> Iterator[CheckResult]:
    """Yield the mark of a training."""
    watched = WatchedTraining(student)
    arguments = {"draw": watched.draw, "features": watched.features}
    question = Question("train", LAW, arguments, {}, (), allowed=ALLOWED)
    rng = watched.rng
    if student.backend.name == "torch":
        import torch

        rng = torch.Generator().manual_seed(student.seed)
    try:
        returned = student.module.train(
            watched.draw, watched.features, student.array(watched.chain), STEPS, rng
        )
        layer, losses = map(as_numpy, returned)
        if layer.shape != (259, 2) or losses.shape != (STEPS,):
            raise ValueError(
                f"shapes {layer.shape} and {losses.shape} instead of (259, 2), (1500,)"
            )
        best, own = watched.best_and_own(layer)
    except Exception as error:  # a student's function may fail in any way
        verdict = f"ERROR: {type(error).__name__}: {error}"
        hint = "hint: train returns the layer's weights, (k, d), and the mean loss of each step"
        yield outcome(question, np.inf, verdict, f"raised{student.where(error)}", (CALL,), (hint,))
        return
    last = float(losses[-200:].mean())
    is_finite = np.isfinite(losses).all() and np.isfinite(layer).all()
    above = last / best - 1.0 if is_finite else np.inf
    worst = max(above, -BELOW * above)
    if watched.has_one_batch() or _unseen_by_the_loss(watched):
        worst = np.inf  # the loss may be low nevertheless
    if worst <= ALLOWED:
        yield outcome(question, worst, "ok")
        return
    detail = (
        f"loss {losses[0]:.3g} at first, {last:.3g} at last; the smallest possible is {best:.3g}"
    )
    hint = f"hint: {_mistake(watched, losses, best, own)}"
    yield outcome(question, worst, "FAILED", detail, (CALL,), (hint,))


def _mistake(
    watched: WatchedTraining, losses: np.ndarray, best: float, own: dict[str, float]
) -> str:
    """Return the mistake that the record of a training shows."""
    last = float(losses[-200:].mean())
    return (
        _wrong_data(watched)
        or _unseen_by_the_loss(watched)
        or _uneven_times(watched)
        or _wrong_noise(watched)
        or _wrong_reports(losses, last, own)
        or _wrong_steps(losses, best, last, len(watched.steps[-1][0]))
    )


def _wrong_data(watched: WatchedTraining) -> str:
    if len(watched.steps) < STEPS:
        return (
            f"features(xt, t) is called {len(watched.steps)} times on the batch last drawn, in "
            f"{STEPS} steps: each step draws fresh data"
        )
    if watched.has_one_batch():
        return "all steps train on the same data: Algorithm 1 draws a fresh batch in each step"
    batch = len(watched.steps[0][0])
    times = np.concatenate([t for _, _, t in watched.steps[-200:]])
    if all(len({*t.tolist()}) == 1 for _, _, t in watched.steps[-200:]) and batch > 1:
        always = len({*times.tolist()}) == 1
        return (
            f"all examples have the timestep {times[0]}"
            if always
            else "a whole batch has one timestep"
        ) + ": Algorithm 1 draws t for each example, uniformly from all"
    return ""


def _unseen_by_the_loss(watched: WatchedTraining) -> str:
    """Return a mistake in noise or timesteps that the loss hardly shows."""
    if len(watched.steps) < STEPS:
        return ""
    first, second = (
        (xt - np.sqrt(watched.chain[t])[:, None] * x0) / np.sqrt(1.0 - watched.chain[t])[:, None]
        for x0, xt, t in watched.steps[-2:]
    )
    if first.shape == second.shape and np.allclose(first, second, atol=1e-3):
        return "all steps have the same noise: Algorithm 1 draws fresh noise for each batch"
    x0, xt, t = (np.concatenate(parts) for parts in zip(*watched.steps, strict=True))
    missing = np.flatnonzero(np.bincount(t, minlength=100) == 0)
    if len(t) > ENOUGH and len(missing):
        return (
            f"timesteps are from 0 to 99, and {len(missing)} of 100 are never drawn: "
            f"{', '.join(map(str, missing[:3]))}. "
            "Upper ends are excluded by rng.integers and torch.randint"
        )
    early = np.isin(t, (1, 2, 3))  # where neighbours differ most
    for shift in (-1, 1):
        of_other, of_own = (
            np.mean((xt[early] - np.sqrt(a) * x0[early]) ** 2 / (1.0 - a))
            for a in (watched.chain[t[early] + s][:, None] for s in (shift, 0))
        )
        if np.abs(of_other - 1.0) < 0.1 < np.abs(of_own - 1.0):
            return (
                f"xt has the noise of t {'-' if shift < 0 else '+'} 1, and features reads t: "
                "timesteps count from 0, so alpha_bar[t] belongs to t"
            )
    return ""


def _uneven_times(watched: WatchedTraining) -> str:
    times = np.concatenate([t for _, _, t in watched.steps[-200:]])
    share = np.bincount(times, minlength=100)[:100] / len(times)
    if len(times) > ENOUGH and (share.min() < 0.2 / 100 or share.max() > 5 / 100):
        return (
            f"timesteps are not uniform: {int((share == 0).sum())} of 100 are never drawn, t = "
            f"{share.argmax()} in {share.max():.0%} of the examples"
        )
    return ""


def _wrong_noise(watched: WatchedTraining) -> str:
    x0, xt, t = (np.concatenate(parts) for parts in zip(*watched.steps[-200:], strict=True))
    a = watched.chain[t][:, None]
    eps = (xt - np.sqrt(a) * x0) / np.sqrt(1.0 - a)
    noisy = t > 60
    if np.abs(np.mean(eps**2) - 1.0) < 0.05:
        return ""
    ratio = np.mean(eps**2 / (1.0 - a))
    if np.abs(ratio - 1.0) < 0.05:
        return "noise is multiplied by 1 - alpha_bar, not by its root: xt = ... + sqrt(1 - a) eps"
    twice = (xt - a**0.25 * x0) / np.sqrt(1.0 - np.sqrt(a))
    if np.abs(np.mean(twice**2) - 1.0) < 0.05:
        return "the root of alpha_bar is taken twice: q_sample and training_loss want alpha_bar"
    swapped = (xt - np.sqrt(1.0 - a) * x0) / np.sqrt(a)
    if np.abs(np.mean(swapped**2) - 1.0) < 0.05:
        return "the roots of alpha_bar and 1 - alpha_bar are exchanged"
    unscaled = (xt - a * x0) / np.sqrt(1.0 - a)
    if np.abs(np.mean(unscaled**2) - 1.0) < 0.05:
        return "the data are multiplied by alpha_bar, not by its root"
    return (
        "xt is not sqrt(a) x0 + sqrt(1 - a) eps with standard normal eps and alpha_bar at t: the "
        f"noise in it has the mean square {np.mean(eps[noisy] ** 2):.3g} at late timesteps"
    )


def _wrong_reports(losses: np.ndarray, last: float, of_target: dict[str, float]) -> str:
    if not np.isfinite([*losses, *of_target.values()]).all():
        return "the loss becomes infinite: the learning rate is too large, or a sign is wrong"
    own = of_target["the noise"]
    learned = min(of_target, key=lambda name: of_target[name])
    if of_target[learned] < 0.7 * own:
        return f"the layer has learned to predict {learned}; its target is the noise"
    ratio = last / own
    if own < 1.0 and (1.8 < ratio < 2.2 or ratio < 0.6):
        says = "the sum over the coordinates" if ratio > 1.0 else "another number"
        return (
            f"the layer's true loss is {own:.3g}, but {last:.3g} is returned: the loss of a step "
            f"is the mean over examples and coordinates, and this looks like {says}"
        )
    return ""


def _wrong_steps(losses: np.ndarray, best: float, last: float, batch: int) -> str:
    if last > 1.2 * losses[0] and batch >= FEW_EXAMPLES:
        if losses[:50].min() < 0.9 * losses[0]:
            return (
                "the loss falls and then rises: gradients of earlier steps are added up (PyTorch "
                "wants zero_grad in each step), or the learning rate is far too large"
            )
        return "the loss rises from the start: steps go up the gradient (a sign)"
    if batch < FEW_EXAMPLES:
        return (
            f"the gradient of {batch} example{'s' if batch > 1 else ''} in a step is mostly noise: "
            "take the mean over some hundred"
        )
    if last > 0.95 * losses[0]:
        return "the loss does not fall: the layer's weights are not changed, or hardly"
    late = losses[-STEPS // 2 : -STEPS // 4].mean()
    if late - last < 0.02 * best:
        return (
            "the loss stays above the smallest possible: let the learning rate fall to 0 in the "
            "course of the steps, or begin with another one, such as 0.02"
        )
    return "the loss still falls at the end: the learning rate is too small, or falls too early"
