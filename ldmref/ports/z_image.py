"""diffusers' pipelines of Z-Image: how they are made, and how they call the networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ldmref.families.z_image.config import SEGMENT, transformer_of
from ldmref.math.arrays import Array
from ldmref.models.config import ModelConfig
from ldmref.ports.library_object import LibraryObject
from ldmref.ports.parts import PipelineParts
from ldmref.ports.port import FamilyPort

LATENTS, CAPTIONS, TIME = "x", "cap_feats", "t"  # arguments of the transformer
OWN = ("out_channels", "sample_size")  # fields that diffusers' class does not have
PLACES = (1024, 64, 64)  # places of each axis in diffusers' table of positions


def describe_denoiser(config: ModelConfig) -> LibraryObject:
    """Return diffusers' transformer of a configuration; each of its heads has its keys."""
    network = transformer_of(config)
    settings = {"n_kv_heads": network.n_heads, "axes_lens": PLACES}
    return LibraryObject("diffusers:ZImageTransformer2DModel", settings, network, OWN)


PARTS = PipelineParts(lambda config: LibraryObject("diffusers:ZImagePipeline"), describe_denoiser)


def read_inputs(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call of the transformer as ours.

    Lists of latents, (z, 1, h, w), and of captions, (l, d), become arrays. Captions are filled up
    to the longest in whole segments, each with its last token, which is what the transformer
    embeds before it puts its own tokens there.
    """
    import torch

    captions = arguments[CAPTIONS]
    length = -(-max(len(caption) for caption in captions) // SEGMENT) * SEGMENT
    rows = [torch.cat([x, x[-1:].repeat(length - len(x), 1)]) for x in captions]
    kept = torch.tensor([len(caption) for caption in captions])[:, None]
    return {
        "sample": torch.stack([latents[:, 0] for latents in arguments[LATENTS]]),
        "timestep": 1000.0 - 1000.0 * arguments[TIME],
        "encoder_hidden_states": torch.stack(rows),
        "encoder_attention_mask": (torch.arange(length)[None, :] < kept).long(),
    }


def read_layer(inputs: Mapping[str, Any], layer: str, array: Array) -> Array:
    """Return an array of a layer with a row for each caption or image.

    Captions are embedded in one row, of their segments one after the other, and images likewise.
    """
    import torch

    if layer.startswith("all_x_embedder") and array.ndim == 2:
        return array.reshape(len(inputs["sample"]), -1, array.shape[-1])
    if not layer.startswith("cap_embedder") or array.ndim != 2:
        return array
    mask = inputs["encoder_attention_mask"]
    length = mask.shape[1]
    counts = -(-mask.sum(dim=1) // SEGMENT) * SEGMENT
    if len(array) != int(counts.sum()):
        return array
    rows = [torch.cat([x, x[-1:].repeat(length - len(x), 1)]) for x in array.split(counts.tolist())]
    return torch.stack(rows)


def read_prediction(output: Any) -> Array:
    """Return our prediction, (n, z, h, w), of a list of the makers', (z, 1, h, w) each."""
    import torch

    images = output[0] if isinstance(output, tuple) else output.sample
    return -torch.stack([image[:, 0] for image in images])


def read_states(output: Any, skip: int, pipe: object) -> Array:
    """Return the last hidden states but one, which the transformer reads."""
    return output.hidden_states[-2 - skip]


PORT = FamilyPort(
    "z-image",
    ("ZImageTransformer2DModel",),
    halves=("cond", "uncond"),
    inputs=read_inputs,
    prediction=read_prediction,
    states=read_states,
    layer=read_layer,
    arguments={"context": ("cap_feats",)},
    parts=PARTS,
)
