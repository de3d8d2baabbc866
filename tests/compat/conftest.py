"""The pipelines of diffusers and of ldmref on the same small random checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def open_folder(tmp_path_factory):
    """From a family to diffusers' pipeline and its folder."""
    from small_pipelines import pipeline

    made = {}

    def get(family):
        if family not in made:
            pipe = pipeline(family)
            path = tmp_path_factory.mktemp("compat") / family
            pipe.save_pretrained(path, safe_serialization=True)
            made[family] = (pipe, path)
        return made[family]

    return get


@pytest.fixture
def pair(open_folder):
    """From a task and a family to diffusers' pipeline and ours."""
    import diffusers

    import ldmref.compat.diffusers as compat

    def get(task="", family="sd1", scheduler=None, **options):
        pipe, folder = open_folder(family)
        name = "StableDiffusionXL" if family == "sdxl" else "StableDiffusion"
        kind = f"{name}{task}Pipeline"
        parts = {**pipe.components, **dict.fromkeys(("safety_checker", "feature_extractor"))}
        if family == "sdxl":
            parts = pipe.components
        extra = {} if family == "sdxl" else {"requires_safety_checker": False}
        theirs = getattr(diffusers, kind)(**parts, **extra)
        theirs.scheduler = type(pipe.scheduler).from_pretrained(folder, subfolder="scheduler")
        theirs = type(theirs)(**{**parts, "scheduler": theirs.scheduler}, **extra)
        theirs.set_progress_bar_config(disable=True)
        ours = getattr(compat, kind).from_pretrained(folder, **options)
        if scheduler is not None:
            name, changes = scheduler
            for library, made in ((diffusers, theirs), (compat, ours)):
                cls = getattr(library, name)
                made.scheduler = cls.from_config(made.scheduler.config, **changes)
        return theirs, ours

    return get


@pytest.fixture(scope="session")
def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 32, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="session")
def mask():
    mask = Image.new("L", (32, 16), 0)
    mask.paste(255, (0, 0, 20, 12))
    return mask
