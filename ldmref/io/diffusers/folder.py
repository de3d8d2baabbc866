"""diffusers folders: a `model_index.json`, and a folder with configuration and weights per network.

Every field of a configuration is either understood or must have the value that means "nothing
special"; anything else is refused, because ignoring it would draw another picture.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError, UnsafeFileError
from ldmref.io.diffusers.config import (
    autoencoder_config,
    text_config,
    trained_size,
    unet_config,
)
from ldmref.io.diffusers.ldm import FOLDERS, LDM_PIPELINES, ldm_config
from ldmref.io.diffusers.scheduler import scheduler_config
from ldmref.io.key_report import compare
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.config import Defaults, ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.validate import config_from_dict

PIPELINES = {
    "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
}  # fmt: skip
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model",
           "text_encoder": "model", "text_encoder_2": "model"}  # fmt: skip
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
SHARD = r"-\d+-of-\d+"


def read_diffusers_config(folder: Path) -> ModelConfig:
    """The configuration of a diffusers folder, without its weights.

    Raises:
        InputError: a file is missing.
        CorruptModelError: a configuration asks for something that is not supported.
    """
    index = read_json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind in LDM_PIPELINES:
        return replace(ldm_config(folder, str(kind), read_json), name=model_name(folder))
    if kind not in PIPELINES:
        raise CorruptModelError(
            f"{folder.name!r} holds a {kind}, which is not supported",
            code="E-PIPELINE",
            hint="supported: " + ", ".join(sorted({*PIPELINES, *LDM_PIPELINES})),
        )
    second = (folder / "text_encoder_2" / "config.json").is_file()
    if second and not (folder / "text_encoder" / "config.json").is_file():
        raise CorruptModelError(
            f"{folder.name!r} is SDXL's refiner, which is not supported",
            code="E-PIPELINE",
            hint="draw with the base model alone",
        )
    try:
        return _stable_diffusion(folder, str(kind), index)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CorruptModelError(
            f"a configuration of {folder.name!r} cannot be read: {error!r}", code="E-CONFIG"
        ) from error


def _stable_diffusion(folder: Path, kind: str, index: Mapping[str, Any]) -> ModelConfig:
    data = read_json(folder / "unet" / "config.json")
    unet, (height, width) = unet_config(data), trained_size(data)
    vae = autoencoder_config(read_json(folder / "vae" / "config.json"))
    xl = "XL" in kind
    names = (
        ("text_encoder", "text_encoder_2")
        if (folder / "text_encoder_2").is_dir()
        else ("text_encoder",)
    )
    texts = [
        text_config(read_json(folder / name / "config.json"), xl, class_of(index, name))
        for name in names
    ]
    scheduler = scheduler_config(
        read_json(folder / "scheduler" / "scheduler_config.json"),
        class_of(index, "scheduler"),
        kind,
    )
    # the defaults of diffusers' pipelines; that of inpainting is the same for all
    guidance = {"cfg_scale": 5.0 if xl else 7.5, "inpaint_cfg_scale": 7.5}
    size = {"width": width * vae.factor, "height": height * vae.factor}
    config = ModelConfig(
        name=model_name(folder),
        unet=unet,
        vae=vae,
        text_encoder=texts[0],
        text_encoder_2=texts[1] if len(texts) > 1 else None,
        zero_empty_negative=bool(index.get("force_zeros_for_empty_prompt", xl)),
        scheduler=scheduler,
        defaults=Defaults(steps=50, **guidance, **size),
    )
    return config_from_dict(config.to_dict())  # checks the type of every field


def class_of(index: Mapping[str, Any], part: str) -> str:
    """The class that a model_index.json names for a part, ["library", "class"]; "" without one."""
    entry = index.get(part)
    if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str):
        return entry[1]
    return ""


def model_name(folder: Path) -> str:
    """A folder's name; in the cache of Hugging Face, where that is a commit, the repository's."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.split("--")[-1]
    return folder.name


def load_diffusers(
    folder: Path, variant: str | None = None
) -> tuple[ModelConfig, dict[str, np.ndarray], str]:
    """Configuration, tensors under our names, and a digest of all weights' files.

    Raises:
        InputError, CorruptModelError, KeyMismatchError: a file is missing, damaged, or does not
            fit its configuration.
    """
    config = read_diffusers_config(folder)
    spec, flat, read = model_spec(config), {}, []
    for part in spec:
        place = folder / part
        if not place.is_dir():
            place = folder / FOLDERS.get(part, part)
        files = weight_files(place, WEIGHTS[part], variant)
        names = {our_name(part, name): (file, name) for file in files for name in file}
        shapes = {name: file.shapes[stored] for name, (file, stored) in names.items()}
        shapes = {n: s[:2] if is_conv_attention(n, s) else s for n, s in shapes.items()}
        want = flatten(spec[part])
        ignorable = {n for n in shapes if n.endswith(".position_ids") or n.startswith("to_logits.")}
        report = compare(shapes, want, ignorable)
        report.require(f"{folder.name}/{part} does not fit its config.json")
        for name in want:
            file, stored = names[name]
            flat[f"{part}.{name}"] = file[stored].reshape(want[name])
        read += files
    return config, flat, digest_of(read)


def weight_files(folder: Path, stem: str, variant: str | None = None) -> list[TensorFile]:
    """The weights of one network: one file, or the shards that an index names.

    Raises:
        InputError: there are none, or several variants to choose from, or not all shards.
        UnsafeFileError: there are only pickles.
    """
    there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    names = weight_names(there, stem, folder.name, variant)
    if not names[0].endswith(".json"):
        return [TensorFile(folder / names[0])]
    index = folder / names[0]
    weights = read_json(index).get("weight_map")
    if not isinstance(weights, Mapping) or not weights:
        raise CorruptModelError(f"{index.name} names no files", code="E-CONFIG")
    shards = sorted({str(name) for name in weights.values()})
    if any(Path(name).name != name for name in shards):
        raise UnsafeFileError(f"{index.name} points out of its folder", code="E-PATH")
    absent = [name for name in shards if not (folder / name).is_file()]
    if absent:
        raise InputError(
            f"{folder.name}: {len(absent)} of {len(shards)} shards are missing: {absent[0]}",
            code="E-MODEL",
        )
    return [TensorFile(folder / name) for name in shards]


def weight_names(
    names: Sequence[str], stem: str, folder: str, variant: str | None = None
) -> list[str]:
    """Of the files of a network's folder, those that hold its weights: one file, or index and
    shards.

    With `variant` (such as fp16) those of that name. Else those without one are preferred; where
    there are none, the only variant is taken.

    Raises:
        InputError: there are none, or several variants to choose from.
        UnsafeFileError: there are only pickles.
    """
    variants: dict[str, list[str]] = {}
    weights = re.compile(rf"{re.escape(stem)}(.*?)\.safetensors(?:\.index(.*?)\.json)?")
    for name in sorted(names, key=lambda name: (not name.endswith(".json"), name)):
        found = weights.fullmatch(name)
        if found and not re.search(SHARD, name):
            variants.setdefault((found[1] or found[2] or "").strip("."), []).append(name)
    if variants:
        if variant is None:
            variant = "" if "" in variants or len(variants) > 1 else next(iter(variants))
        if variant not in variants:
            raise InputError(
                f"{folder} has no variant {variant!r}"
                if variant
                else f"{folder} has several variants",
                code="E-VARIANT",
                hint="give variant= (--variant) " + " or ".join(map(repr, sorted(variants))),
            )
        chosen = variants[variant][0]
        if not chosen.endswith(".json"):
            return [chosen]
        v = f".{variant}" if variant else ""
        shard = re.compile("|".join(
            rf"{re.escape(stem)}{middle}\.safetensors"
            for middle in (re.escape(v) + SHARD, SHARD + re.escape(v))
        ))  # fmt: skip
        return [chosen, *sorted(name for name in names if shard.fullmatch(name))]
    if any(name.endswith(".bin") for name in names):
        raise UnsafeFileError(
            f"{folder} holds its weights as pickles, and loading a pickle can run code",
            code="E-PICKLE",
            hint="make it safe first: ldmref convert FILE.bin FILE.safetensors",
        )
    raise InputError(f"{folder} has no {stem}.safetensors", code="E-MODEL")


def our_name(part: str, name: str) -> str:
    """A stored name under today's names: attention's old ones, and CLIP's with `text_model.`"""
    pieces = name.split(".")
    if part.startswith("text_encoder"):
        known = pieces[0] in ("text_model", "text_projection", "model", "to_logits")
        return name if known else f"text_model.{name}"
    if "attentions" in pieces and pieces[-2] in OLD_ATTENTION:
        pieces[-2] = OLD_ATTENTION[pieces[-2]]
    return ".".join(pieces)


def is_conv_attention(name: str, shape: tuple[int, ...]) -> bool:
    """Old autoencoder files hold the attention's matrices as 1 x 1 convolutions."""
    return ".attentions." in name and ".to_" in name and shape[2:] == (1, 1)


def digest_of(files: Sequence[TensorFile]) -> str:
    """The SHA-256 of a file, or one for several: that of their digests."""
    digests = [file.sha256() for file in files]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of a model.

    Raises:
        InputError, CorruptModelError: the file is missing, or no JSON object.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(
            f"{path.parent.name}/{path.name} cannot be read: {error.strerror}", code="E-MODEL"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CorruptModelError(f"{path.name} is no JSON", code="E-CONFIG") from error
    if not isinstance(data, dict):
        raise CorruptModelError(f"{path.name} is no JSON object", code="E-CONFIG")
    return data
