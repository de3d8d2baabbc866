"""Single files that hold the denoiser and perhaps more, in the layouts that families declare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import UsageError
from ldmref.io.compvis.single_file import list_unread
from ldmref.io.diffusers.folder import load_diffusers
from ldmref.io.key_report import KeyReport
from ldmref.io.key_table import KeyEntry, add_prefixes, find_matching, fit, to_native
from ldmref.io.tensors.model_file import ModelFile
from ldmref.models.config import ModelConfig
from ldmref.models.family import SingleFile, family_of, list_families
from ldmref.models.networks import model_spec
from ldmref.models.params import Shape


def find_denoiser_config(file: ModelFile, config: ModelConfig | None = None) -> ModelConfig | None:
    """Return the configuration of a file in a layout that a family declares.

    Args:
        file: The file.
        config: The configuration that it must fit. None: the family's, by names and shapes.

    Returns:
        The configuration; None if no family knows the file, or it may be one of whole models.

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
    """Return the layout of a file that families declare; None if it is one of whole models.

    Args:
        file: A file that fits `config`, as `configure_single_file` says.
        config: Its configuration.
    """
    layouts = family_of(config).files
    return next((x for x in layouts if _compare(file.shapes, x, config).fits), None)


def read_networks(
    file: ModelFile, layout: SingleFile, config: ModelConfig
) -> dict[str, np.ndarray]:
    """Return the tensors of a file (our names): the denoiser's, and those of others that it holds.

    Args:
        file: A file that fits `config`.
        layout: Its layout, from `find_layout`.
        config: Its configuration.
    """
    tensors = to_native(file, _list_entries(file.shapes, layout, config))
    for network, table in _find_held(file.shapes, layout, config).items():
        fixed = {name: x for name, x in table.items() if not isinstance(x, KeyEntry)}
        tensors |= {f"{network}.{name}": x for name, x in fixed.items()}
    return tensors


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
    alone = present == {config.denoiser.network}
    holds = f"{name} holds the denoiser alone, without" if alone else f"{name} is without"
    if missing and missing != ["vae"]:
        raise UsageError(
            f"{holds} {', '.join(missing)}",
            code="E-MODEL",
            hint="give a folder of diffusers that has them: config= (--config)",
        )
    if missing:
        raise UsageError(
            f"{holds} an autoencoder",
            code="E-VAE",
            hint="give the autoencoder that it was trained with: vae= (--vae)",
        )


def _compare(shapes: Mapping[str, Shape], layout: SingleFile, config: ModelConfig) -> KeyReport:
    entries = _list_entries(shapes, layout, config)
    return fit(shapes, entries, find_matching(layout.ignored, shapes))


def _list_entries(
    shapes: Mapping[str, Shape], layout: SingleFile, config: ModelConfig
) -> dict[str, KeyEntry]:
    """Return the tensor for each parameter of the denoiser and of the others that a file holds."""
    entries = add_prefixes(f"{config.denoiser.network}.", "", layout.table(config))
    for network, table in _find_held(shapes, layout, config).items():
        stored = {name: entry for name, entry in table.items() if isinstance(entry, KeyEntry)}
        entries |= add_prefixes(f"{network}.", "", stored)
    return entries


def _find_held(
    shapes: Mapping[str, Shape], layout: SingleFile, config: ModelConfig
) -> dict[str, Mapping[str, Any]]:
    """Return the tables of the other networks of which a file has at least one tensor."""
    return {
        network: table
        for network, table in layout.others(config).items()
        if any(isinstance(entry, KeyEntry) and entry.name in shapes for entry in table.values())
    }
