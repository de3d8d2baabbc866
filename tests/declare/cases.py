"""Wrong and right inputs of everything that is declared, with the answers of today.

python tests/declare/cases.py > tests/declare/messages.json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from ldmref import modes
from ldmref.errors import LdmrefError
from ldmref.models.presets import preset
from ldmref.models.validate import config_from_dict
from ldmref.training.recipes.file import recipe_from_dict

IMAGE = Image.new("RGB", (16, 16), "teal")
NAN = float("nan")
MODES = [  # mode, wrong arguments
    ("txt2img", dict(steps=0)),
    ("txt2img", dict(steps=1001)),
    ("txt2img", dict(steps="20")),
    ("txt2img", dict(steps=2.5)),
    ("txt2img", dict(steps=True)),
    ("txt2img", dict(stpes=3)),
    ("txt2img", dict(mask=IMAGE)),
    ("txt2img", dict(cfg_scale="7")),
    ("txt2img", dict(cfg_scale=NAN)),
    ("txt2img", dict(cfg_scale=1e9)),
    ("txt2img", dict(cfg_scale=True)),
    ("txt2img", dict(width=0)),
    ("txt2img", dict(height=9000)),
    ("txt2img", dict(long_prompts="chunks")),
    ("txt2img", dict(long_prompts=3)),
    ("txt2img", dict(rng="numpy")),
    ("txt2img", dict(strict_prompt=1)),
    ("txt2img", dict(seed=-2)),
    ("txt2img", dict(seed=1.5)),
    ("txt2img", dict(seed=[1, "a"])),
    ("txt2img", dict(seed=2**64)),
    ("txt2img", dict(prompt=3)),
    ("txt2img", dict(prompt=[])),
    ("txt2img", dict(prompt=["a", 3])),
    ("txt2img", dict(negative_prompt=7)),
    ("txt2img", dict(sigmas="1,0")),
    ("txt2img", dict(sigmas=[1.0])),
    ("txt2img", dict(sigmas=[1.0, 2.0])),
    ("txt2img", dict(sigmas=[900, 500, 0])),
    ("txt2img", dict(latents="x")),
    ("txt2img", dict(latents=[NAN])),
    ("txt2img", dict(count=0)),
    ("txt2img", dict(batch_size=None, count="2")),
    ("txt2img", dict(eta=2)),
    ("txt2img", dict(control=3)),
    ("txt2img", dict(prompt_embeds=[[1]])),
    ("txt2img", dict(clip_skip=-1)),
    ("txt2img", dict(tile=0)),
    ("txt2img", {}),
    ("inpaint", dict(strength=1.5)),
    ("inpaint", dict(strength="half")),
    ("inpaint", dict(mask_blur=-1)),
    ("inpaint", dict(fill="nothin")),
    ("inpaint", dict(only_masked="yes")),
    ("inpaint", dict(padding=-1)),
    ("inpaint", dict(resample=3)),
    ("inpaint", dict(resample=(10, 0))),
    ("inpaint", dict(resample=(10, 10, 10))),
    ("inpaint", dict(mask_invert=None, iterations=3)),
    ("inpaint", {}),
]
GOOD = [
    ("txt2img", dict(prompt="a", steps=np.int64(20), cfg_scale=np.float32(7.5), seed=np.int64(3))),
    ("txt2img", dict(prompt=("a", "b"), seed=(1, 2), negative_prompt=None)),
    ("txt2img", dict(prompt="a", cfg_scale=7, sigmas=np.array([2.0, 1.0, 0.0]))),
    ("txt2img", dict(prompt="a", seed=-1, latents=np.zeros((1, 4, 8, 8)))),
    (
        "inpaint",
        dict(prompt="a", image=IMAGE, mask=np.zeros((16, 16), bool), resample=[4, 5], strength=1),
    ),
]
RECIPES = [
    {"sead": 1},
    {"seed": -1},
    {"seed": 1.5},
    {"stages": ["diffusion"]},
    {"stages": []},
    {"stages": "autoencoder"},
    {"data": 3},
    {"data": {"size": 2000}},
    {"data": {"sise": 3}},
    {"data": {"flips": 1}},
    {"data": {"source": 3}},
    {"diffusion": {"optimizer": {"learning_rate": 0}}},
    {"diffusion": {"optimizer": {"learning_rate": "fast"}}},
    {"diffusion": {"optimizer": {"batch_size": 0}}},
    {"diffusion": {"optimizer": {"batch_size": 2.0}}},
    {"diffusion": {"objective": {"loss": "huber"}}},
    {"diffusion": {"objective": {"snr_gamma": 0}}},
    {"diffusion": {"budget": {"steps": 0}}},
    {"progress": {"prompts": ["a"] * 17}},
    {"progress": {"prompts": [1]}},
    {"dtype": "float16"},
    {"diffusion": {"budget": {"step": 3}}},
    {"diffusion": {"optimizer": {"ema_decay": 1.0}}},
    {"checkpoint": {"seconds": NAN}},
    {"checkpoint": {"seconds": True}},
]
CONFIGS = [
    {"unet": {"in_chanels": 4}},
    {"unet": {"in_channels": 0}},
    {"unet": {"in_channels": "4"}},
    {"unet": {"in_channels": 4.0}},
    {"unet": {"block_out_channels": [320, 0]}},
    {"unet": {"block_out_channels": []}},
    {"unet": {"block_out_channels": 320}},
    {"unet": {"block_out_channels": [32] * 11}},
    {"unet": {"attention": "flash"}},
    {"unet": {"norm_eps": 2}},
    {"unet": 3},
    {"vae": {"scaling_factor": 0}},
    {"vae": {"latent_activation": "tanh"}},
    {"text_encoder": {"model_type": "t6"}},
    {"text_encoder": {"vocab_size": 0}},
    {"text_encoder": {"class_names": ["a", 3]}},
    {"text_encoder": {"final_norm": 1}},
    {"scheduler": {"sigma_max": 0.5}},
    {"scheduler": {"beta_start": NAN}},
    {"scheduler": {"trained_betas": [2.0]}},
    {"defaults": {"steps": 0}},
    {"defaults": {"cfg_scale": 7}},
    {"nam": "x"},
    {"name": 3},
    {"concat": "mask"},
]


INPUTS = {
    "txt2img": {"prompt": "a"},
    "inpaint": {"prompt": "a", "image": IMAGE, "mask": np.zeros((16, 16), bool)},
}


def plan(mode: str, values: dict[str, Any]) -> None:
    """Plan a mode for the smallest model; required inputs are added unless `values` is empty."""
    inputs = INPUTS[mode] if values else {}
    modes.plan(mode, preset("tiny"), **(inputs | values))


def answer(call: Callable[..., Any], *arguments: Any) -> list[str] | None:
    """Return class, message, code and hint of the error, or None."""
    try:
        call(*arguments)
    except LdmrefError as error:
        return [type(error).__name__, str(error), error.code, error.hint]
    return None


def answers() -> dict[str, list[list[str] | None]]:
    """Return the answer to every case."""
    return {
        "modes": [answer(plan, mode, values) for mode, values in MODES],
        "good": [answer(plan, mode, values) for mode, values in GOOD],
        "recipes": [answer(recipe_from_dict, tables) for tables in RECIPES],
        "configs": [answer(config_from_dict, tables) for tables in CONFIGS],
    }


if __name__ == "__main__":
    json.dump(answers(), sys.stdout, indent=1)
    sys.stdout.write("\n")
