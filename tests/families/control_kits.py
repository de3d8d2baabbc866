"""Tiny ControlNets of transformers as diffusers makes them, with the pipelines that run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import flux_networks
import numpy as np
import sd3_networks
import torch
from diffusers import (
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxMultiControlNetModel,
    SD3ControlNetModel,
    SD3MultiControlNetModel,
    StableDiffusion3ControlNetPipeline,
)
from PIL import Image

import ldmref

PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
OPTIONS = {"seed": 1, "steps": 2, **SIZE}
LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 12)).astype(np.float32)
IMAGES = [
    Image.fromarray(pixels)
    for pixels in np.random.default_rng(1).integers(0, 256, (3, 16, 24, 3), np.uint8)
]
MASK = Image.new("L", (24, 16), 0)
MASK.paste(255, (0, 0, 12, 16))
ZEROS = (  # layers that are zero before training
    "controlnet_blocks",
    "controlnet_single",
    "controlnet_x",
    "input_hint_block.conv_out",
    "pos_embed_input",
)
SD3_NETS: dict[str, dict[str, Any]] = {
    "joint": {"num_layers": 2, "force_zeros_for_pooled_projection": False},
    "unshifted": {"num_layers": 1},
    "deep": {"num_layers": 3},
    "dual": {
        "num_layers": 2,
        "dual_attention_layers": (0,),
        "qk_norm": "rms_norm",
        "extra_conditioning_channels": 1,
    },
    "image alone": {
        "num_layers": 3,
        "joint_attention_dim": None,
        "use_pos_embed": False,
        "pos_embed_type": None,
        "force_zeros_for_pooled_projection": False,
    },
}
FLUX_NETS: dict[str, dict[str, Any]] = {
    "plain": {"num_layers": 1, "num_single_layers": 1, "guidance_embeds": True},
    "without scale": {"num_layers": 2, "num_single_layers": 0},
    "union": {"num_layers": 1, "num_single_layers": 2, "guidance_embeds": True, "num_mode": 3},
    "encoder": {
        "num_layers": 1,
        "num_single_layers": 0,
        "conditioning_embedding_channels": 4,
        "patch_size": 2,
    },
}


def make_sd3_net(kind: str, seed: int = 1, **changes: Any) -> Any:
    """Return diffusers' ControlNet of Stable Diffusion 3; see `randomize`."""
    sizes: dict[str, Any] = (
        sd3_networks.SIZES | {"caption_projection_dim": 16} | SD3_NETS[kind] | changes
    )
    torch.manual_seed(seed)
    return randomize(SD3ControlNetModel(**sizes))


def make_flux_net(kind: str, seed: int = 1, **changes: Any) -> Any:
    """Return diffusers' ControlNet of Flux.1; see `randomize`."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"in_channels": 16, **flux_networks.SIZES} | FLUX_NETS[kind] | changes
    return randomize(FluxControlNetModel(**sizes))


def randomize(net: Any) -> Any:
    """Return a ControlNet in which no layer is zero and no bias has its first value."""
    for name, parameter in net.named_parameters():
        if name.startswith(ZEROS):
            torch.nn.init.normal_(parameter, std=0.3)
        elif parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return net.eval()


@dataclass
class Kit:
    """A family's pipeline and ControlNets, of diffusers and as folders.

    Args:
        root: A folder, in which everything is written.
        made: Diffusers' pipeline without ControlNets.
        make: Makes a ControlNet of a kind.
        kinds: The ControlNets by kind.
        classes: Diffusers' classes of a ControlNet, of several, and of the pipeline with them.
    """

    root: Path
    made: Any
    make: Callable[..., Any]
    kinds: dict[str, dict[str, Any]]
    classes: tuple[Any, Any, Any]
    saved: set[str] = field(default_factory=set)

    @cached_property
    def folder(self) -> Path:
        """The folder of the pipeline."""
        self.made.save_pretrained(self.root / "model")
        return self.root / "model"

    @cached_property
    def model(self) -> Any:
        """Our model, on NumPy."""
        return ldmref.load(self.folder, backend="numpy")

    def net(self, kind: str) -> Path:
        """Return the folder of a ControlNet."""
        if kind not in self.saved:
            self.make(kind).save_pretrained(self.root / kind)
            self.saved.add(kind)
        return self.root / kind

    def ours(self, *kinds: str) -> list[Any]:
        """Return our ControlNets, on the model's backend."""
        return [ldmref.load_controlnet(self.net(kind), self.model.backend) for kind in kinds]

    def pipe(self, *kinds: str, pipeline: Any = None) -> Any:
        """Return diffusers' pipeline with ControlNets, of the usual class or another one."""
        one, several, usual = self.classes
        nets = [one.from_pretrained(self.net(kind)) for kind in kinds]
        parts = {name: part for name, part in self.made.components.items() if part is not None}
        pipe = (pipeline or usual)(**parts, controlnet=nets[0] if len(nets) == 1 else several(nets))
        pipe.set_progress_bar_config(disable=True)
        return pipe


def make_kit(family: str, root: Path) -> Kit:
    """Return the kit of a family, `sd3` or `flux`."""
    if family == "sd3":
        classes = (SD3ControlNetModel, SD3MultiControlNetModel, StableDiffusion3ControlNetPipeline)
        made = sd3_networks.make_pipeline("3.5 medium")
        return Kit(root, made, make_sd3_net, SD3_NETS, classes)
    classes = (FluxControlNetModel, FluxMultiControlNetModel, FluxControlNetPipeline)
    return Kit(root, flux_networks.make_pipeline(True), make_flux_net, FLUX_NETS, classes)


def difference(found: Any, want: np.ndarray) -> np.ndarray:
    """Return the differences of a result from an image in [0, 1], in 1/255."""
    return np.abs(np.asarray(found.images[0]).astype(int) - np.round(want * 255))
