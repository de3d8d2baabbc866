"""SD3 whose denoiser reads the latents of reference images behind the text."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

import ldmref
from ldmref.families import CallSize, DeclaredReferences, NetworkInput
from ldmref.families.sd3 import SD3
from ldmref.families.sd3.config import MMDiTConfig
from ldmref.families.sd3.network import transformer
from ldmref.models import family, preset
from ldmref.models.conditioning import get_hidden_states
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init


@dataclass(frozen=True)
class ReferringConfig(MMDiTConfig):
    """SD3's, whose network reads references."""

    family: ClassVar[str] = "referring"


def fit(width, height):
    """Return sides that the autoencoder takes."""
    return max(width // 8 * 8, 8), max(height // 8 * 8, 8)


def encode(model, images, size):
    """Return the latents of all images as tokens, (1, k, d), and the place of each token."""
    ops = model.backend
    tokens, places = [], []
    for number, image in enumerate(images, 1):
        latents = ops.to_numpy(model.encode_image(image))
        flat = latents.reshape(1, latents.shape[1], -1).transpose(0, 2, 1)
        width = model.config.denoiser.joint_attention_dim
        tokens.append(np.tile(flat, (1, 1, -(-width // flat.shape[2])))[..., :width])
        places.append(np.full((1, flat.shape[1]), number / (1 + size[0] / size[1])))
    joined = (np.concatenate(x, axis=1) for x in (tokens, places))
    first, second = map(ops.asarray, joined)
    return {"tokens": first, "places": second}


def network(ops, p, config, x, t, context, pooled, tokens: Any = None, places: Any = None):
    """Read the tokens of the references behind those of the text."""
    states = get_hidden_states(context)
    if tokens is not None:
        states = ops.xp.concat([states, tokens * places[..., None]], axis=1)
    return transformer(ops, p, config, x, t, states, pooled)


def networks(config):
    own = MMDiTConfig(**vars(config.denoiser))
    for declared in SD3.networks(replace(config, denoiser=own)):
        if declared.name != "transformer":
            yield declared
            continue
        open_sizes = CallSize("batch"), CallSize("references")
        width = config.denoiser.joint_attention_dim
        yield replace(
            declared,
            function=network,
            settings={"config": config.denoiser},
            inputs=(
                *declared.inputs,
                NetworkInput("tokens", "reference_tokens", (*open_sizes, width)),
                NetworkInput("places", "reference_places", open_sizes),
            ),
        )


def configure():
    config = preset("sd3-tiny")
    return replace(config, denoiser=ReferringConfig(**vars(config.denoiser)))


@contextmanager
def known_family() -> Iterator[Any]:
    """Make the family known within the block, as a package declares it, and yield its module."""
    changes = {
        "name": "referring",
        "denoiser": ReferringConfig,
        "networks": lambda config: [*networks(config)],
        "references": DeclaredReferences(encode, 2, fit),
        "control": None,
        "broken_rules": lambda config: (),
        "presets": {},
    }
    module: Any = types.ModuleType("referring_declared")
    module.REFERRING = replace(SD3, **changes)
    sys.modules[module.__name__] = module
    family.BUILT_IN["referring"] = "referring_declared:REFERRING"
    family.find_family.cache_clear()
    try:
        yield module
    finally:
        del sys.modules[module.__name__], family.BUILT_IN["referring"]
        family.find_family.cache_clear()


def make(backend="numpy"):
    small = ldmref.random_model("sd3-tiny", backend=backend)
    config = configure()
    params = init(model_spec(config), 0)
    tokenizers = small.tokenizers
    return LatentDiffusion(small.backend, config, params, tokenizers[0], "", *tokenizers[1:])
