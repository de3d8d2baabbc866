"""Single files that hold the denoiser and perhaps more, in the layouts that families declare."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, KeyMismatchError, UsageError
from ldmref.io.compvis.single_file import list_unread
from ldmref.io.identify import refuse_foreign, refuse_variant
from ldmref.io.key_report import KeyReport
from ldmref.io.key_table import KeyEntry, add_prefixes, find_matching, fit, to_native
from ldmref.io.tensors.model_file import ModelFile
from ldmref.models.config import TEXT_ENCODERS, ModelConfig, TextConfig
from ldmref.models.family import SingleFile, family_of, list_families
from ldmref.models.networks import model_spec
from ldmref.models.params import Shape
from ldmref.models.validate import check_fields


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
        reports = [_compare(file.shapes, layout, config) for layout in layouts]
        best = max(reports, key=lambda report: report.likeness, default=None)
        if best is None or not best.fits:
            hint = _explain_misfit(file, config)
            if best is None:
                return None
            if 2 * best.shared < len(file.shapes):
                refuse_foreign(file.path.name, file.shapes)
            best.require(f"{file.path.name} is not a {config.name!r} model", hint)
        return config
    layout, found = _recognise(file)
    if layout is not None and found is not None:
        report = _compare(file.shapes, layout, found)
        if not report.fits:
            refuse_variant(file.path.name, file.shapes)
        report.require(f"{file.path.name} looks like {layout.description}, and differs")
    return found


def _recognise(file: ModelFile) -> tuple[SingleFile, ModelConfig] | tuple[None, None]:
    """Return the first layout of a family that knows a file, and the configuration by it.

    Raises:
        CorruptModelError: The configuration is impossible.
    """
    for family in list_families():
        for layout in family.files:
            found = layout.recognise(file.shapes)
            if found is not None:
                _require_possible(file, layout, found)
                return layout, found
    return None, None


def _require_possible(file: ModelFile, layout: SingleFile, found: ModelConfig) -> None:
    """Refuse a file whose shapes no network of its family has, before any table is made of it.

    Raises:
        CorruptModelError: They are out of range, such as tens of thousands of blocks.
    """
    try:
        check_fields(found.denoiser, found.denoiser.network)
    except CorruptModelError as error:
        message = f"{file.path.name} looks like {layout.description}, and cannot be it: {error}"
        raise CorruptModelError(message, code="E-KEYS", hint=error.hint) from error


def _explain_misfit(file: ModelFile, config: ModelConfig) -> str:
    """Return which published model a file is that does not fit a configuration of its family.

    Raises:
        KeyMismatchError: The file is of another family.
    """
    layout, found = _recognise(file)
    if layout is None or found is None:
        return ""
    family = family_of(found)
    if family is not family_of(config):
        raise KeyMismatchError(
            f"{file.path.name} is {layout.description}, and {config.name!r} is of another kind",
            code="E-KEYS",
            hint="config= (--model-config) takes a folder or preset of the same kind",
        )
    if found.name not in family.presets or not _compare(file.shapes, layout, found).fits:
        return ""
    return f"it is a {found.name!r} model: give the folder of one as config= (--model-config)"


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


def list_held_networks(file: ModelFile, config: ModelConfig) -> set[str]:
    """Return the networks beside the denoiser that a single file holds, in a family's layout.

    Args:
        file: A file that fits `config`.
        config: Its configuration.
    """
    layout = find_layout(file, config)
    return set() if layout is None else set(_find_held(file.shapes, layout, config))


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


def require_text_encoders(name: str, tensors: Iterable[str], config: ModelConfig) -> None:
    """Refuse a single file without the text encoders of its model.

    Raises:
        UsageError: It has none, or not all; the message names the autoencoder as well.
    """
    tensors = list(tensors)
    missing = _list_missing(tensors, config)
    texts = dict(zip(TEXT_ENCODERS, config.text_encoders, strict=False))
    without = {network: texts[network] for network in missing if network in texts}
    if without:
        parts = describe_texts(without) + (", vae" if "vae" in missing else "")
        also = ", and the autoencoder: vae= (--vae)" if "vae" in missing else ""
        raise UsageError(
            f"{_describe_missing(name, tensors, config)} {parts}",
            code="E-MODEL",
            hint=f"give a file of each text encoder: text_encoders= (--text-encoder){also}; or the "
            "folder of a model that has them: config= (--model-config)",
        )


def describe_texts(texts: Mapping[str, TextConfig]) -> str:
    """Return the text encoders of a model in words.

    >>> from ldmref.models import preset
    >>> describe_texts({"text_encoder": preset("sd15").text_encoder})
    'text_encoder (clip, 12 layers of width 768)'
    """
    return ", ".join(
        f"{name} ({x.model_type}, {x.num_hidden_layers} layers of width {x.hidden_size})"
        for name, x in texts.items()
    )


def require_autoencoder(name: str, tensors: Iterable[str], config: ModelConfig) -> None:
    """Refuse a model without an autoencoder, its own or another one.

    Raises:
        UsageError: It has none.
    """
    if "vae" in _list_missing(tensors, config):
        raise UsageError(
            f"{_describe_missing(name, tensors, config)} an autoencoder",
            code="E-VAE",
            hint="give the autoencoder that it was trained with: vae= (--vae)",
        )


def _list_missing(tensors: Iterable[str], config: ModelConfig) -> list[str]:
    present = {key.partition(".")[0] for key in tensors}
    return [part for part, spec in model_spec(config).items() if spec and part not in present]


def _describe_missing(name: str, tensors: Iterable[str], config: ModelConfig) -> str:
    alone = all(key.startswith(f"{config.denoiser.network}.") for key in tensors)
    return f"{name} holds the denoiser alone, without" if alone else f"{name} is without"


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
