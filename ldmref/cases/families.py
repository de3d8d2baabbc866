"""Tiny networks of every family: the presets with fewer channels, layers and words."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ldmref.cases.network_cases import (
    NetworkCase,
    autoencoder_cases,
    classifier_case,
    controlnet_cases,
    rescaler_case,
    text_encoder_cases,
    tiny_autoencoder_cases,
    unet_cases,
)
from ldmref.cases.shrink import shrink, shrink_autoencoder
from ldmref.models.presets import PRESETS
from ldmref.models.presets_ldm import FIRST_STAGES

FAMILIES = (*(name for name in PRESETS if name != "tiny"), "vq-f8", "kl-f16", "taesd", "classifier")


def networks(families: Collection[str] = ()) -> Iterator[NetworkCase]:
    """Yield all networks of families, or of all families.

    Networks that are equal to one of an earlier family are left out. Those that Stable Diffusion
    1.5 shares with others have its name.

    Args:
        families: Names in `FAMILIES`; (): all.
    """
    for net in _networks(families):
        if not families or net.name.partition(".")[0] in families:
            yield net


def _networks(families: Collection[str]) -> Iterator[NetworkCase]:
    seen: set[str] = set()
    names = [name for name in PRESETS if name != "tiny" and (not families or name in families)]
    presets = [PRESETS[name] for name in names]
    presets.sort(key=lambda config: config.name != "sd15")  # the names of what others share with it
    for preset in presets:
        config = shrink(preset)
        parts = [(config.unet, unet_cases), (config.vae, autoencoder_cases)]
        parts += [(encoder, text_encoder_cases) for encoder in config.text_encoders]
        for i, (part, make) in enumerate(parts):
            if repr(part) in seen:
                continue
            seen.add(repr(part))
            second = "text_encoder_2" if i == 3 else "text_encoder"
            yield from make(preset.name, part, *([second] if make is text_encoder_cases else []))
        if config.segmentation_classes:
            yield rescaler_case(config)
    for name in ("vq-f8", "kl-f16"):  # with attention at lower levels
        yield from autoencoder_cases(name, shrink_autoencoder(FIRST_STAGES[name]))
    yield from controlnet_cases(shrink(PRESETS["sd15"]).unet)
    yield from tiny_autoencoder_cases()
    yield classifier_case()
