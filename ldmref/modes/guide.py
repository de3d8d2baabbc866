"""`Guide`: the second, weaker model of autoguidance in a request, known by its configuration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.declare import get_fields
from ldmref.errors import UsageError, short_repr
from ldmref.io.checkpoint import Checkpoint, open_checkpoint
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import ModelConfig
from ldmref.models.model import LatentDiffusion
from ldmref.models.text_kind import kind_of
from ldmref.samplers import Guidance
from ldmref.samplers.schedule import sampling_sigmas

CODE = "E-GUIDE"


@dataclass(frozen=True, eq=False)
class Guide:
    """The weaker model of a request.

    Args:
        source: The model; or the opened one, to be loaded when a run is prepared.
        config: Its configuration, which is all that a plan needs.
        name: Its name, for messages.
    """

    source: LatentDiffusion | ModelConfig | Checkpoint
    config: ModelConfig
    name: str


GuideSource = Guide | LatentDiffusion | ModelConfig | str | Path


def read_guide(name: str, value: object) -> Guide:
    """Return a guide: a model, its configuration, or where a model is, whose weights are not read.

    Raises:
        UsageError: The value is something else.
        InputError: There is no such model, or its configuration cannot be read.
    """
    if isinstance(value, Guide):
        return value
    if isinstance(value, LatentDiffusion):
        return Guide(value, value.config, value.config.name)
    if isinstance(value, ModelConfig):
        return Guide(value, value, value.name)
    if isinstance(value, str | os.PathLike) and value != "":
        checkpoint = open_checkpoint(os.fsdecode(value))
        return Guide(checkpoint, checkpoint.config, checkpoint.path.stem)
    raise UsageError(
        f"{name} must be a model or a path, not {short_repr(value)}",
        code=CODE,
        hint="guide=ldmref.load(path), or guide=path",
    )


def fit_guide(config: ModelConfig, guide: Guide | None, guidance: Guidance, embedded: bool) -> None:
    """Refuse a guide that is missing, that the guidance does not need, or that fits another model.

    Args:
        config: The configuration of the model.
        guide: That of the request.
        guidance: The guidance of the job.
        embedded: Whether the prompts are given as hidden states.

    Raises:
        UsageError: It is so.
    """
    if guide is None:
        raise UsageError(
            f"guidance {guidance.name!r} needs a second, weaker model",
            code=CODE,
            hint="give guide=MODEL; modes without this parameter have none",
        )
    if not guidance.by_guide:
        raise UsageError(
            f"a guide is for guidance 'autoguidance', not for {guidance.name!r}",
            code=CODE,
            hint="give guidance=autoguidance, or leave the guide out",
        )
    if embedded:
        raise UsageError(
            "a guide encodes the prompts itself, and the request gives hidden states instead",
            code=CODE,
            hint="give prompts, or leave the guide out",
        )
    for what, theirs, ours in differences(guide.config, config):
        raise UsageError(
            f"the guide {guide.name!r} does not fit {config.name!r}: its {what} is {theirs}, "
            f"not {ours}",
            code=CODE,
            hint="take a weaker model of the same family, with the same latents and noise levels",
        )


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
    for what in ("latent_channels", "factor", *_normalization_fields(guide.vae, model.vae)):
        pairs.append((f"vae.{what}", getattr(guide.vae, what), getattr(model.vae, what)))
    found = [(what, theirs, ours) for what, theirs, ours in pairs if theirs != ours]
    levels = sampling_sigmas(guide.scheduler), sampling_sigmas(model.scheduler)
    if not found and not (levels[0].shape == levels[1].shape and np.allclose(*levels, rtol=1e-6)):
        largest, usual = (f"{sigmas[-1]:.5g} after {len(sigmas)} levels" for sigmas in levels)
        found.append(("largest noise of training", largest, usual))
    return found


def _normalization_fields(*autoencoders: BaseAutoencoderConfig) -> Sequence[str]:
    """Return the names of what must be equal in two autoencoders for latents of the same scale."""
    if all(autoencoder_of(vae).scales is not None for vae in autoencoders):
        return ("scaling_factor", "shift_factor")
    first, second = map(type, autoencoders)
    return ("kind", *(get_fields(first) if first is second else ()))


def _encoders(config: ModelConfig) -> str:
    """Return the kinds of a model's text encoders, and the number of classes if it reads them."""
    encoders = config.text_encoders
    kinds = [text.model_type for text in encoders] or ["none"]
    bare = len(encoders) == 1 and kind_of(encoders[0]).function is None
    classes = [f"{text.vocab_size} classes" for text in encoders if bare]
    return ", ".join([*kinds, *classes])
