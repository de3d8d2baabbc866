"""diffusers folders: `model_index.json`, and a folder with config.json and weights per network."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError, UnsafeFileError
from ldmref.io.diffusers.checks import (
    config_error,
    damage_as_config_error,
    read_json,
    require_class,
)
from ldmref.io.diffusers.config import (
    convert_autoencoder_config,
    convert_text_config,
    convert_unet_config,
    get_trained_size,
)
from ldmref.io.diffusers.ldm import FOLDERS
from ldmref.io.diffusers.scheduler import convert_scheduler_config
from ldmref.io.identify import EDM, FEWER_LAYERS, INSTRUCTIONS
from ldmref.io.key_table import (
    KeyTable,
    find_matching,
    fit,
    key_table,
    to_native,
    with_attention_form,
)
from ldmref.io.siblings import require_agreement
from ldmref.io.stored_model import OpeningOptions, StoredModel, refuse_choices
from ldmref.io.tensors.model_file import ModelFile
from ldmref.io.tensors.open_file import open_weights
from ldmref.io.tensors.safetensors import TensorView, hash_files
from ldmref.models.autoencoder_config import BaseAutoencoderConfig
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import TEXT_ENCODERS, Defaults, ModelConfig
from ldmref.models.family import family_of_pipeline, list_families
from ldmref.models.model import model_spec
from ldmref.models.params import Spec, flatten
from ldmref.models.text_kind import kind_of
from ldmref.models.validate import config_from_dict

INDICES = ("model_index.json", "modular_model_index.json")  # of pipelines, and of modular ones
STABLE_DIFFUSION = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)
WEIGHTS = "diffusion_pytorch_model"  # the stem of the files of diffusers' networks
TEXT_WEIGHTS = "model"  # and of transformers'
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SHARD = r"-\d+-of-\d+"


def read_diffusers_config(folder: Path) -> ModelConfig:
    """Read the configuration of a diffusers folder, without its weights.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    index = read_json(find_index(folder))
    kind = str(index.get("_class_name"))
    family = family_of_pipeline(kind)
    if family is None:
        if "InstructPix2Pix" in kind:
            raise make_relative_error(folder, INSTRUCTIONS)
        known = [name for family in list_families() for name in family.folders]
        more = "install a package that declares it (docs/add-a-family.md); "
        require_class(kind, known, f"{folder.name!r} holds", "E-PIPELINE", more)
    assert family is not None, "require_class refuses what no family reads"
    with damage_as_config_error(folder.name):
        config = replace(family.folders[kind](folder, index), name=get_model_name(folder))
        return config_from_dict(config.to_dict())  # checks the type of every field


def find_index(folder: Path) -> Path:
    """Return the file that names the parts of a pipeline; the usual one if there is none."""
    paths = [folder / name for name in INDICES]
    return next((path for path in paths if path.is_file()), paths[0])


def read_stable_diffusion(folder: Path, index: Mapping[str, Any]) -> ModelConfig:
    """Read the configuration of a folder of Stable Diffusion 1, 2 or XL.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """
    kind = str(index["_class_name"])
    first, second = (folder / name / "config.json" for name in ("text_encoder", "text_encoder_2"))
    alone = second.is_file() and (not first.is_file() or index.get("text_encoder") == [None, None])
    if alone or index.get("requires_aesthetics_score"):
        message = f"{folder.name!r} is SDXL's refiner, which is not supported"
        raise CorruptModelError(message, code="E-PIPELINE", hint="use the base model alone")
    _refuse_relatives(folder, index)

    def read(part: str, file: str = "config.json") -> dict[str, Any]:
        return read_json(folder / part / file)

    xl = "XL" in kind
    names = ["text_encoder"]
    if (folder / "text_encoder_2").is_dir():
        names.append("text_encoder_2")
    texts = [convert_text_config(read(name), xl, get_class(index, name)) for name in names]
    vae = convert_autoencoder_config(read("vae"))
    unet = convert_unet_config(read("unet"))
    if unet.in_channels == 2 * vae.latent_channels:
        raise make_relative_error(folder, INSTRUCTIONS)
    height, width = (side * vae.factor for side in get_trained_size(read("unet")))
    scheduler = read("scheduler", "scheduler_config.json")
    cfg_scale = 5.0 if xl else 7.5  # diffusers' default; 7.5 for inpainting
    return ModelConfig(
        denoiser=unet,
        vae=vae,
        text_encoder=texts[0],
        text_encoder_2=texts[1] if len(texts) > 1 else None,
        zero_empty_negative=bool(index.get("force_zeros_for_empty_prompt", xl)),
        scheduler=convert_scheduler_config(scheduler, get_class(index, "scheduler"), kind),
        defaults=Defaults(50, cfg_scale, 7.5, width, height),
    )


def _refuse_relatives(folder: Path, index: Mapping[str, Any]) -> None:
    """Refuse SDXL's relatives, whose configurations say what their tensors say of single files.

    Raises:
        CorruptModelError: The noise levels are those of EDM, or the U-Net has fewer layers.
    """
    unet = read_json(folder / "unet" / "config.json")
    xl = "XL" in str(index["_class_name"])
    if xl and get_class(index, "scheduler").startswith("EDM"):
        raise make_relative_error(folder, EDM)
    shallow = unet.get("mid_block_type", "") is None
    shallow = shallow or unet.get("reverse_transformer_layers_per_block") is not None
    if xl and shallow:
        raise make_relative_error(folder, FEWER_LAYERS)


def make_relative_error(folder: Path, relative: tuple[str, str]) -> CorruptModelError:
    """Make the error for the folder of a relative of supported models: what it is, and a hint."""
    what, hint = relative
    return CorruptModelError(f"{folder.name!r} is {what}", code="E-PIPELINE", hint=hint)


def get_class(index: Mapping[str, Any], part: str) -> str:
    """Return the class of a part in model_index.json, which is ["library", "class"] there.

    Modular pipelines add where the part was loaded from.

    Args:
        index: The contents of model_index.json.
        part: The name of the part, such as "scheduler".

    Returns:
        The class; "" if the part has none.

    >>> from ldmref.io.diffusers import get_class
    >>> get_class({"scheduler": ["diffusers", "DDIMScheduler"]}, "scheduler")
    'DDIMScheduler'
    """
    entry = index.get(part)
    if not isinstance(entry, list) or not 2 <= len(entry) <= 3 or not isinstance(entry[1], str):
        return ""
    return entry[1] if isinstance(entry[-1], str if len(entry) == 2 else dict) else ""


def get_model_name(folder: Path) -> str:
    """Return the name of a folder, or of its repository in the cache of Hugging Face."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.split("--")[-1]
    return folder.name


class DiffusersFolder(StoredModel):
    """A folder of diffusers, whose configuration is read at once and whose weights when used.

    Args:
        path: The folder.
        variant: As for `select_weight_names`.

    Raises:
        InputError: A file is missing.
        CorruptModelError: A configuration asks for something that is not supported.
    """

    has_weights = True

    has_variants = True

    @classmethod
    def is_at(cls, path: Path) -> bool:
        return find_index(path).is_file()

    @classmethod
    def open(cls, path: Path, options: OpeningOptions) -> DiffusersFolder:
        refuse_choices(path, options)
        return cls(path, options.variant)

    def __init__(self, path: Path, variant: str | None = None):
        self.path = path
        self.variant = variant
        self.config = read_diffusers_config(path)

    @cached_property
    def _networks(self) -> dict[str, tuple[TensorView, KeyTable]]:
        """The tensors of each network under today's names, and the table to read them with."""
        texts = dict(zip(TEXT_ENCODERS, map(kind_of, self.config.text_encoders), strict=False))
        networks = {}
        for part, spec in model_spec(self.config).items():
            path = self.path / part
            path = path if path.is_dir() else self.path / FOLDERS.get(part, part)
            name = f"{self.path.name}/{part}"
            if part == "vae":
                vae = self.config.vae
                networks[part] = open_autoencoder(path, vae, name, variant=self.variant)
                continue
            rename, ignored = get_current_name, ""
            if part in texts:
                rename, ignored = texts[part].rename, texts[part].ignored
            table = diffusers_table(spec)
            tensors = open_network(path, part, table, name, ignored, self.variant, rename)
            networks[part] = tensors, table
            if part in texts:
                require_agreement(name, tensors.files, getattr(self.config, part))
        return networks

    def read(self) -> dict[str, np.ndarray]:
        return {
            f"{part}.{name}": tensor
            for part, (view, table) in self._networks.items()
            for name, tensor in to_native(view, table).items()
        }

    @property
    def digest(self) -> Callable[[], str]:
        return partial(hash_files, [x for view, _ in self._networks.values() for x in view.files])


def get_current_name(name: str) -> str:
    """Return today's name of a tensor of diffusers, whose attention layers were renamed."""
    pieces = name.split(".")
    if "attentions" in pieces and pieces[-2] in OLD_ATTENTION:
        pieces[-2] = OLD_ATTENTION[pieces[-2]]
    return ".".join(pieces)


def open_autoencoder(
    folder: Path,
    config: BaseAutoencoderConfig,
    name: str,
    ignored: str = "",
    variant: str | None = None,
) -> tuple[TensorView, KeyTable]:
    """Open the weights of an autoencoder; return the tensors and the table that reads them."""
    ignored = "|".join(filter(None, (ignored, autoencoder_of(config).ignored)))
    table = diffusers_autoencoder_table(config)
    return open_network(folder, "vae", table, name, ignored, variant), table


def diffusers_autoencoder_table(config: BaseAutoencoderConfig) -> KeyTable:
    """Return the key table of an autoencoder in diffusers' names."""
    kind = autoencoder_of(config)
    return kind.stored(config, diffusers_table(kind.spec(config)))


def open_network(
    folder: Path,
    part: str,
    table: KeyTable,
    name: str,
    ignored: str = "",
    variant: str | None = None,
    rename: Callable[[str], str] = get_current_name,
) -> TensorView:
    """Open the weights of one network and check names and shapes, without reading a tensor.

    Args:
        folder: The folder of the weights.
        part: The network's part of the pipeline, such as `unet`.
        table: Names and shapes of the tensors that it must have; see `diffusers_table`.
        name: The name of the folder, for errors.
        ignored: A pattern of the names that are not needed but may be present.
        variant: As for `select_weight_names`.
        rename: Returns our name of a stored tensor.

    Returns:
        The tensors under today's names, which the table reads.

    Raises:
        InputError, CorruptModelError, KeyMismatchError: A file is missing, damaged, or does not
            fit.
    """
    tensors = TensorView(open_weight_files(folder, get_weight_stem(part), variant), rename)
    report = fit(tensors.shapes, table, find_matching(ignored, tensors))
    report.require(f"{name} does not fit its config.json")
    return tensors


def list_parts() -> list[str]:
    """Return the folders of the networks of all families, in diffusers' layout."""
    denoisers = (family.denoiser.network for family in list_families())
    return [*dict.fromkeys(denoisers), "vae", *TEXT_ENCODERS]


def get_weight_stem(part: str) -> str:
    """Return how the names of the weight files of a network begin."""
    return TEXT_WEIGHTS if part in TEXT_ENCODERS else WEIGHTS


def diffusers_table(spec: Spec) -> KeyTable:
    """Return the key table of today's diffusers, whose names are ours.

    Old autoencoder files hold the matrices of attention as 1 x 1 convolutions.
    """
    return with_attention_form(key_table(flatten(spec), {"": ""}), "matrix")


def open_weight_files(folder: Path, stem: str, variant: str | None = None) -> list[ModelFile]:
    """Open the weights of one network: one file, or the shards that an index names.

    Raises:
        InputError: There are none, there are several variants to choose from, or shards are
            missing.
        UnsafeFileError: There are only pickles.
    """
    files = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    first = select_weight_names(files, stem, folder.name, variant)[0]
    if not first.endswith(".json"):
        return [open_weights(folder / first)]
    weights = read_json(folder / first).get("weight_map")
    if not isinstance(weights, Mapping) or not weights:
        raise config_error(f"{first} names no files")
    shards = sorted({str(name) for name in weights.values()})
    if any(PureWindowsPath(name).name != name for name in shards):  # "/", "\\" and drives
        raise UnsafeFileError(f"{first} points out of its folder", code="E-SHARD")
    absent = [name for name in shards if not os.path.isfile(folder / name)]
    if absent:
        message = f"{len(absent)} of {len(shards)} shards are missing: {absent[0][:80]!r}"
        raise InputError(f"{folder.name}: {message}", code="E-MODEL")
    return [open_weights(folder / name) for name in shards]


def select_weight_names(
    names: Sequence[str], stem: str, folder: str, variant: str | None = None
) -> list[str]:
    """Select the weights among the files of a network's folder: one file, or index and shards.

    `variant`, such as fp16, selects files of that name. By default, files without a variant are
    preferred; if there are none, the only variant is used.

    Raises:
        InputError: There are none, or several variants to choose from.
        UnsafeFileError: There are only pickles.
    """
    escaped = re.escape(stem)
    pattern = re.compile(rf"{escaped}(.*?)\.safetensors(?:\.index(.*?)\.json)?")
    variants: dict[str, list[str]] = {}
    for name in sorted(names, key=lambda name: (not name.endswith(".json"), name)):
        match = pattern.fullmatch(name)
        if match and not re.search(SHARD, name):
            variants.setdefault((match[1] or match[2] or "").strip("."), []).append(name)
    if not variants and any(name.endswith(".bin") for name in names):
        message = f"{folder} holds its weights as pickles, and loading a pickle can run code"
        hint = "make it safe first: ldmref convert FILE.bin FILE.safetensors"
        raise UnsafeFileError(message, code="E-PICKLE", hint=hint)
    if not variants:
        raise InputError(f"{folder} has no {stem}.safetensors", code="E-MODEL")
    if variant is None:
        variant = "" if "" in variants or len(variants) > 1 else next(iter(variants))
    if variant not in variants:
        problem = f"no variant {variant!r}" if variant else "several variants"
        hint = "give variant= (--variant) " + " or ".join(map(repr, sorted(variants)))
        raise InputError(f"{folder} has {problem}", code="E-VARIANT", hint=hint)
    first = variants[variant][0]
    if not first.endswith(".json"):
        return [first]
    ending = re.escape(f".{variant}") if variant else ""
    shard = re.compile(rf"{escaped}({ending}{SHARD}|{SHARD}{ending})\.safetensors")
    return [first, *sorted(name for name in names if shard.fullmatch(name))]
