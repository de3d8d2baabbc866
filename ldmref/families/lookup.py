"""Find a network by its call, its function or its configuration."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ldmref.families.beside import networks_beside
from ldmref.families.latent_diffusion import networks_of
from ldmref.families.network import DeclaredNetwork
from ldmref.models.config import ModelConfig
from ldmref.models.presets import PRESETS


@cache
def known_networks() -> frozenset[str]:
    """Return the names of the networks that a model of any preset may have, and those beside it.

    >>> sorted(known_networks())[:4]
    ['cond_stage', 'controlnet', 'controlnet.hint', 'taesd.decode']
    """
    models = [network for config in PRESETS.values() for network in networks_of(config)]
    return frozenset(network.name for network in [*models, *networks_beside(PRESETS["sd15"])])


def find_network(
    config: ModelConfig, function: str, arguments: Mapping[str, Any]
) -> DeclaredNetwork | None:
    """Return the network that a call of a function computes; None if it is none of a run's.

    Args:
        config: The model's configuration.
        function: The name of the function.
        arguments: Its arguments by name. The configuration among them tells text encoders apart.

    >>> from ldmref.models import preset
    >>> sdxl = preset("sdxl")
    >>> found = find_network(sdxl, "text_encoder_pooled", {"config": sdxl.text_encoder_2})
    >>> found.name
    'text_encoder_2'
    """
    networks = [*networks_of(config), *networks_beside(config)]
    same = [network for network in networks if network.function.__name__ == function]
    wanted = arguments.get("config")
    exact = [network for network in same if network.settings.get("config") is wanted]
    return next(iter([*exact, *same]), None)
