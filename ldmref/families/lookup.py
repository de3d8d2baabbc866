"""Find a network by its call, its function or its configuration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from ldmref.families.auxiliary import auxiliary_networks
from ldmref.models.config import ModelConfig
from ldmref.models.declared import DeclaredNetwork
from ldmref.models.family import family_of, list_families


@cache
def known_networks() -> frozenset[str]:
    """Return the names of the networks of all families, and of the auxiliary ones.

    Those of a family are the networks of its presets, and its denoiser, as it may have no presets.

    >>> sorted(known_networks())[:4]
    ['cond_stage', 'controlnet', 'controlnet.hint', 'taesd.decode']
    """
    families = [*list_families()]
    presets = (config for family in families for config in family.presets.values())
    networks = (network for config in presets for network in networks_of_run(config))
    denoisers = (family.denoiser.network for family in families)
    return frozenset((*(network.name for network in networks), *denoisers))


def networks_of_run(config: ModelConfig) -> tuple[DeclaredNetwork, ...]:
    """Return the networks that a run may call: those of its model and the auxiliary ones."""
    return (*family_of(config).networks(config), *auxiliary_networks(config))


def find_network(
    networks: Iterable[DeclaredNetwork], function: str, arguments: Mapping[str, Any]
) -> DeclaredNetwork | None:
    """Return the network that a call of a function computes; None if it is none of them.

    Args:
        networks: The networks of the run.
        function: The name of the function.
        arguments: Its arguments by name. The configuration among them, or one that equals it, tells
            text encoders apart.

    >>> from ldmref.models import preset
    >>> sdxl = preset("sdxl")
    >>> second = {"config": sdxl.text_encoder_2}
    >>> find_network(networks_of_run(sdxl), "text_encoder_pooled", second).name
    'text_encoder_2'
    """
    same = [network for network in networks if network.function.__name__ == function]
    wanted = arguments.get("config")
    exact = [network for network in same if network.settings.get("config") is wanted]
    equal = [network for network in same if network.settings.get("config") == wanted]
    return next(iter((*exact, *equal, *same)), None)
