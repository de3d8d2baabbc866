"""Classifier guidance: a denoiser guided by the classifier in a model's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ldmref.backends.base import Backend
from ldmref.errors import UsageError, did_you_mean
from ldmref.io.classifier import load_classifier
from ldmref.math.arrays import Array
from ldmref.math.conditioning import classifier_guidance
from ldmref.math.reverse import denoised_from_score, score_from_denoised
from ldmref.math.schedules import alpha_bar_from_sigma
from ldmref.models.classifier import ClassifierConfig, classifier
from ldmref.models.config import ModelConfig
from ldmref.models.params import Params, tree_map
from ldmref.samplers.interfaces import Denoiser
from ldmref.samplers.path import PURE_NOISE, VE, NoisePath
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import timesteps_at

if TYPE_CHECKING:
    from ldmref.models.model import LatentDiffusion


@dataclass(frozen=True)
class LatentClassifier:
    """log p(y | x) of noisy latents x = x0 + sigma eps, and its gradient; on the torch backend."""

    backend: Backend
    config: ClassifierConfig
    params: Params
    model: ModelConfig

    @classmethod
    def load(cls, folder: str | Path, model: LatentDiffusion) -> LatentClassifier:
        """Load the classifier in a model's folder, for that loaded model.

        Raises:
            InputError: The folder does not hold a classifier.
            UsageError: The model is not on the torch backend, which differentiates.
        """
        config, params = load_classifier(Path(folder))
        if not model.backend.name.startswith("torch"):
            message = f"a classifier's gradient needs the torch backend, not {model.backend.name}"
            raise UsageError(message, code="E-BACKEND", hint='ldmref.load(..., backend="torch")')
        return cls(model.backend, config, tree_map(model.backend.asarray, params), model.config)

    def label(self, name: str) -> int:
        """Return the index of a class.

        Raises:
            UsageError: The classifier does not have the class.
        """
        names = self.config.class_names
        if name not in names:
            hint = did_you_mean(name, names)
            raise UsageError(f"the classifier knows no {name!r}", code="E-CLASS", hint=hint)
        return names.index(name)

    def log_probabilities(self, x: Array, sigma: float) -> Array:
        """Return log p(y | x) of every class, (n, k), for x of shape (n, c, h, w)."""
        ops, xp = self.backend, self.backend.xp
        table = sampling_sigmas(self.model.scheduler)
        x = ops.own("x", x)
        t = xp.full((x.shape[0],), float(timesteps_at(table, sigma)), dtype=x.dtype)
        xt = x * float(alpha_bar_from_sigma(sigma)) ** 0.5
        logits = classifier(ops, self.params, self.config, xt, t)
        logits = logits - xp.max(logits, axis=1, keepdims=True)
        return logits - xp.log(xp.sum(xp.exp(logits), axis=1, keepdims=True))

    def gradient(self, x: Array, sigma: float, label: int) -> Array:
        """Return the gradient of log p(label | x) with respect to x, shape of `x`."""
        ops = self.backend

        def log_probability(x: Array) -> Array:
            return ops.xp.sum(self.log_probabilities(x, sigma)[:, label])

        return ops.gradient(log_probability, ops.own("x", x))


def classifier_denoiser(
    denoise: Denoiser,
    guide: LatentClassifier,
    label: int,
    scale: float,
    path: NoisePath = VE,
) -> Denoiser:
    r"""Return a denoiser of p(x) p(y | x)^s, from a denoiser of p(x).

    At scale 1 it is the denoiser of p(x | y), by the score of p(x, y) = p(x) p(y | x).

    Args:
        denoise: The denoiser without a condition: `ldmref.denoiser(model, "")`.
        guide: The classifier of the same latents.
        label: The index of the class, see `LatentClassifier.label`.
        scale: s; at 0 the result equals `denoise`.
        path: The path of x and sigma; `FLOW` for models of flow matching. The classifier sees
            x / alpha, which is x0 + sigma eps at the same ratio of noise to data, and is not asked
            about pure noise, which belongs to no class.

    Source: Dhariwal and Nichol 2021, arXiv:2105.05233, section 4.2, in these coordinates.
    """

    def guided(x: Array, sigma: float) -> Array:
        x0 = denoise(x, sigma)
        ratio = path.ratio(sigma)
        if ratio >= PURE_NOISE:
            return x0
        z = x * (1.0 + path.fade * ratio)
        score = score_from_denoised(z, x0, ratio)
        score = classifier_guidance(score, guide.gradient(z, ratio, label), scale)
        return denoised_from_score(z, score, ratio)

    return guided
