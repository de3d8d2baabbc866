"""Autoencoders that replace a model's own: diffusers folders and single files.

TAESD's author has one file for the encoder and one for the decoder,
`taesd_encoder.safetensors` and `taesd_decoder.safetensors`, and the same for taesdxl, taesd3 and
taef1. Their names are numbers of layers, which also count the clamp in front of the decoder.

Source of these files: madebyollin/taesd, taesd.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import InputError, KeyMismatchError, UsageError
from ldmref.io.compvis.keys import original_autoencoder_table
from ldmref.io.diffusers.checks import (
    config_error,
    damage_as_config_error,
    read_json,
    require_class,
    require_plain,
)
from ldmref.io.diffusers.config import (
    OWN_AUTOENCODERS,
    autoencoder_classes,
    convert_autoencoder_config,
)
from ldmref.io.diffusers.folder import (
    diffusers_autoencoder_table,
    diffusers_table,
    get_current_name,
    open_autoencoder,
    open_network,
)
from ldmref.io.identify import get_foreign_class
from ldmref.io.key_table import KeyEntry, KeyTable, find_first_fit, find_matching, fit, to_native
from ldmref.io.kit_folder import KitFolder, is_kit
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.safetensors import TensorFile, TensorView, hash_files
from ldmref.io.tensors.wrappers import unwrap_file
from ldmref.models.autoencoder_config import AutoencoderConfig, BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import ModelConfig
from ldmref.models.params import Shape, flatten
from ldmref.models.presets import list_presets
from ldmref.models.presets_ldm import FIRST_STAGES
from ldmref.models.taesd import TinyConfig, tiny_spec
from ldmref.models.validate import check_config, check_network
from ldmref.support.files import NOT_THERE, check_input_path

AnyConfig = BaseAutoencoderConfig | TinyConfig
PREFIX = "first_stage_model."
TINY = "AutoencoderTiny"
CLASSES = (*OWN_AUTOENCODERS, TINY)
TINY_PLAIN: dict[str, tuple[Any, ...]] = {
    "act_fn": ("relu",),
    "upsample_fn": ("nearest",),
    "upsampling_scaling_factor": (2,),
    "scaling_factor": (1.0, 1),
    "shift_factor": (0.0, 0, None),
}

TINY_FIELDS = ("in_channels", "out_channels", "latent_channels")
# Tensors that training leaves in an autoencoder's file.
IGNORED = r"loss\..*|model_ema\..*|logvar|.*\.num_batches_tracked"

# Of a decoder alone, with the prefix and without, and of the numbers that normalise its latents.
DECODER = (
    r"(decoder|bn|post_quant_conv|mid|up|mid_block|up_blocks|(conv|norm|conv_norm)_(in|out))\."
)
CODE = "E-VAE"
KIT_PART = "vae"  # the name of the network in a kit
CLAMPS = {"encoder": 0, "decoder": 1}  # layers of the author in front of the first convolution
FIRST = {half: f"{number}.weight" for half, number in CLAMPS.items()}
FAMILIES = "the TAESD of Stable Diffusion 1, 2, XL and 3 and of Flux.1"


@dataclass(frozen=True)
class AutoencoderFile:
    """An autoencoder from a file, with `tensors` under our names without `vae.`"""

    name: str
    config: AnyConfig
    tensors: Mapping[str, np.ndarray] = field(repr=False)
    sha256: str

    @property
    def record(self) -> dict[str, str]:
        """The entry of the autoencoder in an image's metadata."""
        return {"name": self.name, "sha256": self.sha256}


def read_vae(
    path: str | Path, model: BaseAutoencoderConfig | None = None, with_encoder: bool = True
) -> AutoencoderFile:
    """Read an autoencoder: AutoencoderKL, VQModel or AutoencoderTiny (TAESD).

    Args:
        path: A diffusers folder with config.json, or the model folder around it; a passport kit, or
            the file of the autoencoder in one; or one file with
            the names of CompVis (kl-f8, vq-f4, ...; also a whole model, whose autoencoder is below
            `first_stage_model.`), of the makers of its kind, or of diffusers; or one of the
            author's files of TAESD, encoder or decoder, with the other beside it.
        model: The configuration to try for a single file, after the one of a config.json in the
            same folder; the published first stages (`presets_ldm.FIRST_STAGES`) are tried next.
            None: Stable Diffusion's.
        with_encoder: Whether TAESD's decoder alone is refused.

    Returns:
        The configuration, and the tensors by our names.

    Raises:
        InputError, CorruptModelError, KeyMismatchError: The file is missing, damaged, not
            supported, or does not fit.
        UnsafeFileError: It is a pickle.

    >>> from ldmref.io import read_vae
    >>> read_vae("kl-f8.safetensors").config.factor  # doctest: +SKIP
    8
    """
    path = check_input_path(path, "the path of an autoencoder", "E-VAE")
    kit = path if path.is_dir() else path.parent
    if is_kit(kit) and (kit == path or path.stem == KIT_PART):
        return _read_kit(kit)
    if path.is_dir():
        return _read_folder(path / "vae" if (path / "vae" / "config.json").is_file() else path)
    if not path.exists():
        raise InputError(f"no autoencoder {str(path)!r}", code="E-VAE", hint=NOT_THERE)
    file = unwrap_file(TensorFile(path))
    half = find_half(file.shapes)
    if half:
        name = path.stem.replace(f"_{half}", "")
        return AutoencoderFile(name, *read_halves(path, with_encoder))
    stored = TensorView([file], _stored_name, PREFIX)
    _require_encoder(path.name, stored)
    known = [*_read_beside(path), model or AutoencoderConfig()]
    expected = [
        config if isinstance(config, TinyConfig) else _with_sizes(config, stored.shapes)
        for config in known
    ]
    ignored = _list_ignored(expected)
    config, table = find_first_fit(
        stored.shapes,
        _candidates(*expected),
        f"{path.name} is not an autoencoder that fits the model",
        "for other sizes give a folder with config.json and the weights",
        find_matching(ignored, stored),
    )
    return AutoencoderFile(path.stem, config, to_native(stored, table), stored.sha256())


def _with_sizes(
    config: BaseAutoencoderConfig, shapes: Mapping[str, Shape]
) -> BaseAutoencoderConfig:
    """Return a configuration with the sizes of a file that its kind reads off."""
    return autoencoder_of(config).with_sizes(config, shapes)


def _require_encoder(name: str, stored: Iterable[str]) -> None:
    """Refuse a file of a decoder alone.

    Raises:
        KeyMismatchError: It is one.
    """
    names = [*stored]
    if names and all(re.match(DECODER, one) for one in names):
        raise KeyMismatchError(
            f"{name} is the decoder of an autoencoder, without its encoder",
            code="E-KEYS",
            hint="give the file that has both, such as full_encoder_small_decoder.safetensors of "
            "FLUX.2",
        )


def _stored_name(name: str) -> str:
    return get_current_name(name.removeprefix("state_dict."))


def _read_beside(path: Path) -> list[AnyConfig]:
    """Return the configuration of an autoencoder beside a single file: one, or none."""
    file = path.with_name("config.json")
    data = read_json(file) if file.is_file() else {}
    return [_config(data)] if data.get("_class_name") in _list_classes() else []


def _candidates(*expected: AnyConfig) -> Iterator[tuple[AnyConfig, KeyTable]]:
    """Yield configurations and key tables to try for a single file, in this order."""
    for config in (*expected, *FIRST_STAGES.values()):
        original = _original_table(config)
        if original:
            yield config, original
    for config in (*expected, TinyConfig(latent_channels=expected[-1].latent_channels)):
        yield config, _table(config)


def list_autoencoder_owners(file: ModelFile) -> dict[str, BaseAutoencoderConfig]:
    """Return the presets that have the autoencoder of a file, and the published first stages.

    Args:
        file: A file.

    Returns:
        The configuration of the autoencoder by their names; {} if the file holds something else, or
        an autoencoder of another size.
    """
    file = unwrap_file(file)
    stored = TensorView([file], _stored_name, PREFIX)
    whole = len(stored) == len(file)  # not one of the networks of a model
    if not whole or not any(name.startswith(("encoder.", "decoder.")) for name in stored):
        return {}
    fits: dict[AnyConfig, bool] = {}
    models: dict[str, BaseAutoencoderConfig] = {
        name: config.vae for name, config in list_presets().items()
    }
    models |= FIRST_STAGES
    owners: dict[str, BaseAutoencoderConfig] = {}
    for name, config in models.items():
        sized = _with_sizes(config, stored.shapes)
        if sized not in fits:
            unread = find_matching(_list_ignored([sized]), stored)
            fits[sized] = any(fit(stored.shapes, table, unread).fits for table in _tables(sized))
        if fits[sized]:
            owners[name] = sized
    return owners


def _list_ignored(configs: Iterable[AnyConfig]) -> str:
    """Return a pattern of the names that files of these autoencoders may also hold."""
    kinds = [autoencoder_of(c) for c in configs if not isinstance(c, TinyConfig)]
    return "|".join([IGNORED, *(kind.ignored for kind in kinds if kind.ignored)])


def _tables(config: AnyConfig) -> Iterator[KeyTable]:
    """Yield the names of an autoencoder in single files: those of the makers, and of diffusers."""
    original = _original_table(config)
    if original:
        yield original
    yield _table(config)


def _original_table(config: AnyConfig) -> KeyTable:
    """Return the names of the makers in a single file; {} for TAESD, whose files are two."""
    return {} if isinstance(config, TinyConfig) else original_autoencoder_table(config)


def _read_folder(folder: Path) -> AutoencoderFile:
    data = read_json(folder / "config.json")
    require_class(get_foreign_class(data), _list_classes(), f"{folder.name!r} holds", "E-VAE")
    config = _config(data)
    name = repr(folder.name)
    if isinstance(config, TinyConfig):
        table = diffusers_table(tiny_spec(config))
        stored = open_network(folder, "vae", table, name, IGNORED)
    else:
        stored, table = open_autoencoder(folder, config, name, IGNORED)
    return AutoencoderFile(folder.name, config, to_native(stored, table), stored.sha256())


def _read_kit(folder: Path) -> AutoencoderFile:
    """Return the autoencoder of the model of a kit."""
    kit = KitFolder(folder)
    own = {key: x for key, x in kit.read().items() if key.startswith(f"{KIT_PART}.")}
    tensors = {key.removeprefix(f"{KIT_PART}."): x for key, x in own.items()}
    return AutoencoderFile(folder.name, kit.config.vae, tensors, kit.digest())


def _config(data: Mapping[str, Any]) -> AnyConfig:
    with damage_as_config_error("config.json"):
        tiny = data["_class_name"] == TINY
        config = convert_tiny_config(data) if tiny else convert_autoencoder_config(data)
        check_network(config, "vae")
    return config


def _list_classes() -> tuple[str, ...]:
    """Return the classes of diffusers that are read, also by kinds of other packages."""
    return (*CLASSES, *autoencoder_classes())


def _table(config: AnyConfig) -> KeyTable:
    if isinstance(config, TinyConfig):
        return diffusers_table(tiny_spec(config))
    return diffusers_autoencoder_table(config)


def convert_tiny_config(data: Mapping[str, Any]) -> TinyConfig:
    """Convert the configuration of an `AutoencoderTiny`."""
    require_plain(data, TINY_PLAIN, "the autoencoder's configuration")
    fields = {name: data[name] for name in TINY_FIELDS if name in data}
    for half in ("encoder", "decoder"):
        channels = set(data.get(f"{half}_block_out_channels") or (64,))
        if len(channels) != 1:
            raise config_error(f"the autoencoder's {half} has several widths; TAESD has one")
        fields[f"{half}_channels"] = channels.pop()
        if data.get(f"num_{half}_blocks"):
            fields[f"num_{half}_blocks"] = tuple(data[f"num_{half}_blocks"])
    return TinyConfig(**fields)


def swap_vae(
    config: ModelConfig, flat: Mapping[str, np.ndarray], vae: AutoencoderFile
) -> tuple[ModelConfig, dict[str, np.ndarray]]:
    """Return configuration and tensors of a model with another full autoencoder.

    The inputs are not changed.

    Raises:
        UsageError: Its latents have another size or number of channels.
    """
    require_fit(config, vae)
    if isinstance(vae.config, TinyConfig):
        return config, dict(flat)
    rest = {name: tensor for name, tensor in flat.items() if not name.startswith("vae.")}
    config = replace(config, vae=vae.config)
    check_config(config)
    return config, rest | {f"vae.{name}": tensor for name, tensor in vae.tensors.items()}


def require_fit(config: ModelConfig, vae: AutoencoderFile) -> None:
    """Refuse an autoencoder whose latents have another shape.

    Raises:
        UsageError: It has another number of channels, or another factor between pixels and latents.
    """
    ours = (config.vae.latent_channels, config.vae.factor)
    theirs = (vae.config.latent_channels, vae.config.factor)
    if ours != theirs:
        message = f"the autoencoder {vae.name!r} has {theirs[0]} channels at 1/{theirs[1]} of the "
        message += f"size, the model needs {ours[0]} at 1/{ours[1]}"
        raise UsageError(message, code="E-VAE", hint="take an autoencoder of the same family")


def find_half(shapes: Mapping[str, Shape]) -> str:
    """Return the half of TAESD that a file holds, `encoder` or `decoder`; "" if it holds none.

    >>> find_half({"0.weight": (64, 3, 3, 3), "1.conv.0.weight": (64, 64, 3, 3)})
    'encoder'
    """
    if not all(name.split(".")[0].isdecimal() for name in shapes):
        return ""
    return next((half for half, first in FIRST.items() if first in shapes), "")


def read_halves(
    path: Path, with_encoder: bool = True
) -> tuple[TinyConfig, dict[str, np.ndarray], str]:
    """Read TAESD from the file of one half, and the other half from the file beside it.

    Args:
        path: A file for which `find_half` says which half it is.
        with_encoder: Whether the encoder is needed.

    Returns:
        The configuration, the tensors by our names, and the digest of the files.

    Raises:
        InputError: The other half is missing.
        KeyMismatchError: A file holds another autoencoder.
    """
    files = {find_half(file.shapes): file for file in (TensorFile(path),)}
    (half,) = files
    other = next(name for name in CLAMPS if name != half)
    beside = path.with_name(path.name.replace(half, other))
    if beside != path and beside.is_file():
        files[other] = TensorFile(beside)
    needed = CLAMPS if with_encoder else ("decoder",)
    if any(name not in files for name in needed):
        named = repr(beside.name) if beside != path else f"with {other!r} in its name"
        raise InputError(
            f"{path.name} is the {half} of TAESD, and its {other} is missing",
            code=CODE,
            hint=f"put the file {named} beside it, or give a folder of diffusers (AutoencoderTiny)",
        )
    tensors: dict[str, np.ndarray] = {}
    config = TinyConfig(latent_channels=_count_channels(files))
    for name, file in files.items():
        table = half_table(config, name)
        report = fit(file.shapes, table)
        report.require(f"{file.path.name} is not the {name} of TAESD", f"supported are {FAMILIES}")
        tensors |= to_native(file, table)
    ordered = [files[name] for name in CLAMPS if name in files]
    return config, tensors, hash_files(ordered)


def _count_channels(files: Mapping[str, TensorFile]) -> int:
    """Return the channels of the latents, by the first layer of the decoder or the last."""
    if "decoder" in files:
        shape = files["decoder"].shapes[FIRST["decoder"]]
        return shape[1] if len(shape) == 4 and shape[1] else 1
    shapes = files["encoder"].shapes
    return (*shapes[max(shapes, key=lambda name: int(name.split(".")[0]))], 1)[0] or 1


def half_table(config: TinyConfig, half: str) -> dict[str, KeyEntry]:
    """Return the author's tensor for each parameter of a half, by our names."""
    table = {}
    for name, shape in flatten(tiny_spec(config)).items():
        path, _, rest = name.partition(".layers.")
        if path == half:
            number, _, leaf = rest.partition(".")
            table[name] = KeyEntry(f"{int(number) + CLAMPS[half]}.{leaf}", shape)
    return table
