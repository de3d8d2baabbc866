"""Which tensors of a safetensors file are quantised, and which tensors hold their scales.

A file says so in one of four ways, and `list_layers` understands all of them:

| written by             | beside `X.weight`                                                  |
|------------------------|--------------------------------------------------------------------|
| Comfy, older           | `X.scale_weight`, and a tensor `scaled_fp8`                        |
| Comfy, QUANTIZATION.md | `X.weight_scale`, `.weight_scale_2`; formats in the metadata       |
|                        | `_quantization_metadata`, or as JSON in `X.comfy_quant`            |
| BFL, ModelOpt          | `X.weight_scale`, for NVFP4 also `.weight_scale_2`; nothing else   |
| bitsandbytes           | `X.weight.quant_state.bitsandbytes__nf4` (`normal_float.py`)       |

Sources: Comfy-Org/ComfyUI, QUANTIZATION.md, comfy/utils.py (convert_old_quants), comfy/ops.py;
huggingface/diffusers, quantizers/bfl.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ldmref.errors import InputError
from ldmref.io.quantized.stored_layers import (
    CODE,
    FLOAT8,
    StoredLayer,
    kind_of,
    make_damage_error,
    open_bitsandbytes,
    open_mxfp8,
    open_nvfp4,
    open_scaled,
)
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.support.files import parse_json, shown

PREFIX = "model.diffusion_model."  # which the metadata may leave out
METADATA = "_quantization_metadata"
QUANT_STATE = ".quant_state.bitsandbytes__"
# Scales of activations, which only products in the quantised type need, and markers.
UNUSED = (".input_scale", ".scale_input", ".comfy_attention.config", ".comfy_quant", "scaled_fp8")
MARKS = (".scale_weight", ".weight_scale", ".comfy_quant", ".quant_state.bitsandbytes__nf4",
         ".quant_state.bitsandbytes__fp4")  # fmt: skip
OTHER_TYPE = "take the model in BF16, FP8, NF4, NVFP4 or GGUF"
REFUSED = {  # how a name ends, or Comfy's name of a format -> what it is
    ".wscales": "SVDQuant's, whose order in memory is that of one kernel, and which smooths "
    "activations",
    "svdquant_w4a4": "SVDQuant's, which smooths activations",
    ".qzeros": "GPTQ's or AWQ's, made for kernels of language models",
    "awq_w4a16": "AWQ's, made for kernels of language models",
    ".SCB": "LLM.int8's, which quantises activations as well",
    "convrot": "ConvRot's: weights are rotated, and so must be the activations",
}


def is_quantized(file: TensorFile) -> bool:
    """Return whether tensors of a file have scales beside them, or are refused for their format."""
    ends = (*MARKS, *(end for end in REFUSED if end.startswith(".")))
    return METADATA in file.metadata or any(name.endswith(ends) for name in file)


def list_layers(file: TensorFile) -> dict[str, StoredLayer]:
    """Return the quantised tensors of a file by name.

    Args:
        file: The file.

    Returns:
        How each is stored, without having read it.

    Raises:
        InputError: A format is known, but not supported.
        CorruptModelError: A scale is missing or has another size.
    """
    for end, what in REFUSED.items():
        name = next((name for name in file if end[0] == "." and name.endswith(end)), "")
        if name:
            raise _refusal(file, name, what)
    layers = {}
    for layer, settings in _list_comfy_formats(file):
        layers[f"{layer}.weight"] = _open_comfy(file, layer, settings)
    for name in file:
        if QUANT_STATE in name:
            weight = name.partition(QUANT_STATE)[0]
            layers[weight] = open_bitsandbytes(file, weight, name)
        elif name.endswith((".scale_weight", ".weight_scale")):
            layer = name.rpartition(".")[0]
            if f"{layer}.weight" not in layers:
                layers[f"{layer}.weight"] = _open_unmarked(file, layer, name)
    return layers


def list_unused(names: Iterable[str]) -> set[str]:
    """Return the names of scales of activations and of markers, which are not weights."""
    return {name for name in names if name.endswith(UNUSED)}


# -- formats --------------------------------------------------------------------------------------


def _list_comfy_formats(file: TensorFile) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the layers that Comfy's metadata name, and their settings."""
    found: dict[str, Any] = {}
    if METADATA in file.metadata:
        text = file.metadata[METADATA]
        data = parse_json(text, f"{METADATA} of {shown(file.path)}", CODE)
        layers = data.get("layers") if isinstance(data, dict) else None
        if not isinstance(layers, dict):
            raise make_damage_error(file, f"{METADATA} lists no layers")
        found = {_with_prefix(file, name): settings for name, settings in layers.items()}
    for name in file:
        if name.endswith(".comfy_quant"):
            text = file[name].tobytes()
            label = f"{name[:80]!r} of {shown(file.path)}"
            found[name.removesuffix(".comfy_quant")] = parse_json(text, label, CODE)
    for layer, settings in found.items():
        values = {"format": settings} if isinstance(settings, str) else settings
        if not isinstance(values, dict) or not isinstance(values.get("format"), str):
            raise make_damage_error(file, f"the format of {layer[:80]!r} is not named")
        yield layer, values


def _with_prefix(file: TensorFile, layer: str) -> str:
    bare = f"{layer}.weight" not in file and f"{PREFIX}{layer}.weight" in file
    return PREFIX + layer if bare else layer


def _open_comfy(file: TensorFile, layer: str, settings: Mapping[str, Any]) -> StoredLayer:
    kind = settings["format"]
    weight, scale = f"{layer}.weight", f"{layer}.weight_scale"
    parameters = settings.get("params")
    inner = parameters if isinstance(parameters, dict) else {}
    rotated = settings.get("convrot") or inner.get("convrot")
    for word, what in REFUSED.items():
        if word in kind or (word == "convrot" and rotated):
            raise _refusal(file, weight, what)
    if kind in FLOAT8 or kind == "int8_tensorwise":
        return open_scaled(file, weight, scale, kind)
    if kind == "mxfp8":
        return open_mxfp8(file, weight, scale)
    if kind == "nvfp4":
        return open_nvfp4(file, layer, "high", tiled=True)
    raise _refusal(file, weight, f"of the format {kind[:40]!r}")


def _open_unmarked(file: TensorFile, layer: str, scale: str) -> StoredLayer:
    weight = f"{layer}.weight"
    if f"{layer}.weight_scale_2" in file:
        return open_nvfp4(file, layer, "low", tiled=False)
    kinds = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8_tensorwise"}
    stored = kind_of(file, weight)
    if stored not in kinds:
        raise _refusal(file, weight, f"{stored} with a scale, in no known format")
    return open_scaled(file, weight, scale, kinds[stored])


def _refusal(file: TensorFile, name: str, what: str) -> InputError:
    message = f"{shown(file.path)} holds {name[:80]!r} as {what}, which is not supported"
    return InputError(message, code=CODE, hint=OTHER_TYPE)
