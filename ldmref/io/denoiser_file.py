"""Single files that hold only the denoiser, in the layouts that families declare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.compvis.single_file import list_unread
from ldmref.io.diffusers.folder import load_diffusers
from ldmref.io.key_report import KeyReport
from ldmref.io.key_table import find_matching, fit, to_native
from ldmref.io.tensors.model_file import ModelFile
from ldmref.models.config import ModelConfig
from ldmref.models.family import SingleFile, family_of, list_families
from ldmref.models.networks import model_spec
from ldmref.models.params import Shape


def find_denoiser_config(file: ModelFile, config: ModelConfig | None = None) -> ModelConfig | None:
    """Return the configuration of a file that holds only a denoiser.

    Args:
        file: The file.
        config: The configuration that it must fit. None: the family's, by names and shapes.

    Returns:
        The configuration; None if no family knows the file, or it may hold more networks.

    Raises:
        KeyMismatchError: It does not fit.
        UsageError: `config` is of a family without single files.
    """
    if config is not None:
        layouts = family_of(config).files
        if not layouts:
            raise UsageError(
                f"models of the family {family_of(config).name!r} are folders, not single files",
                code="E-MODEL",
                hint="give the folder",
            )
        layouts = [layout for layout in layouts if layout.applies(file.shapes)]
        if not layouts:
            return None
        reports = [_compare(file.shapes, layout, config) for layout in layouts]
        best = max(reports, key=lambda report: report.likeness)
        best.require(f"{file.path.name} is not a {config.name!r} model")
        return config
    for family in list_families():
        for layout in family.files:
            found = layout.recognise(file.shapes)
            if found is not None:
                report = _compare(file.shapes, layout, found)
                report.require(f"{file.path.name} looks like {layout.description}, and differs")
                return found
    return None


def find_layout(file: ModelFile, config: ModelConfig) -> SingleFile | None:
    """Return the layout of a file that holds only the denoiser; None if it holds more networks.

    Args:
        file: A file that fits `config`, as `configure_single_file` says.
        config: Its configuration.
    """
    layouts = family_of(config).files
    return next((x for x in layouts if _compare(file.shapes, x, config).fits), None)


def read_denoiser(
    file: ModelFile, layout: SingleFile, config: ModelConfig
) -> dict[str, np.ndarray]:
    """Return the tensors of a file (our names) that holds only the denoiser."""
    prefix = config.denoiser.network
    tensors = to_native(file, layout.table(config))
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def list_unused(file: ModelFile, config: ModelConfig, ema: bool | None = None) -> list[str]:
    """Return the names of the tensors of a single file that the model does not use.

    Args:
        file: A file that fits `config`.
        config: Its configuration.
        ema: Whether the averages are used, as for `select_ema`.
    """
    layout = find_layout(file, config)
    if layout is None:
        return list_unread(file, config, ema)
    return _compare(file.shapes, layout, config).ignored


def read_other_networks(folder: Path, config: ModelConfig) -> dict[str, np.ndarray]:
    """Return the tensors of a diffusers folder (our names) without those of the denoiser.

    Raises:
        InputError, CorruptModelError, KeyMismatchError: As for `load_diffusers`.
    """
    flat = load_diffusers(folder)[1]
    prefix = config.denoiser.network + "."
    return {name: tensor for name, tensor in flat.items() if not name.startswith(prefix)}


def require_networks(name: str, tensors: Mapping[str, np.ndarray], config: ModelConfig) -> None:
    """Refuse a model without an autoencoder, or without its text encoders.

    Raises:
        UsageError: It has none.
    """
    present = {key.partition(".")[0] for key in tensors}
    missing = [part for part, spec in model_spec(config).items() if spec and part not in present]
    if missing and missing != ["vae"]:
        raise UsageError(
            f"{name} holds the denoiser alone, without {', '.join(missing)}",
            code="E-MODEL",
            hint="give a folder of diffusers that has them: config= (--config)",
        )
    if missing:
        raise UsageError(
            f"{name} holds the denoiser alone, without an autoencoder",
            code="E-VAE",
            hint="give the autoencoder that it was trained with: vae= (--vae)",
        )


def _compare(shapes: Mapping[str, Shape], layout: SingleFile, config: ModelConfig) -> KeyReport:
    return fit(shapes, layout.table(config), find_matching(layout.ignored, shapes))
