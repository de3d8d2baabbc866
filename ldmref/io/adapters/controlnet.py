"""ControlNets from files: diffusers folders, and single files in CompVis' names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.compvis.key_entry import stored_shapes
from ldmref.io.compvis.keys import controlnet_table
from ldmref.io.compvis.single_file import to_native
from ldmref.io.diffusers.config import UNET_DEFAULTS, require_plain, unet_config
from ldmref.io.diffusers.folder import digest_of, our_name, read_json, weight_files
from ldmref.io.key_report import compare, refuse
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.config import UNetConfig
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import flatten
from ldmref.models.presets import PRESETS

PREFIX = "control_model."
PRESET_UNETS = ("sd15", "sd2-base", "sdxl")
PLAIN: dict[str, tuple[Any, ...]] = {
    "controlnet_conditioning_channel_order": ("rgb",), "global_pool_conditions": (False,),
}  # fmt: skip


@dataclass(frozen=True)
class ControlNetFile:
    """A ControlNet on disk; its tensors are not read before `tensors()`."""

    name: str
    config: ControlNetConfig
    files: tuple[TensorFile, ...]
    stored: Mapping[str, tuple[TensorFile, str]]  # name in the table -> place
    compvis: bool

    def tensors(self) -> dict[str, np.ndarray]:
        """Every tensor under our names."""
        found = {name: file[stored] for name, (file, stored) in self.stored.items()}
        return to_native(found, controlnet_table(self.config)) if self.compvis else found

    def sha256(self) -> str:
        return digest_of(self.files)


def open_controlnet(path: str | Path, unet: UNetConfig | None = None) -> ControlNetFile:
    """Open a ControlNet and check every name and shape, without reading a tensor.

    Args:
        path: a folder of diffusers (ControlNetModel), or one file in CompVis' names, with or
            without `control_model.`; other networks in the file are left alone.
        unet: sizes that a single file must have, since a file does not tell them; None tries those
            of Stable Diffusion.

    Raises:
        InputError, CorruptModelError, KeyMismatchError: missing, damaged, not supported, or not
            fitting.
        UnsafeFileError: it is a pickle.
    """
    path = Path(path)
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise InputError(
            f"no ControlNet {str(path)!r}",
            code="E-CONTROL",
            hint="give a diffusers folder or a .safetensors file",
        )
    return _open_file(TensorFile(path), unet)


def controlnet_config(data: Mapping[str, Any]) -> ControlNetConfig:
    """A `ControlNetModel`'s config.json."""
    data = UNET_DEFAULTS | dict(data)
    require_plain(data, PLAIN, "the ControlNet's configuration")
    mirrored = [kind.replace("Down", "Up") for kind in reversed(data["down_block_types"])]
    unet = unet_config(data | {"out_channels": data["in_channels"], "up_block_types": mirrored})
    default = ControlNetConfig()
    widths = data.get("conditioning_embedding_out_channels")
    return ControlNetConfig(
        unet,
        data.get("conditioning_channels", default.conditioning_channels),
        tuple(widths or default.conditioning_embedding_out_channels),
    )


def _open_folder(folder: Path) -> ControlNetFile:
    data = read_json(folder / "config.json")
    kind = data.get("_class_name")
    if kind != "ControlNetModel":
        raise CorruptModelError(
            f"{folder.name!r} holds a {kind}, not a ControlNet",
            code="E-CONTROL",
            hint="supported: ControlNetModel",
        )
    try:
        config = controlnet_config(data)
    except (KeyError, TypeError) as error:
        raise CorruptModelError(
            f"the configuration of {folder.name!r} is not whole: {error}", code="E-CONFIG"
        ) from error
    files = tuple(weight_files(folder, "diffusion_pytorch_model"))
    stored = {our_name("unet", name): (file, name) for file in files for name in file}
    shapes = {name: file.shapes[old] for name, (file, old) in stored.items()}
    compare(shapes, flatten(controlnet_spec(config))).require(
        f"{folder.name!r} does not fit its config.json"
    )
    return ControlNetFile(folder.name, config, files, stored, compvis=False)


def _open_file(file: TensorFile, unet: UNetConfig | None) -> ControlNetFile:
    prefixed = any(name.startswith(PREFIX) for name in file)
    stored = {
        name.removeprefix(PREFIX): (file, name)
        for name in file
        if name.startswith(PREFIX) or not prefixed
    }
    shapes = {name: file.shapes[old] for name, (_, old) in stored.items()}
    known = [PRESETS[name].unet for name in PRESET_UNETS] if unet is None else [unet]
    configs = [ControlNetConfig(replace(u, in_channels=u.out_channels)) for u in known]
    reports = []
    for config in configs:
        reports.append(compare(shapes, stored_shapes(controlnet_table(config))))
        if reports[-1].fits:
            return ControlNetFile(file.path.stem, config, (file,), stored, compvis=True)
    refuse(reports, f"{file.path.name} is no ControlNet that fits the model")
