"""Autoencoders on their own, to take the place of a model's: diffusers folders and single files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError, UsageError
from ldmref.io.compvis.key_entry import as_stored, stored_shapes
from ldmref.io.compvis.keys import autoencoder_table
from ldmref.io.compvis.single_file import to_native
from ldmref.io.diffusers.config import autoencoder_config, require_plain
from ldmref.io.diffusers.folder import (
    WEIGHTS,
    digest_of,
    is_conv_attention,
    our_name,
    read_json,
    weight_files,
)
from ldmref.io.key_report import Report, compare, refuse
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.autoencoder import autoencoder_spec
from ldmref.models.config import AutoencoderConfig, ModelConfig
from ldmref.models.params import flatten
from ldmref.models.presets_ldm import FIRST_STAGES
from ldmref.models.taesd import TinyConfig, tiny_spec
from ldmref.models.validate import check_config

PREFIX = "first_stage_model."
CLASSES = ("AutoencoderKL", "VQModel", "AutoencoderTiny")
TINY_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("relu",), "upsample_fn": ("nearest",), "upsampling_scaling_factor": (2,),
    "scaling_factor": (1.0, 1), "shift_factor": (0.0, 0, None),
}  # fmt: skip

# What training leaves in an autoencoder's file; and, in a whole model's, the other networks.
IGNORED = re.compile(r"loss\..*|model_ema\..*|logvar|.*\.num_batches_tracked")


@dataclass(frozen=True)
class Autoencoder:
    """An autoencoder from a file: `tensors` under our names without `vae.`."""

    name: str
    config: AutoencoderConfig | TinyConfig
    tensors: Mapping[str, np.ndarray]
    sha256: str

    @property
    def record(self) -> dict[str, str]:
        """What a picture's metadata tells of it."""
        return {"name": self.name, "sha256": self.sha256}


def read_vae(path: str | Path, model: AutoencoderConfig | None = None) -> Autoencoder:
    """Read an autoencoder: AutoencoderKL, VQModel or AutoencoderTiny (TAESD).

    Args:
        path: a folder of diffusers with config.json, or the model folder around it; or one file, in
            CompVis' names (kl-f8, vq-f4, ...; also within a whole model, below
            `first_stage_model.`) or in diffusers'.
        model: the sizes that a single file is tried with, and its scaling factor, since a file does
            not tell them, unless a config.json of an autoencoder lies beside it; None is Stable
            Diffusion's. The published first stages (`presets_ldm.FIRST_STAGES`) are tried next.

    Raises:
        InputError, CorruptModelError, KeyMismatchError: the file is missing, damaged, asks for
            something that is not supported, or does not fit.
        UnsafeFileError: it is a pickle.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path / "vae" if (path / "vae" / "config.json").is_file() else path)
    if not path.exists():
        raise InputError(f"no autoencoder {str(path)!r}", code="E-VAE")
    return _read_file(TensorFile(path), model or AutoencoderConfig())


def swap_vae(
    config: ModelConfig, flat: Mapping[str, np.ndarray], vae: Autoencoder
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Configuration and tensors of a model with another full autoencoder; the old ones stay.

    Raises:
        UsageError: it makes latents of another size, or with another number of channels.
    """
    require_fit(config, vae)
    if not isinstance(vae.config, AutoencoderConfig):
        return config, dict(flat)
    rest = {name: tensor for name, tensor in flat.items() if not name.startswith("vae.")}
    swapped = {f"vae.{name}": tensor for name, tensor in vae.tensors.items()}
    config = replace(config, vae=vae.config)
    check_config(config)
    return config, rest | swapped


def require_fit(config: ModelConfig, vae: Autoencoder) -> None:
    """Refuse an autoencoder of another latent space, as far as sizes tell."""
    ours = (config.vae.latent_channels, config.vae.factor)
    theirs = (vae.config.latent_channels, vae.config.factor)
    if ours != theirs:
        raise UsageError(
            f"the autoencoder {vae.name!r} has {theirs[0]} channels at 1/{theirs[1]} of the size, "
            f"the model needs {ours[0]} at 1/{ours[1]}",
            code="E-VAE",
            hint="take an autoencoder of the same family",
        )


def tiny_config(data: Mapping[str, Any]) -> TinyConfig:
    """An `AutoencoderTiny`'s config.json."""
    require_plain(data, TINY_PLAIN, "the autoencoder's configuration")
    default, widths = TinyConfig(), {}
    for half in ("encoder", "decoder"):
        channels = set(data.get(f"{half}_block_out_channels") or (64,))
        if len(channels) != 1:
            raise CorruptModelError(
                f"the autoencoder's {half} has several widths, which TAESD does not",
                code="E-CONFIG",
            )
        widths[f"{half}_channels"] = channels.pop()
    return TinyConfig(
        in_channels=data.get("in_channels", 3),
        out_channels=data.get("out_channels", 3),
        latent_channels=data.get("latent_channels", 4),
        num_encoder_blocks=tuple(data.get("num_encoder_blocks") or default.num_encoder_blocks),
        num_decoder_blocks=tuple(data.get("num_decoder_blocks") or default.num_decoder_blocks),
        **widths,
    )


def _config_of(data: Mapping[str, Any]) -> AutoencoderConfig | TinyConfig:
    """A config.json's."""
    return tiny_config(data) if data["_class_name"] == CLASSES[2] else autoencoder_config(data)


def _config_beside(file: Path) -> list[AutoencoderConfig | TinyConfig]:
    """The configuration in a config.json beside a file, where there is one of an autoencoder."""
    path = file.with_name("config.json")
    data = read_json(path) if path.is_file() else {}
    return [_config_of(data)] if data.get("_class_name") in CLASSES else []


def _read_folder(folder: Path) -> Autoencoder:
    data = read_json(folder / "config.json")
    kind = data.get("_class_name")
    if kind not in CLASSES:
        raise CorruptModelError(
            f"{folder.name!r} holds a {kind}, which is not supported",
            code="E-VAE",
            hint="supported: " + ", ".join(CLASSES),
        )
    config = _config_of(data)
    files = weight_files(folder, WEIGHTS["vae"])
    stored = {name: file[name] for file in files for name in file}
    tensors, report = _diffusers_tensors(stored, config)
    report.require(f"{folder.name!r} does not fit its config.json")
    return Autoencoder(folder.name, config, tensors, digest_of(files))


def _read_file(file: TensorFile, model: AutoencoderConfig) -> Autoencoder:
    inner = {name.removeprefix("state_dict."): name for name in file}
    if any(name.startswith(PREFIX) for name in inner):
        inner = {n.removeprefix(PREFIX): s for n, s in inner.items() if n.startswith(PREFIX)}
    stored = {name: file[old] for name, old in inner.items()}
    shapes, reports = {name: tensor.shape for name, tensor in stored.items()}, []
    beside = _config_beside(file.path)
    kl = [config for config in beside if isinstance(config, AutoencoderConfig)]
    for config in (*kl, model, *FIRST_STAGES.values()):
        table = autoencoder_table(config)
        report = compare(as_stored(shapes, table), stored_shapes(table), _ignorable(shapes))
        if report.fits:
            return Autoencoder(file.path.stem, config, to_native(stored, table), file.sha256())
        if config is model:
            reports.append(report)
    for config in (*beside, model, TinyConfig(latent_channels=model.latent_channels)):
        tensors, report = _diffusers_tensors(stored, config)
        if report.fits:
            return Autoencoder(file.path.stem, config, tensors, file.sha256())
        reports.append(report)
    refuse(
        reports,
        f"{file.path.name} is no autoencoder that fits the model",
        hint="for other sizes give a folder with config.json and the weights",
    )


def _diffusers_tensors(
    stored: Mapping[str, np.ndarray], config: AutoencoderConfig | TinyConfig
) -> tuple[dict[str, np.ndarray], Report]:
    """The tensors under our names, and how they fit."""
    tiny = isinstance(config, TinyConfig)
    want = flatten(tiny_spec(config) if tiny else autoencoder_spec(config))
    names = {our_name("vae", name): name for name in stored}
    shapes = {name: stored[old].shape for name, old in names.items()}
    shapes = {n: s[:2] if is_conv_attention(n, s) else s for n, s in shapes.items()}
    report = compare(shapes, want, _ignorable(shapes))
    if not report.fits:
        return {}, report
    return {name: stored[names[name]].reshape(want[name]) for name in want}, report


def _ignorable(names: Mapping[str, Any]) -> set[str]:
    return {name for name in names if IGNORED.fullmatch(name)}
