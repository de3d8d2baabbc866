"""The configuration that a user names: a preset, a config.json, or the folder of a model."""

from __future__ import annotations

from pathlib import Path

from ldmref.errors import InputError, did_you_mean
from ldmref.io.diffusers.folder import DiffusersFolder
from ldmref.io.locate import NATIVE_INDEX, is_diffusers, is_model
from ldmref.io.native import NativeFolder, read_config
from ldmref.models.config import ModelConfig
from ldmref.models.presets import PRESETS, list_presets
from ldmref.support.files import check_input_path


def find_named_config(
    name: str | Path,
) -> tuple[ModelConfig, NativeFolder | DiffusersFolder | Path | None]:
    """Read the configuration of a folder or config.json, or return a preset.

    The folder of a model stands for itself, even with the name of a preset, such as `flux-dev`: the
    networks that a single file lacks are read from it as well.

    Returns:
        The configuration, and the folder: of a model, or one that may hold tokenizers.

    Raises:
        InputError: There is none, or it is damaged.
    """
    path = check_input_path(name, "the name of a configuration", "E-CONFIG")
    if is_model(path):
        folder = DiffusersFolder(path) if is_diffusers(path) else NativeFolder(path)
        return folder.config, folder
    presets = PRESETS if str(name) in PRESETS else list_presets()
    if str(name) in presets:
        return presets[str(name)], path if path.is_dir() else None
    file = path if path.suffix == ".json" else path / NATIVE_INDEX
    if not file.is_file():
        hint = did_you_mean(str(name), list_presets())
        raise InputError(f"no configuration {str(name)!r}", code="E-CONFIG", hint=hint)
    return read_config(file), None
