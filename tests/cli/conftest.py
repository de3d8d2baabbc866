"""A tiny model folder, an empty working folder, and the command line called in-process."""

from __future__ import annotations

import os
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image
from small_models import save_flow, save_wordless

import ldmref
from ldmref.apps.cli.main import main
from ldmref.io.native import save_folder

Ran = namedtuple("Ran", "code out err")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Return a folder with preset `tiny` in random weights."""
    model = ldmref.random_model("tiny", backend="numpy")
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_folder(folder, model.config, model.params, [model.tokenizer])
    return folder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty working folder, and none of the caller's configuration."""
    for name in [name for name in os.environ if name.startswith("LDMREF_")]:
        monkeypatch.delenv(name)
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def ldm(work, capfd):
    """Run a command line in the working folder."""

    def run(*argv):
        capfd.readouterr()
        code = main([str(word) for word in argv])
        return Ran(code, *capfd.readouterr())

    return run


@pytest.fixture
def draw(ldm, model_folder):
    """`ldmref MODE -m TINY ...`, which must succeed."""

    def run(mode, *argv):
        ran = ldm(mode, "-m", model_folder, *argv)
        assert ran.code == 0, ran.err
        return ran

    return run


@pytest.fixture(scope="session")
def enlarger(tmp_path_factory):
    """Return a folder with a model for superres."""
    return save_wordless(tmp_path_factory.mktemp("models") / "bsr-sr", "low_resolution")


@pytest.fixture(scope="session")
def painter(tmp_path_factory):
    """Return a folder with a model for seg2img, of five classes."""
    folder = tmp_path_factory.mktemp("models") / "semantic"
    return save_wordless(folder, "segmentation", segmentation_classes=5)


@pytest.fixture(scope="session")
def flow_folder(tmp_path_factory):
    """Return a folder with a model of flow matching."""
    return save_flow(tmp_path_factory.mktemp("models") / "flow")


@pytest.fixture(scope="session")
def control_folder(tmp_path_factory):
    """Return a folder with a model that reads a control image."""
    return save_flow(tmp_path_factory.mktemp("models") / "control", "flux-control-dev")


@pytest.fixture
def material(work):
    """Images, a mask, a map of classes and noise in the working folder."""
    draw = np.random.default_rng(0)
    for name, size in (("a", (16, 16)), ("wide", (20, 30)), ("small", (8, 12))):
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(f"{name}.png")
    Image.fromarray(draw.integers(0, 5, (16, 24)).astype(np.uint8)).save("map.png")
    Image.fromarray(np.pad(np.full((8, 16), 255, np.uint8), ((0, 8), (0, 0)))).save("mask.png")
    np.save("noise.npy", draw.standard_normal((1, 4, 8, 8)).astype(np.float32))
    return work
