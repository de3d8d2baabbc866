"""A training from nothing reaches every parameter, and leaves those that are computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.models.config import ModelConfig
from ldmref.models.params import Params, flatten
from ldmref.models.text_kind import kind_of
from ldmref.samplers.path import FLOW
from ldmref.testing.family.report import Findings, NotChecked, shorten
from ldmref.testing.family.subject import LATENTS, Subject, require
from ldmref.training.family_rules import training_rules_of

STEPS = 4  # zero layers let gradients through one after the other
BATCH = 4
NOTICEABLE = 1e-9  # of the largest gradient; a key's bias has none but rounding


def check_training(subject: Subject, found: Findings) -> None:
    """Check that a gradient reaches each trained parameter within four steps from nothing.

    Layers that begin at zero, as the family says, hide those before them in the first step.
    """
    with found.about(""):
        require("torch")
        for name, config in subject.require_small().items():
            with found.about(f"{name!r}"):
                _require_trainable(name, config)
                for line in _train(subject, name, config):
                    found.problem(f"{name!r}: {line}")


def _require_trainable(name: str, config: ModelConfig) -> None:
    """Leave out models that no recipe trains."""
    if config.image_channels:
        raise NotChecked("it also reads an image, which no training gives it")
    for text in config.text_encoders:
        kind = kind_of(text)
        if not kind.trained:
            raise NotChecked(f"no recipe trains a text encoder of the kind {kind.name!r}")


class Reached:
    """Keeps how large the gradients of each parameter were, as a part of the largest of a step."""

    def __init__(self) -> None:
        self.sizes: dict[str, float] = {}

    def begin(self, step: int, ops: object) -> Any:
        """Return the backend as it is."""
        return ops

    def batch(self, batch: object) -> None:
        """See a batch."""

    def end(self, gradients: Mapping[str, Any], norm: float, loss: float, rate: float) -> None:
        """See the gradients of a step."""
        sizes = {name: float(x.abs().max()) for name, x in gradients.items()}
        largest = max(sizes.values())
        for name, size in sizes.items():
            self.sizes[name] = max(self.sizes.get(name, 0.0), size / largest)


def _train(subject: Subject, name: str, config: ModelConfig) -> Iterator[str]:
    """Train a small model for some steps; yield what was not as declared."""
    from ldmref.training.diffusion.stage import has_unused_layers, initial_params

    start = flatten(initial_params(config, 0))
    network = f"{config.denoiser.network}."
    reached, moved = _run_steps(subject, name, config)
    fixed = training_rules_of(subject.family).fixed(config)
    touched = sorted({*fixed} & moved)
    if touched:
        yield f"{shorten(touched)} is computed (TrainingRules.fixed), and a training changes it"
    required = [n for n in start if n not in fixed]
    if has_unused_layers(config):  # of text encoders
        required = [n for n in required if n.startswith(network)]
    unread = {*subject.options.unread(config)}
    silent = [n for n in required if not reached.get(n) and n.removeprefix(network) not in unread]
    if silent:
        yield f"no gradient reaches {len(silent)} parameters: {shorten(silent)}"
    read = [n for n in required if reached.get(n) and n.removeprefix(network) in unread]
    if read:
        yield f"a gradient reaches {shorten(read)}, which nothing reads (unread=)"
    still = [n for n in required if reached.get(n, 0.0) > NOTICEABLE and n not in moved]
    if still:
        yield f"{STEPS} steps do not move {shorten(still)}"


def _run_steps(
    subject: Subject, name: str, config: ModelConfig
) -> tuple[dict[str, float], set[str]]:
    """Return how large the gradients of each parameter were, and which parameters changed."""
    from ldmref.backends.torch import TorchBackend
    from ldmref.training.diffusion.latents import Latents, NoisyLatents
    from ldmref.training.diffusion.stage import (
        Condition,
        DenoiserTraining,
        diffusion_trainer,
        initial_params,
    )
    from ldmref.training.recipes.schema import (
        Budget,
        DiffusionObjective,
        DiffusionStage,
        OptimizerConfig,
    )

    ops = TorchBackend("cpu", "float64")
    shape = (2, BATCH, config.vae.latent_channels, LATENTS, LATENTS)
    latents = Latents(*np.random.default_rng(0).standard_normal(shape))
    prompts = subject.prompts(config)
    learned = config.denoiser.out_channels == 2 * config.vae.latent_channels
    loss = "hybrid" if learned and config.scheduler.path is not FLOW else "simple"
    stage = DiffusionStage(
        DiffusionObjective(loss=loss, caption_dropout=0.0),
        OptimizerConfig(batch_size=BATCH, warmup=0, learning_rate=0.01),
        Budget(STEPS),
    )
    watch = Reached()
    as_they_are = LatentScale(ops, AutoencoderConfig(scaling_factor=1.0), Params())
    trainer = diffusion_trainer(
        NoisyLatents(latents, np.ones(BATCH), as_they_are, ops),
        Condition(lambda i, rng: prompts[i % len(prompts)], subject.model(name).tokenizers),
        DenoiserTraining(config, stage, 0, ops),
        observer=watch,
    )
    for _ in trainer.run():
        pass
    before, after = flatten(initial_params(config, 0)), flatten(trainer.params)
    changed = {
        n for n, x in after.items() if not np.array_equal(x.detach().numpy(), np.asarray(before[n]))
    }
    return watch.sizes, changed
