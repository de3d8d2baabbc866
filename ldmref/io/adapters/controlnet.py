"""ControlNets from files: diffusers folders, and single files in the names of other programs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError
from ldmref.io.diffusers.checks import damage_as_config_error, read_json, require_class
from ldmref.io.diffusers.folder import diffusers_table, open_network
from ldmref.io.identify import refuse_other_control
from ldmref.io.key_table import KeyTable, find_first_fit, to_native
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.safetensors import TensorFile, TensorView
from ldmref.io.tensors.wrappers import unwrap_file
from ldmref.models.control import control_of, own_spec
from ldmref.models.denoiser_config import DenoiserConfig
from ldmref.models.family import list_families
from ldmref.models.validate import check_network
from ldmref.support.files import check_input_path

PREFIX = "control_model."


@dataclass(frozen=True)
class ControlNetFile:
    """A ControlNet on disk: its configuration, and its tensors under the names of `table`."""

    name: str
    config: Any
    stored: TensorView = field(repr=False)
    table: KeyTable = field(repr=False)

    def tensors(self) -> dict[str, np.ndarray]:
        """Read every tensor, under our names."""
        return to_native(self.stored, self.table)

    def sha256(self) -> str:
        """Return the SHA-256 of the files."""
        return self.stored.sha256()


def open_controlnet(path: str | Path, unet: DenoiserConfig | None = None) -> ControlNetFile:
    """Open a ControlNet and check every name and shape, without reading a tensor.

    Args:
        path: A diffusers folder (ControlNetModel, or the class of another family), or one file: a
            U-Net's ControlNet with CompVis' names, with or without `control_model.`; or a family's
            with the names of diffusers or of its original program. Other networks in the file are
            ignored.
        unet: The denoiser of the model, since a file has no configuration. None, or that of another
            family: the U-Nets of Stable Diffusion are tried.

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
    file = unwrap_file(TensorFile(path))
    refuse_other_control(path.name, file)
    stored = TensorView([file], prefix=PREFIX)
    candidates = chain.from_iterable(
        family.control.candidates(stored.shapes, unet)
        for family in list_families()
        if family.control is not None
    )
    message = f"{path.name} is not a ControlNet that fits the model"
    declared = [family.control for family in list_families() if family.control is not None]
    known = {name for control in declared for name in control.settings} & stored.shapes.keys()
    config, table = find_first_fit(stored.shapes, candidates, message, ignorable=known)
    with damage_as_config_error(path.name):
        config = control_of(config).with_settings(config, _read_settings(file, stored, known))
        check_network(config, "controlnet")
    return ControlNetFile(path.stem, config, stored, table)


def _read_settings(
    file: ModelFile, stored: TensorView, names: Iterable[str]
) -> dict[str, np.ndarray]:
    """Return the tensors of a file that are one whole number each, and no weights.

    Raises:
        CorruptModelError: One is something else.
    """
    for name in names:
        if math.prod(stored.shapes[name]) != 1 or stored[name].dtype.kind not in "iu":
            message = f"{file.path.name}: {name} must be one whole number"
            raise CorruptModelError(message, code="E-CONTROL")
    return {name: stored[name] for name in names}


def _open_folder(folder: Path) -> ControlNetFile:
    data = read_json(folder / "config.json")
    controls = (family.control for family in list_families())
    classes = {
        name: convert
        for control in controls
        if control is not None
        for name, convert in control.classes.items()
    }
    kind = data.get("_class_name")
    require_class(kind, classes, f"{folder.name!r} holds", "E-CONTROL")
    with damage_as_config_error(folder.name):
        config = classes[str(kind)](data)
        check_network(config, "controlnet")
    table = diffusers_table(own_spec(config))
    stored = open_network(folder, "controlnet", table, repr(folder.name))
    return ControlNetFile(folder.name, config, stored, table)
