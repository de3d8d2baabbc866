"""diffusers folders: a `model_index.json`, and a folder with configuration and weights per network.

Every field of a configuration is either understood or must have the value that means "nothing
special"; anything else is refused, because ignoring it would draw another picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldmref.errors import CorruptModelError, InputError, UnsafeFileError
from ldmref.io.diffusers_config import (
    autoencoder_config,
    scheduler_config,
    text_config,
    unet_config,
)
from ldmref.io.diffusers_ldm import FOLDERS, LDM_PIPELINES, ldm_config
from ldmref.io.report import compare
from ldmref.io.tensors import TensorFile
from ldmref.models.config import Defaults, ModelConfig
from ldmref.models.model import model_spec
from ldmref.models.params import flatten

PIPELINES = {
    "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
}  # fmt: skip
WEIGHTS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model",
           "text_encoder": "model", "text_encoder_2": "model"}  # fmt: skip
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def read_diffusers_config(folder: Path) -> ModelConfig:
    """The configuration of a diffusers folder, without its weights.

    Raises:
        InputError: a file is missing.
        CorruptModelError: a configuration asks for something that is not supported.
    """
    index = read_json(folder / "model_index.json")
    kind = index.get("_class_name")
    if kind in LDM_PIPELINES:
        return ldm_config(folder, str(kind), read_json)
    if kind not in PIPELINES:
        raise CorruptModelError(
            f"{folder.name!r} holds a {kind}, which is not supported",
            code="E-PIPELINE",
            hint="supported: " + ", ".join(sorted({*PIPELINES, *LDM_PIPELINES})),
        )
    unet = unet_config(read_json(folder / "unet" / "config.json"))
    vae = autoencoder_config(read_json(folder / "vae" / "config.json"))
    xl = "XL" in kind
    texts = [
        text_config(read_json(folder / name / "config.json"), xl)
        for name in ("text_encoder", "text_encoder_2")
        if (folder / name / "config.json").is_file()
    ]
    side = unet.sample_size * vae.factor
    config = ModelConfig(
        name=folder.name,
        unet=unet,
        vae=vae,
        text_encoder=texts[0],
        text_encoder_2=texts[1] if len(texts) > 1 else None,
        zero_empty_negative=bool(index.get("force_zeros_for_empty_prompt", xl)),
        scheduler=scheduler_config(read_json(folder / "scheduler" / "scheduler_config.json")),
        defaults=Defaults(steps=50, cfg_scale=5.0 if xl else 7.5, width=side, height=side),
    )
    config.validate()
    return config


def load_diffusers(folder: Path) -> tuple[ModelConfig, dict[str, np.ndarray], str]:
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
        files = weight_files(place, WEIGHTS[part])
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


def weight_files(folder: Path, stem: str) -> list[TensorFile]:
    """The weights of one network: one file, or the shards that an index names.

    A plain file is preferred; where there is none, the only variant (such as fp16) is taken.

    Raises:
        InputError: there are none, or several variants to choose from.
        UnsafeFileError: there are only pickles.
    """
    index = sorted(folder.glob(f"{stem}.safetensors.index*.json"))
    if index:
        weights = read_json(index[0]).get("weight_map")
        if not isinstance(weights, Mapping) or not weights:
            raise CorruptModelError(f"{index[0].name} names no files", code="E-CONFIG")
        shards = sorted({str(name) for name in weights.values()})
        if any(Path(name).name != name for name in shards):
            raise UnsafeFileError(f"{index[0].name} points out of its folder", code="E-PATH")
        absent = [name for name in shards if not (folder / name).is_file()]
        if absent:
            raise InputError(
                f"{folder.name}: {len(absent)} of {len(shards)} shards are missing: {absent[0]}",
                code="E-MODEL",
            )
        return [TensorFile(folder / name) for name in shards]
    found = sorted(folder.glob(f"{stem}*.safetensors"))
    plain = [path for path in found if path.name == f"{stem}.safetensors"]
    if plain or len(found) == 1:
        return [TensorFile((plain or found)[0])]
    if found:
        raise InputError(
            f"{folder.name} has several variants: {', '.join(p.name for p in found)}",
            code="E-VARIANT",
            hint="keep one of them in the folder",
        )
    if any(folder.glob("*.bin")):
        raise UnsafeFileError(
            f"{folder.name} holds its weights as pickles, and loading a pickle can run code",
            code="E-PICKLE",
            hint="make it safe first: ldmref convert FILE.bin FILE.safetensors",
        )
    raise InputError(f"{folder.name} has no {stem}.safetensors", code="E-MODEL")


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
