"""Tiny networks of every family: the presets with fewer channels, layers and words."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ldmref.cases.golden_models import golden_presets
from ldmref.cases.network_cases import NetworkCase, count_text_tokens, network_case
from ldmref.cases.shrink import WIDTHS, shrink, shrink_autoencoder
from ldmref.families.auxiliary import describe_classifier, describe_tiny
from ldmref.families.latent_diffusion import describe_autoencoder
from ldmref.families.unet import describe_controlnet, describe_hint
from ldmref.models.classifier import ClassifierConfig
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.controlnet import ControlNetConfig
from ldmref.models.family import family_of
from ldmref.models.presets import PRESETS, list_presets
from ldmref.models.presets_ldm import FIRST_STAGES
from ldmref.models.taesd import TinyConfig

OTHERS = ("vq-f8", "kl-f16", "taesd", "classifier")  # networks that belong to no preset
FAMILIES = (*(name for name in (PRESETS | golden_presets()) if name != "tiny"), *OTHERS)
"""The names of what a whole suite has: U-Nets, and the models of which there are golden runs."""


def networks(families: Collection[str] = ()) -> Iterator[NetworkCase]:
    """Yield all networks of families, or of all families.

    Networks that are equal to one of an earlier family are left out. Those that Stable Diffusion
    1.5 shares with others have its name.

    Args:
        families: Names in `FAMILIES`, or presets of other packages; (): all of `FAMILIES`.
    """
    for net in _networks(families):
        if not families or net.name.startswith(tuple(f"{name}." for name in families)):
            yield net


def _networks(families: Collection[str]) -> Iterator[NetworkCase]:
    seen: set[str] = set()
    known = list_presets()
    names = [name for name in FAMILIES if name in known and (not families or name in families)]
    presets = [known[name] for name in (*names, *(n for n in families if n not in FAMILIES))]
    presets.sort(key=lambda config: config.name != "sd15")  # the names of what others share with it
    for preset in presets:
        shared = set(seen)
        small = shrink(preset)
        networks = family_of(small).networks(small)
        tokens = count_text_tokens(small)
        for network in sorted(networks, key=lambda net: _order(net.params)):
            part = repr(network.settings)
            if part in shared and network.params != "cond_stage":
                continue
            seen.add(part)
            yield network_case(preset.name, network, tokens=tokens)
    for name in ("vq-f8", "kl-f16"):  # with attention at lower levels
        for network in describe_autoencoder(shrink_autoencoder(FIRST_STAGES[name])):
            yield network_case(name, network)
    control = ControlNetConfig(
        unet=shrink(PRESETS["sd15"]).unet, conditioning_embedding_out_channels=(4, 8)
    )
    yield network_case("sd15", describe_hint(control), "controlnet.encode_hint")
    yield network_case("sd15", describe_controlnet(control))
    tiny = TinyConfig(
        encoder_channels=8,
        decoder_channels=8,
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    for network in describe_tiny(tiny):
        yield network_case("taesd", network, network.name.replace("taesd", "vae"))
    config = ClassifierConfig(
        block_out_channels=WIDTHS[:2], norm_num_groups=4, class_names=("a", "b", "c")
    )
    yield network_case("", describe_classifier(config))


def _order(params: str) -> int:
    """Return the place of a network in the suite; denoisers of other families come first."""
    order = ("unet", "vae", *TEXT_ENCODERS, "cond_stage")
    return order.index(params) if params in order else -1
