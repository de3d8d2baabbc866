"""ControlNets from files: diffusers folders, and single files with CompVis' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import InputError
from ldmref.io.compvis.keys import controlnet_table
from ldmref.io.diffusers.checks import (
    damage_as_config_error,
    read_json,
    require_class,
    require_lists,
    require_plain,
)
from ldmref.io.diffusers.config import UNET_DEFAULTS, convert_unet_config
from ldmref.io.diffusers.folder import open_network
from ldmref.io.key_table import KeyTable, find_first_fit, to_native
from ldmref.io.tensors.safetensors import TensorFile, TensorView
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.presets import PRESETS
from ldmref.models.validate import check_network
from ldmref.support.files import check_input_path

PREFIX = "control_model."
CLASSES = ("ControlNetModel",)
PRESET_UNETS = ("sd15", "sd2-base", "sdxl")
DEFAULTS = UNET_DEFAULTS | {
    "conditioning_channels": 3,
    "conditioning_embedding_out_channels": (16, 32, 96, 256),
}
PLAIN: dict[str, tuple[Any, ...]] = {
    "controlnet_conditioning_channel_order": ("rgb",), "global_pool_conditions": (False,),
}  # fmt: skip


@dataclass(frozen=True)
class ControlNetFile:
    """A ControlNet on disk: its configuration, and its tensors under the names of `table`."""

    name: str
    config: ControlNetConfig
    stored: TensorView = field(repr=False)
    table: KeyTable = field(repr=False)

    def tensors(self) -> dict[str, np.ndarray]:
        """Read every tensor, under our names."""
        return to_native(self.stored, self.table)

    def sha256(self) -> str:
        """Return the SHA-256 of the files."""
        return self.stored.sha256()


def open_controlnet(path: str | Path, unet: UNetConfig | None = None) -> ControlNetFile:
    """Open a ControlNet and check every name and shape, without reading a tensor.

    Args:
        path: A diffusers folder (ControlNetModel), or one file with CompVis' names, with or without
            `control_model.`; other networks in the file are ignored.
        unet: The U-Net that a single file must fit, since a file has no configuration. None:
            those of Stable Diffusion are tried.

    Returns:
        The configuration and the tensors, which are read when they are used.

    Raises:
        InputError, CorruptModelError, KeyMismatchError: The file is missing, damaged, not
            supported, or does not fit.
        UnsafeFileError: It is a pickle.

    >>> from ldmref.io import open_controlnet
    >>> open_controlnet("canny.safetensors").config.factor  # doctest: +SKIP
    8
    """
    path = check_input_path(path, "the path of a ControlNet", "E-CONTROL")
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        hint = "give a diffusers folder or a .safetensors file"
        raise InputError(f"no ControlNet {str(path)!r}", code="E-CONTROL", hint=hint)
    stored = TensorView([TensorFile(path)], prefix=PREFIX)
    unets = [PRESETS[name].unet for name in PRESET_UNETS] if unet is None else [unet]
    configs = [ControlNetConfig(replace(u, in_channels=u.out_channels)) for u in unets]
    candidates = ((config, controlnet_table(config)) for config in configs)
    message = f"{path.name} is not a ControlNet that fits the model"
    config, table = find_first_fit(stored.shapes, candidates, message)
    return ControlNetFile(path.stem, config, stored, table)


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


def _open_folder(folder: Path) -> ControlNetFile:
    data = read_json(folder / "config.json")
    require_class(data.get("_class_name"), CLASSES, f"{folder.name!r} holds", "E-CONTROL")
    with damage_as_config_error(folder.name):
        config = convert_controlnet_config(data)
        check_network(config, "controlnet")
    spec = controlnet_spec(config)
    name = repr(folder.name)
    return ControlNetFile(folder.name, config, *open_network(folder, "unet", spec, name))
