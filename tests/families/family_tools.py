"""Checks of a folder with every tool of ldmref, for the tests of all families."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.apps.server.native import describe_model
from ldmref.backends import get_backend
from ldmref.io import save_folder
from ldmref.models import unflatten

# of unequal length
PROMPTS = ["a red cat", "the blue house of a dog on a table, painted by an assistant of a cat"]
SIZE = {"width": 24, "height": 16}


def run(*arguments: object) -> str:
    """Run a command of ldmref, and return its output."""
    printed = StringIO()
    with redirect_stdout(printed):
        assert main([str(argument) for argument in arguments]) == 0
    return printed.getvalue()


def assert_within_a_level(images, theirs):
    """Compare images with those of diffusers, in [0, 1]: they differ by 1/255 at most."""
    for image, want in zip(images, theirs, strict=True):
        assert np.abs(np.asarray(image).astype(int) - np.round(want * 255)).max() <= 1


def compile_network(backend: str, theirs, network):
    """Return a backend of graphs, and a network compiled for it with diffusers' parameters."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    ops = get_backend(backend)
    flat = {name: value.float().numpy() for name, value in theirs.state_dict().items()}
    params = unflatten({name: ops.weight(value) for name, value in flat.items()})
    return ops, ops.compile(network, params)


def check_modes(folder: Path, size: dict[str, int] = SIZE) -> None:
    """Run every mode; inpainting keeps the black part of its mask."""
    model = ldmref.load(folder)
    image = modes.txt2img(model, "a red cat", seed=1, steps=2, **size).images[0]
    assert modes.img2img(model, "a dog", image, steps=4, strength=0.5, seed=1).images[0] != image
    kept = np.arange(size["width"])[None, :] * np.ones((size["height"], 1)) < size["width"] // 2
    mask = Image.fromarray(np.uint8(255 * ~kept))
    painted = np.asarray(modes.inpaint(model, "a dog", image, mask, steps=2, seed=1).images[0])
    assert (painted[kept] == np.asarray(image)[kept]).all()
    assert (painted[~kept] != np.asarray(image)[~kept]).any()
    modes.invert(model, "a dog", image, steps=2)
    modes.interpolate(model, "a dog", "a red cat on a table", 3, steps=2, **size)


def check_native_folder(folder: Path, path: Path, side: int = 16) -> None:
    """Write a model in ldmref's layout; what is read again is the same."""
    one = ldmref.load(folder)
    save_folder(path, one.config, one.params, [one.tokenizer], np.float32)
    two = ldmref.load(path)
    options = {"seed": 3, "steps": 2, "width": side, "height": side}
    first, second = (modes.txt2img(model, "a red cat", **options).latents for model in (one, two))
    assert np.array_equal(first, second)
    for part in ("denoiser", "vae", "text_encoder", "scheduler", "defaults"):
        assert getattr(one.config, part) == getattr(two.config, part)


def check_traces_exports_and_cases(folder: Path, tiny: str, path: Path) -> None:
    """Trace a run, export the model, and run the golden cases of the preset `tiny`."""
    pytest.importorskip("onnxruntime")
    trace = path / "trace"
    options = ("--steps", "2", "--seed", "1", "--width", "16", "--height", "16")
    run("trace", "-m", folder, "a red cat", *options, "-o", trace)
    assert "agree" in run("diff", trace, "-m", folder)
    run("export", "onnx", folder, "-o", path / "onnx")
    assert (path / "onnx" / "transformer" / "model.onnx").is_file()
    cases = path / "cases"
    run("cases", "make", "-o", cases, "--family", tiny, "--part", "networks")
    assert "passes" in run("cases", "run", cases, "--runtime", "onnxruntime")


def check_commands(folder: Path, preset: str, family: str, field: str) -> None:
    """List the preset, and show a folder with its family and a field of its transformer."""
    assert preset in run("models")
    shown = run("info", folder)
    assert f"family: {family}" in shown and field in shown


def check_server(folder: Path, multiple: int) -> None:
    """Describe the model as the server does: its modes, and of what its sides are multiples."""
    described = describe_model("model", ldmref.load(folder))
    assert {"img2img", "inpaint", "interpolate", "invert", "txt2img"} <= {*described["modes"]}
    assert described["size_multiple"] == multiple
