"""What `assert_family_conforms` compares our families with: small networks of diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import flux_networks
import numpy as np
import pytest
import sd3_networks
import small_pipelines
import torch
from diffusers import FluxPipeline
from PIL import Image

import ldmref
from ldmref.testing import LivePipeline, Original

PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
LATENTS = np.random.default_rng(0).standard_normal((1, 4, 8, 12)).astype(np.float32)
PACKED = FluxPipeline._pack_latents(torch.tensor(LATENTS), 1, 4, 8, 12)
EDGES = Image.fromarray(np.random.default_rng(1).integers(0, 2, (16, 24), np.uint8) * 255)
PATCHES = ((8, 8), (6, 10), (12, 2))  # sides of latents that are cut into patches of 2 x 2


def run_pipeline(pipe: Any, **options: Any) -> Any:
    """Run a pipeline for two steps from the same latents."""
    options = {"num_inference_steps": 2, "output_type": "np", **SIZE} | options
    return pipe(PROMPT, generator=torch.Generator().manual_seed(5), **options)


def ask(**changes: Any) -> dict[str, Any]:
    """Return the request for the image of `run_pipeline`."""
    return {"prompt": PROMPT, "steps": 2, "latents": LATENTS, **SIZE} | changes


def live(pipe: Any, folder: Path, request: dict[str, Any] | None, **options: Any) -> LivePipeline:
    """Return a pipeline that is saved in a folder, and runs with these options."""
    if not folder.exists():
        pipe.save_pretrained(folder)
    run = partial(run_pipeline, **options)
    return LivePipeline(pipe, run, request, folder=folder)


# -- Stable Diffusion 3 ---------------------------------------------------------------------------


def unread_by_sd3(config: Any) -> list[str]:
    """Return the queries of the text in the last block, which files hold and nothing reads."""
    last = f"transformer_blocks.{config.denoiser.num_layers - 1}.attn."
    names = ["add_q_proj.weight", "add_q_proj.bias"]
    norms = ["norm_added_q.weight"] if config.denoiser.qk_norm else []
    return [last + name for name in (*names, *norms)]


def sd3(root: Path) -> dict[str, Any]:
    """Return what Stable Diffusion 3 is compared with: its three kinds, and one without T5."""
    kinds = [*((kind, True) for kind in sd3_networks.KINDS), ("3.5 medium", False)]
    noise = {"latents": torch.tensor(LATENTS), "negative_prompt": "dog"}
    pipelines = []
    for i, kind in enumerate(kinds):
        request = ask(negative_prompt="dog", cfg_scale=5.0)
        pipe = sd3_networks.make_pipeline(*kind)
        pipelines.append(live(pipe, root / str(i), request, guidance_scale=5.0, **noise))
    request = ask(negative_prompt="dog", cfg_scale=1.0)
    pipelines.append(live(pipelines[0].pipeline, root / "0", request, guidance_scale=1.0, **noise))
    originals = [
        Original(
            sd3_networks.in_float64(sd3_networks.make_transformer(kind)),
            lambda module, x: module(x["x"], x["context"], x["pooled"], x["t"]).sample,
            ldmref.load(root / str(i), backend="numpy").config,
            sides=PATCHES,
        )
        for i, kind in enumerate(sd3_networks.KINDS)
    ]
    positions = {"sd3-medium": (192, 1536), "sd35-medium": (384, 1536), "sd35-large": (192, 2432)}
    published = {  # 2.0, 2.2 and 8.1 billion, and the tables of positions
        "sd3-medium": 2_028_328_000,
        "sd35-medium": 2_243_171_520,
        "sd35-large": 8_056_627_520,
    }
    return {
        "originals": originals,
        "pipelines": pipelines,
        "parameters": {n: x + positions[n][0] ** 2 * positions[n][1] for n, x in published.items()},
        "flops_within": 0.0,
        "unread": unread_by_sd3,
    }


# -- Flux.1 ---------------------------------------------------------------------------------------


def call_flux(module: Any, x: Mapping[str, Any]) -> Any:
    """Return the velocity of diffusers' transformer, which takes tokens and times in [0, 1]."""
    n, c, h, w = x["x"].shape
    places = FluxPipeline._prepare_latent_image_ids(n, h // 2, w // 2, "cpu", torch.float64)
    packed = FluxPipeline._pack_latents(x["x"], n, c, h, w)
    texts = torch.zeros(x["context"].shape[1], 3)
    with pytest.MonkeyPatch.context() as patch:  # only here: pipelines compute in float32
        exact = flux_networks.in_float64(module, patch)
        arrays = packed, x["context"], x["pooled"], x["t"] / 1000, places, texts
        tokens = exact(*arrays, x.get("guidance")).sample
    return FluxPipeline._unpack_latents(tokens, h * 8, w * 8, 8)


def flux(root: Path) -> dict[str, Any]:
    """Return what Flux.1 is compared with: [dev], [schnell], [Fill] and [Canny]."""
    random = {"seed": 5, "rng": "torch"}
    scaled = ask(cfg_scale=2.5)
    pipelines = [
        live(flux_networks.make_pipeline(True), root / "dev", scaled,
             latents=PACKED, guidance_scale=2.5),
        live(flux_networks.make_pipeline(False), root / "schnell", ask(), latents=PACKED),
        live(flux_networks.make_fill_pipeline(), root / "fill", None,
             image=EDGES.convert("RGB"), mask_image=EDGES, guidance_scale=30.0),
        live(flux_networks.make_control_pipeline(), root / "control",
             ask(control_image=EDGES, latents=None, cfg_scale=10.0) | random,
             control_image=EDGES.convert("RGB"), guidance_scale=10.0),
    ]  # fmt: skip
    kinds = {"dev": (True, 4), "schnell": (False, 4), "fill": (True, 12)}
    originals = [
        Original(
            flux_networks.make_transformer(*kind).double(),
            call_flux,
            ldmref.load(root / name, backend="numpy").config,
            sides=PATCHES,
        )
        for name, kind in kinds.items()
    ]
    return {
        "originals": originals,
        "pipelines": pipelines,
        "parameters": {"flux-dev": 11_901_408_320, "flux-schnell": 11_891_178_560},
        "flops_within": 0.0,
    }


# -- latent diffusion -----------------------------------------------------------------------------


def latent_diffusion(root: Path) -> dict[str, Any]:
    """Return what Stable Diffusion 1 and XL are compared with."""
    pipelines = []
    originals = []
    noise = {"latents": torch.tensor(LATENTS), "guidance_scale": 5.0}
    for kind in ("sd1", "sdxl"):
        pipe = small_pipelines.pipeline(kind)
        request = ask(cfg_scale=5.0)
        pipelines.append(live(pipe, root / kind, request, **noise))
        config = ldmref.load(root / kind, backend="numpy").config
        unet = small_pipelines.pipeline(kind).unet.double()
        small_pipelines.embed_timesteps_exactly(unet)
        if kind == "sdxl":
            embed_sizes_exactly(unet)
        originals.append(Original(unet, call_unet, config))
    published = {"sd15": 859_520_964, "sd2-v": 865_910_724, "sdxl": 2_567_463_684}
    return {"originals": originals, "pipelines": pipelines, "parameters": published}


def call_unet(module: Any, x: Mapping[str, Any]) -> Any:
    """Return the prediction of diffusers' U-Net."""
    more = {}
    if "pooled" in x:
        more["added_cond_kwargs"] = {"text_embeds": x["pooled"], "time_ids": x["sizes"]}
    return module(x["x"], x["t"], x["context"], **more).sample


def embed_sizes_exactly(unet: Any) -> None:
    """Change a U-Net of SDXL to embed sizes in float64; diffusers embeds them in float32."""
    width = unet.add_time_proj.num_channels
    unet.add_time_proj.forward = lambda t: ldmref.math.timestep_embedding(t.double(), width)
