"""Names that LoRA files give to the layers of a model, as one table per configuration.

diffusers and PEFT keep the dots of a path, with four sets of endings over the years. The programs
of a model's makers have paths of their own, which the family's key tables name (`Family.files`);
there, one layer may hold several of ours, such as queries, keys and values. kohya joins either path
with underscores, after `lora_unet_`, `lora_te_`, `lora_te1_`, `lora_te2_` or, for T5, `lora_te3_`.

Sources: kohya-ss/sd-scripts (networks/lora.py, lora_flux.py, lora_sd3.py), huggingface/diffusers
(loaders/lora_conversion_utils.py, utils/state_dict_utils.py), huggingface/peft.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from ldmref.io.key_table import KeyEntry
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of
from ldmref.models.model import model_spec
from ldmref.models.params import Shape, flatten

# Ending of a name -> role of the tensor.
KOHYA = {".lora_down.weight": "down", ".lora_up.weight": "up", ".alpha": "alpha"}
PEFT = {
    ".lora_A.weight": "down", ".lora_B.weight": "up", ".alpha": "alpha",
    ".lora.down.weight": "down", ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up",
}  # fmt: skip
OLD = {"_lora.down.weight": "down", "_lora.up.weight": "up"}  # diffusers before 2023-09
# Our name of a projection -> the old one, after the path of its parent.
OLD_UNET = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
WRAPPER = "base_model.model."  # before the paths in PEFT's own files
NETWORK = re.compile(r"(model\.)?diffusion_model\.")  # before those of a denoiser elsewhere
BIAS = ".lora_B.bias"  # of PEFT's `lora_bias`, and of Black Forest Labs' files
EMBEDDINGS = re.compile(r"embedding\.weight|\.embed_|\.shared\.|relative_attention_bias")


class LoraTarget(NamedTuple):
    """What a tensor of a LoRA file changes.

    Attributes:
        tensor: Our tensor.
        role: `down`, `up` or `alpha` of it; `offset`, a change of a bias that is scaled as `up`;
            `whole`, a tensor that replaces ours.
        entry: Where our tensor is in the layer that the file changes. None: it is the layer.
    """

    tensor: str
    role: str
    entry: KeyEntry | None = None


def unwrapped(name: str) -> str:
    """Remove PEFT's wrapper, and what other programs put before a denoiser's paths, from a name.

    >>> unwrapped("base_model.model.mid_block.attentions.0.proj_in.lora_A.weight")
    'mid_block.attentions.0.proj_in.lora_A.weight'
    >>> unwrapped("diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight")
    'double_blocks.0.img_attn.qkv.lora_A.weight'
    """
    name = name.replace(WRAPPER, "", 1)
    prefix = NETWORK.match(name)
    return name if prefix is None else name[prefix.end() :]


def lora_names(config: ModelConfig) -> dict[str, tuple[LoraTarget, ...]]:
    """Return every name that a LoRA file for this model may hold.

    LoRA changes matrices and convolutions of the denoiser and the text encoders, and may come with
    changes of the biases of these layers and with whole norms of the denoiser. The autoencoder and
    embeddings have no names here. A name stands for several tensors if the layer of the file holds
    them all.
    """
    found: dict[str, dict[str, LoraTarget]] = {}
    prefixes = _kohya_prefixes(config)
    originals = _original_entries(config)
    for tensor, shape in flatten(model_spec(config)).items():
        part, _, path = tensor.partition(".")
        if part not in prefixes or EMBEDDINGS.search(tensor):
            continue
        own = part == config.denoiser.network
        stored = originals.get(path, []) if own else []
        for name, target in _names(tensor, shape, own, prefixes[part], stored):
            found.setdefault(name, {}).setdefault(tensor, target)
    return {name: tuple(targets.values()) for name, targets in found.items()}


def has_kohyas_names(config: ModelConfig) -> bool:
    """Return whether the files that we write for a model have kohya's names."""
    return isinstance(config.denoiser, UNetConfig)


def lora_file_name(config: ModelConfig, tensor: str, role: str) -> str:
    """Return the name of a role of our tensor in the files that we write.

    It is kohya's for models with a U-Net, in SDXL with the paths of CompVis, and otherwise PEFT's.
    """
    part, _, path = tensor.removesuffix(".weight").partition(".")
    if not has_kohyas_names(config):
        return f"{part}.{path}" + next(end for end, name in PEFT.items() if name == role)
    second = config.text_encoder_2 is not None
    if second and part == "unet":
        entry = _original_entries(config)[f"{path}.weight"][0]
        path = entry.name.removesuffix(".weight")
    prefix = _kohya_prefixes(config)[part][1 if second and part == "text_encoder" else 0]
    end = next(end for end, name in KOHYA.items() if name == role)
    return prefix + path.replace(".", "_") + end


def _kohya_prefixes(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """Return what kohya puts before the layers of each network."""
    network = config.denoiser.network
    prefixes = {network: tuple(dict.fromkeys(("lora_unet_", f"lora_{network}_")))}
    encoders = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
    for number, (name, text) in enumerate(encoders, 1):
        own = (f"lora_te{number}_",) if number > 1 else ("lora_te_", "lora_te1_")
        prefixes[name] = ("lora_te3_",) if text.model_type == "t5" else own
    return prefixes


def _original_entries(config: ModelConfig) -> dict[str, list[KeyEntry]]:
    """Return where each parameter of the denoiser is in the files of the model's makers."""
    found: dict[str, list[KeyEntry]] = {}
    for layout in family_of(config).files:
        for tensor, entry in layout.table(config).items():
            entry = replace(entry, name=unwrapped(entry.name))
            if entry.form != "transposed" and entry not in found.setdefault(tensor, []):
                found[tensor].append(entry)
    return found


def _names(
    tensor: str, shape: Shape, own: bool, prefixes: tuple[str, ...], stored: list[KeyEntry]
) -> Iterator[tuple[str, LoraTarget]]:
    """Yield the names of a tensor, and what they stand for, in every notation.

    `own` says that it is the denoiser's, `stored` where it is in the files of its makers.
    """
    part, _, ours = tensor.partition(".")
    matrix = ours.endswith(".weight") and len(shape) in (2, 4)
    for entry in (None, *stored):
        path, _, leaf = (entry.name if entry else ours).rpartition(".")
        roots = [path] if entry else list(_dotted(part, path, own))
        layers: list[tuple[str, dict[str, str]]] = []
        if matrix:
            layers = [(prefix + path.replace(".", "_"), KOHYA) for prefix in prefixes]
            layers += [(root, PEFT | KOHYA) for root in roots]
            layers += [] if entry else [(root, OLD) for root in _old_roots(part, path, own)]
        elif len(shape) == 1 and leaf == "bias":
            layers = [(root, {BIAS: "offset"}) for root in roots]
        elif len(shape) == 1 and own:
            layers = [(root, {f".{leaf}": "whole"}) for root in roots]
        for root, roles in layers:
            for end, role in roles.items():
                yield root + end, LoraTarget(tensor, role, entry)


def _old_roots(part: str, path: str, own: bool) -> Iterator[str]:
    """Yield the path of a projection in diffusers before 2023-09."""
    for projection, name in (OLD_UNET if own else OLD_TEXT).items():
        if path.endswith("." + projection):
            parent = path.removesuffix("." + projection) + (".processor" if own else "")
            yield from _dotted(part, f"{parent}.{name}", own)


def _dotted(part: str, path: str, own: bool) -> Iterator[str]:
    """Yield the path below its network.

    Files for the denoiser alone, and PEFT's for the first text encoder, may omit the network.
    """
    yield f"{part}.{path}"
    if own or (part == "text_encoder" and path.startswith("text_model.")):
        yield path
    if path.startswith("text_model."):  # dropped in transformers 5
        yield f"{part}.{path.removeprefix('text_model.')}"
