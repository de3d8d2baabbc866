"""The second, weaker model of a request, which autoguidance needs: checked before it is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import UsageError, short_repr
from ldmref.io.locate import find_model, read_model_config
from ldmref.loading import load
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.samplers import Guidance
from ldmref.samplers.schedule import sampling_sigmas

CODE = "E-GUIDE"
GuideSource = LatentDiffusion | ModelConfig | str | Path


def check_guide(name: str, value: Any) -> GuideSource:
    """Return a model, the configuration of one, or where one is.

    Raises:
        UsageError: The value is something else.
    """
    if isinstance(value, LatentDiffusion | ModelConfig):
        return value
    if isinstance(value, str | os.PathLike) and value != "":
        return os.fsdecode(value)
    raise UsageError(
        f"{name} must be a model or a path, not {short_repr(value)}",
        code=CODE,
        hint="guide=ldmref.load(path), or guide=path",
    )


@dataclass(frozen=True, eq=False)
class Guide:
    """The weaker model of a job, which fits its model; loaded when a run is prepared.

    Args:
        source: The model, or where it is.
        config: Its configuration.
        name: Its name, for messages.
    """

    source: GuideSource
    config: ModelConfig
    name: str
    _loaded: list[LatentDiffusion] = field(default_factory=list, repr=False)

    def load(self, model: LatentDiffusion) -> LatentDiffusion:
        """Return the weaker model on the backend of the model that it guides.

        Raises:
            UsageError: It is on another backend, or only its configuration was given.
            InputError: It cannot be read.
        """
        ops = model.backend
        if isinstance(self.source, ModelConfig):
            message = f"of the guide {self.name!r} there is only a configuration"
            raise UsageError(message, code=CODE, hint="give a model or a path")
        found = self.source if isinstance(self.source, LatentDiffusion) else None
        if found is None:
            if not self._loaded or self._loaded[0].backend is not ops:
                assert isinstance(self.source, str | Path)
                self._loaded[:] = [load(self.source, backend=ops)]
            found = self._loaded[0]
        if found.backend.describe() != ops.describe():
            raise UsageError(
                f"the guide {self.name!r} is on {found.backend!r}, the model on {ops!r}",
                code=CODE,
                hint="load(path, backend=model.backend)",
            )
        return found


def fit_guide(
    config: ModelConfig, source: GuideSource | None, guidance: Guidance, asks: bool
) -> Guide | None:
    """Return the guide of a request, if it fits the model and the guidance needs one.

    Args:
        config: The configuration of the model.
        source: The request's.
        guidance: The guidance of the job.
        asks: Whether the prompts are given as hidden states.

    Raises:
        UsageError: One is missing, or not needed, or it belongs to another kind of model.
        InputError: It does not exist, or its configuration cannot be read.
    """
    if source is None:
        if guidance.by_guide:
            raise UsageError(
                f"guidance {guidance.name!r} needs a second, weaker model",
                code=CODE,
                hint="give guide=MODEL (--guide MODEL); modes without this parameter have none",
            )
        return None
    if not guidance.by_guide:
        raise UsageError(
            f"a guide is for guidance 'autoguidance', not for {guidance.name!r}",
            code=CODE,
            hint="guidance='autoguidance' (--guidance autoguidance), or leave the guide out",
        )
    if asks:
        raise UsageError(
            "a guide encodes the prompts itself, and the request gives hidden states instead",
            code=CODE,
            hint="give prompts, or leave the guide out",
        )
    guide = open_guide(source)
    for what, theirs, ours in differences(guide.config, config):
        raise UsageError(
            f"the guide {guide.name!r} does not fit {config.name!r}: its {what} is {theirs}, "
            f"not {ours}",
            code=CODE,
            hint="take a weaker model of the same family, with the same latents and noise levels",
        )
    return guide


def open_guide(source: GuideSource) -> Guide:
    """Return a guide with its configuration, without reading a weight.

    Raises:
        InputError: It does not exist, or its configuration cannot be read.
    """
    if isinstance(source, LatentDiffusion):
        return Guide(source, source.config, source.config.name)
    if isinstance(source, ModelConfig):
        return Guide(source, source, source.name)
    path = find_model(source)
    return Guide(path, read_model_config(path), path.stem)


def differences(guide: ModelConfig, model: ModelConfig) -> list[tuple[str, Any, Any]]:
    """Return what must be equal in two models and is not: (what, in the guide, in the model).

    The networks may have other sizes. Their latents mean the same only with the autoencoder of the
    same factors, and their predictions at a step only with the same noise levels.
    """
    pairs = [
        ("family", guide.denoiser.family, model.denoiser.family),
        ("prediction type", guide.scheduler.prediction_type, model.scheduler.prediction_type),
        ("number of input channels", guide.denoiser.in_channels, model.denoiser.in_channels),
        ("kind of input image", guide.concat or "none", model.concat or "none"),
        ("text encoding", _encoders(guide), _encoders(model)),
        ("size of a patch", guide.denoiser.side_multiple, model.denoiser.side_multiple),
    ]
    for what in ("latent_channels", "factor", "scaling_factor", "shift_factor"):
        pairs.append((f"vae.{what}", getattr(guide.vae, what), getattr(model.vae, what)))
    found = [(what, theirs, ours) for what, theirs, ours in pairs if theirs != ours]
    levels = sampling_sigmas(guide.scheduler), sampling_sigmas(model.scheduler)
    if not found and not (levels[0].shape == levels[1].shape and np.allclose(*levels, rtol=1e-6)):
        largest, usual = (f"{sigmas[-1]:.5g} after {len(sigmas)} levels" for sigmas in levels)
        found.append(("largest noise of training", largest, usual))
    return found


def _encoders(config: ModelConfig) -> str:
    """Return the kinds of a model's text encoders, and the number of classes if it reads them."""
    kinds = [text.model_type for text in config.text_encoders] or ["none"]
    classes = [f"{text.vocab_size} classes" for text in config.text_encoders if kinds == ["label"]]
    return ", ".join([*kinds, *classes])
