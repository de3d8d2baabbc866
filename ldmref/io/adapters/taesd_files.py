"""TAESD in its author's files, one for the encoder and one for the decoder.

`taesd_encoder.safetensors` and `taesd_decoder.safetensors`, and the same for taesdxl, taesd3 and
taef1. Their names are numbers of layers, which also count the clamp in front of the decoder.

Source: madebyollin/taesd, taesd.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ldmref.errors import InputError
from ldmref.io.key_table import KeyEntry, fit, to_native
from ldmref.io.tensors.safetensors import TensorFile, hash_files
from ldmref.models.params import Shape, flatten
from ldmref.models.taesd import TinyConfig, tiny_spec

CODE = "E-VAE"
CLAMPS = {"encoder": 0, "decoder": 1}  # layers of the author in front of the first convolution
FIRST = {half: f"{number}.weight" for half, number in CLAMPS.items()}
FAMILIES = "the TAESD of Stable Diffusion 1, 2, XL and 3 and of Flux.1"


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
