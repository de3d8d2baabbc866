"""The configuration of diffusers' ControlNets of U-Nets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.io.diffusers.checks import require_lists, require_plain
from ldmref.io.diffusers.config import UNET_DEFAULTS, convert_unet_config
from ldmref.models.controlnet import ControlNetConfig

DEFAULTS = UNET_DEFAULTS | {
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
}
PLAIN: dict[str, tuple[Any, ...]] = {
    "controlnet_conditioning_channel_order": ("rgb",), "global_pool_conditions": (False,),
}  # fmt: skip


def convert_controlnet_config(data: Mapping[str, Any]) -> ControlNetConfig:
    """Convert the configuration of a `ControlNetModel`."""
    data = DEFAULTS | dict(data)
    where = "the ControlNet's configuration"
    require_plain(data, PLAIN, where)
    require_lists(data, DEFAULTS, where)
    mirrored = [kind.replace("Down", "Up") for kind in reversed(data["down_block_types"])]
    unet = convert_unet_config(
        data | {"out_channels": data["in_channels"], "up_block_types": mirrored}
    )
    widths = tuple(data["conditioning_embedding_out_channels"])
    return ControlNetConfig(unet, data["conditioning_channels"], widths)
