"""Names that LoRA files give to the layers of a model, as one table per configuration.

A name is the path of a layer and an ending that says which tensor of the layer's change it is.
diffusers and PEFT keep the dots of a path, with four sets of endings over the years. The programs
of a model's makers have paths of their own, which the family's key tables name (`Family.files`);
there, one layer may hold several of ours, such as queries, keys and values. kohya joins either path
with underscores, after `lora_unet_`, `lora_te_`, `lora_te1_`, `lora_te2_` or, for T5, `lora_te3_`;
OneTrainer counts T5 among the text encoders that the model has. ComfyUI puts its own name of a text
encoder before the path.

Sources: kohya-ss/sd-scripts (networks/lora.py, lora_flux.py, lora_sd3.py), huggingface/diffusers
(loaders/lora_conversion_utils.py, utils/state_dict_utils.py), huggingface/peft,
KohakuBlueleaf/LyCORIS (lycoris/modules), comfyanonymous/ComfyUI (comfy/lora.py,
comfy_extras/nodes_lora_extract.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple

from ldmref.io.adapters.lora_forms import FORMS
from ldmref.io.key_table import KeyEntry
from ldmref.io.tensors.wrappers import COMPILED, WRAPPERS
from ldmref.models.config import TEXT_ENCODERS, ModelConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import family_of
from ldmref.models.model import model_spec
from ldmref.models.params import Shape, flatten
from ldmref.models.text_kind import kind_of

# Ending of a name -> role of the tensor.
KOHYA = {
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".alpha": "alpha",
    ".lora_mid.weight": "mid",
    ".dora_scale": "magnitude",
    ".diff": "diff",
    ".magnitude": "row_magnitude",  # ai-toolkit's, of rows as PEFT's
} | {f".{role}": role for form in ("LoHa", "LoKr") for role in FORMS[form]}
PEFT = {
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".alpha": "alpha",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_magnitude_vector": "row_magnitude",
    ".lora_magnitude_vector.weight": "row_magnitude",
}
OLD = {"_lora.down.weight": "down", "_lora.up.weight": "up"}  # diffusers before 2023-09
SHORT = {".down.weight": "down", ".up.weight": "up", ".alpha": "alpha"}  # after a layer's own name
BIAS = {".lora_B.bias": "offset", ".diff_b": "diff", ".b_norm": "diff"}  # the first is PEFT's
NORM = {".diff": "diff", ".w_norm": "diff"}
WHOLE = {"": "whole"}
DOTTED = PEFT | KOHYA
ENDINGS = tuple(dict.fromkeys([*KOHYA, *PEFT, *OLD, *SHORT, *BIAS, *NORM]))
# Our name of a projection -> the old one, after the path of its parent.
OLD_UNET = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
OLD_TEXT = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
WRAPPER = "base_model.model."  # before the paths in PEFT's own files
NETWORK = re.compile(  # before those of a denoiser elsewhere
    rf"(model\.)?({'|'.join(map(re.escape, WRAPPERS))})+"
)
# The name of the adapter within a model of PEFT, which its files leave out.
ADAPTER_NAME = re.compile(
    r"(?<=\.lora_[AB])\.(?!weight$|bias$)[\w-]+(?=\.(weight|bias)$)"
    r"|(?<=\.lora_magnitude_vector)\.(?!weight$)[\w-]+(?=(\.weight)?$)"
    r"|(?<=\.(?:hada|lokr)_[wt][12])\.[\w-]+$|(?<=\.(?:hada|lokr)_w[12]_[ab])\.[\w-]+$"
)
COMFYUI = {0: ("clip_l", "clip_h"), 1: ("clip_g",)}  # CLIP, by its number
UNUSED = re.compile(  # of Stable Diffusion's own text encoder in ComfyUI, which computes nothing
    r"(text_encoders\.)?clip_[lh](\.transformer)?\.(text_projection|logit_scale)\."
)
BUNDLED = "bundle_emb."  # learned words in the same file, by A1111 and OneTrainer
EMBEDDINGS = re.compile(r"embedding\.weight|\.embed_|\.shared\.|relative_attention_bias")


class LoraTarget(NamedTuple):
    """What a tensor of a LoRA file changes.

    Attributes:
        tensor: Our tensor.
        role: A role of `FORMS`, `alpha`, or a magnitude of DoRA. `offset` is a change of a bias
            that is scaled as `up`, `whole` a tensor that replaces ours, `diff` one that is added.
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
    >>> unwrapped("base_model.model.conv_in.lora_A.default.weight")
    'conv_in.lora_A.weight'
    >>> unwrapped("transformer._orig_mod.blocks.0.to_q.lora_A.weight")
    'transformer.blocks.0.to_q.lora_A.weight'
    """
    name = COMPILED.sub(r"\1", ADAPTER_NAME.sub("", name.replace(WRAPPER, "", 1)))
    prefix = NETWORK.match(name)
    return name if prefix is None else name[prefix.end() :]


class LoraNames(Mapping[str, tuple[LoraTarget, ...]]):
    """Every name that a LoRA file for a model may hold, and what it stands for.

    A name is looked up as a path and an ending, so the table holds paths alone. A name stands for
    several tensors if the layer of the file holds them all.
    """

    def __init__(self) -> None:
        self._layers: dict[str, list[tuple[Mapping[str, str], str, KeyEntry | None]]] = {}

    def add(
        self, path: str, endings: Mapping[str, str], tensor: str, entry: KeyEntry | None = None
    ) -> None:
        """Let a path with these endings (ending -> role) stand for a tensor."""
        self._layers.setdefault(path, []).append((endings, tensor, entry))

    def __getitem__(self, name: str) -> tuple[LoraTarget, ...]:
        for ending in ("", *ENDINGS):
            if name.endswith(ending):
                path = name[: len(name) - len(ending)]
                targets: dict[str, LoraTarget] = {}
                for endings, tensor, entry in self._layers.get(path, ()):
                    if ending in endings:
                        targets.setdefault(tensor, LoraTarget(tensor, endings[ending], entry))
                if targets:
                    return tuple(targets.values())
        raise KeyError(name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        names = {
            path + ending: None
            for path, layers in self._layers.items()
            for endings, _, _ in layers
            for ending in endings
        }
        return iter(names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def list_tensors(self) -> list[str]:
        """Return our tensors that can have a LoRA."""
        return list(
            dict.fromkeys(
                tensor
                for layers in self._layers.values()
                for endings, tensor, _ in layers
                if "down" in endings.values()
            )
        )


def lora_names(config: ModelConfig) -> LoraNames:
    """Return every name that a LoRA file for this model may hold.

    LoRA changes matrices and convolutions of the denoiser and the text encoders, and may come with
    changes of the biases and norms of these networks and with whole norms of the denoiser. Tables
    of embeddings have ComfyUI's names alone, since only its extraction changes them. The
    autoencoder has no names here.
    """
    names = LoraNames()
    prefixes = _kohya_prefixes(config)
    originals = _original_entries(config)
    own_layers = family_of(config).lora.layers(config)
    for tensor, shape in flatten(model_spec(config)).items():
        part, _, path = tensor.partition(".")
        if part not in prefixes:
            continue
        own = part == config.denoiser.network
        for root, endings in _comfyui_names(config, tensor, shape):
            names.add(root, endings, tensor)
        if EMBEDDINGS.search(tensor):
            continue
        for entry in (None, *(originals.get(path, []) if own else ())):
            for root, endings in _names(tensor, shape, own, prefixes[part], entry):
                names.add(root, endings, tensor, entry)
        if own and path in own_layers:
            entry = own_layers[path]
            names.add(entry.name.rpartition(".")[0], SHORT | KOHYA, tensor, entry)
    return names


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
    prefixes = {network: tuple(dict.fromkeys(("lora_unet_", f"lora_{network}_", "lycoris_")))}
    encoders = zip(TEXT_ENCODERS, config.text_encoders, strict=False)
    for number, (name, text) in enumerate(encoders, 1):
        own = (f"lora_te{number}_",) if number > 1 else ("lora_te_", "lora_te1_")
        prefixes[name] = (*kind_of(text).lora_prefixes, *own)
    return prefixes


def _original_entries(config: ModelConfig) -> dict[str, list[KeyEntry]]:
    """Return where each parameter of the denoiser is in the files of the model's makers."""
    found: dict[str, list[KeyEntry]] = {}
    for layout in family_of(config).files:
        for tensor, entry in layout.table(config).items():
            entry = replace(entry, name=unwrapped(entry.name))
            unlike = entry.form == "transposed" or entry.frames > 0  # other axes than ours
            if not unlike and entry not in found.setdefault(tensor, []):
                found[tensor].append(entry)
    return found


def _names(
    tensor: str, shape: Shape, own: bool, prefixes: tuple[str, ...], entry: KeyEntry | None
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the paths of a tensor's layer in every notation, with the endings that they have.

    `own` says that it is the denoiser's, `entry` where it is in the files of its makers.
    """
    part, _, ours = tensor.partition(".")
    path, _, leaf = (entry.name if entry else ours).rpartition(".")
    dotted = [path] if entry else list(_dotted(part, path, own))
    joined = [prefix + path.replace(".", "_") for prefix in prefixes]
    if ours.endswith(".weight") and len(shape) in (2, 4):
        yield from ((root, KOHYA) for root in joined)
        yield from ((root, DOTTED) for root in dotted)
        if entry is None:
            yield from ((root, OLD) for root in _old_roots(part, path, own))
    elif len(shape) == 1 and leaf == "bias":
        yield from ((root, BIAS) for root in (*joined, *dotted))
    elif len(shape) == 1:
        yield from ((root, NORM) for root in (*joined, *dotted))
        if own:  # the norm itself, under its own name
            yield from ((f"{root}.{leaf}", WHOLE) for root in dotted)


def _comfyui_names(
    config: ModelConfig, tensor: str, shape: Shape
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the paths of a text encoder's layer in ComfyUI, with the endings that they have."""
    part, _, path = tensor.partition(".")
    if part not in TEXT_ENCODERS:
        return
    layer, _, leaf = path.rpartition(".")
    number = TEXT_ENCODERS.index(part)
    names = kind_of(config.text_encoders[number]).comfyui or COMFYUI.get(number, ())
    endings = DOTTED if len(shape) in (2, 4) else NORM
    for name in names:
        for start in (f"text_encoders.{name}.transformer", f"text_encoders.{name}"):
            yield f"{start}.{layer}", BIAS if leaf == "bias" else endings
        for start in (f"{name}.transformer", name):
            yield f"{start}.{layer}", BIAS if leaf == "bias" else endings


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
