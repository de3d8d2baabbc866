"""The errors of images: the first model's run again, with one layer or all layers exchanged."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ldmref.ledger.weights import ChangedWeights, perturb
from ldmref.models.model import LatentDiffusion
from ldmref.models.params import flatten, unflatten
from ldmref.modes.run import Run
from ldmref.modes.trajectory import SILENT

STEPS = 127.5  # steps of 8 bits for a unit of an image in [-1, 1]


class ImageMeter:
    """Generates the images of a run with other weights, and says how far they are.

    Prompts are encoded once: only the denoiser differs.

    Args:
        run: The run of the first model, prepared.
    """

    def __init__(self, run: Run):
        self._run = run
        self._network = run.model.config.denoiser.network
        self.images = generate(run)

    def distance(self, weights: Mapping[str, np.ndarray]) -> float:
        """Return the root mean square of the change of the images, in steps of 8 bits.

        Args:
            weights: The parameters of the denoiser that are exchanged, by name.
        """
        model = exchange(self._run.model, self._network, weights)
        return rms(generate(replace(self._run, model=model)) - self.images)

    def of_layer(self, changed: ChangedWeights, name: str) -> float:
        """Return the change if one parameter is the other model's."""
        return self.distance({name: changed[name][1]})

    def of_control(self, changed: ChangedWeights, name: str, seed: int) -> float:
        """Return the change if one parameter is perturbed at random."""
        return self.distance({name: perturb(*changed[name], name, seed)})

    def of_all(self, changed: ChangedWeights) -> float:
        """Return the change if all parameters are the other model's."""
        return self.distance({name: changed[name][1] for name in changed})

    def of_all_controls(self, changed: ChangedWeights, seed: int) -> float:
        """Return the change if all these parameters are perturbed at random."""
        return self.distance({n: perturb(*changed[n], n, seed) for n in changed})


def exchange(
    model: LatentDiffusion, network: str, weights: Mapping[str, np.ndarray]
) -> LatentDiffusion:
    """Return a copy of a model with other parameters of one network; all others are shared."""
    ops = model.backend
    brought = {name: ops.weight(x.astype(np.float32)) for name, x in weights.items()}
    tree = unflatten(flatten(model.params[network]) | brought)
    return model.with_params({network: tree}, ops)


def generate(run: Run) -> np.ndarray:
    """Return the images of a run in steps of 8 bits, not rounded, (n, 3, h, w) float64."""
    model = run.model
    images = []
    for batch in run.text.batches(run.job.batch_size):
        latents = _finish(run.sample_batch(batch, None, SILENT))
        with model.backend.inference():
            decoded = model.backend.to_numpy(model.decode(latents, run.job.tile))
        images.append(STEPS * np.clip(decoded.astype(np.float64), -1, 1))
    return np.concatenate(images)


def rms(x: np.ndarray) -> float:
    """Return the root mean square of all numbers."""
    return float(np.sqrt(np.mean(np.square(x))))


def _finish(steps: Generator[Any, None, np.ndarray]) -> np.ndarray:
    """Return what a generator returns, after all that it yields."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
