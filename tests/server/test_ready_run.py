"""The run with which the page begins is what the model in the package generates today."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from PIL import Image

from ldmref import explore
from ldmref.apps.server import static_files

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import make_ready_run  # noqa: E402

FILES = ("frames.webp", "inside.safetensors", "run.safetensors")
MOST_BYTES = 1_000_000  # of all files, which hardly become smaller in a wheel


@pytest.fixture(scope="module")
def made():
    """The files as the script makes them now."""
    return make_ready_run.make_files()


def read(name):
    return (make_ready_run.OUT / name).read_bytes()


def test_the_ready_run_is_that_of_the_model_today(made):
    found = explore.load_record(read("run.safetensors"))
    today = explore.load_record(made["run.safetensors"])
    changing = {"backend", "ldmref"}  # the machine and the version
    kept = [{k: v for k, v in one.params.items() if k not in changing} for one in (found, today)]
    assert kept[0] == kept[1]
    pixels = [np.asarray(one.image, float) for one in (found, today)]
    assert np.abs(pixels[0] - pixels[1]).max() <= 1
    for name in ("x", "x0", "x0_cond", "x0_uncond"):
        stored, new = getattr(found, name), getattr(today, name)
        assert np.allclose(stored, new, atol=0.02, rtol=0.01), name
    assert [word.text for word in found.words] == ["a", "face"]
    assert np.allclose(found.attention, today.attention, atol=2e-3)


def test_half_of_the_precision_is_enough(made):
    """Stored in float16, the record still has the states of `explore.record_run`."""
    import ldmref

    exact = explore.record_run(ldmref.load("emoji", backend="numpy"), **make_ready_run.RUN)
    stored = explore.load_record(made["run.safetensors"])
    size = np.hypot(1.0, exact.sigmas)[:, None, None, None]
    assert np.abs((stored.x - exact.x) / size).max() < 4e-3
    assert np.abs(stored.x0 - exact.x0).max() < 0.05
    assert np.array_equal(np.asarray(stored.image), np.asarray(exact.image))


def test_the_inside_of_the_ready_run(made):
    content = read("inside.safetensors")
    found, today = (safetensors.numpy.load(one) for one in (content, made["inside.safetensors"]))
    assert found.keys() == today.keys()
    for name, array in today.items():
        assert np.allclose(found[name], array, atol=0.02, rtol=0.02), name
    length = int.from_bytes(content[:8], "little")
    described = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["inside"])
    assert described["pieces"][1:3] == ["a", "face"]
    assert described["steps"] == list(range(make_ready_run.RUN["steps"]))
    assert all(len(found[level]) == len(described["steps"]) for level in described["levels"])


def test_the_frames_are_decoded_from_the_run(made):
    sheets = [open_sheet(one) for one in (read("frames.webp"), made["frames.webp"])]
    assert np.abs(sheets[0] - sheets[1]).mean() < 1  # a codec may round otherwise elsewhere
    image = np.asarray(explore.load_record(read("run.safetensors")).image, float)
    height, width, _ = image.shape
    steps = make_ready_run.RUN["steps"]
    assert sheets[0].shape == (2 * height, (steps + 1) * width, 3)
    last = sheets[0][:height, -width:]
    assert np.abs(last - image).mean() < 4  # the codec loses a little


def open_sheet(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)


def test_the_ready_run_is_small_and_served():
    files = static_files.read_files()
    ready = {name: file for name, file in files.items() if name.startswith("ready/")}
    assert sorted(ready) == [f"ready/{name}" for name in FILES]
    assert ready["ready/frames.webp"].media_type == "image/webp"
    assert sum(len(file.content) for file in ready.values()) < MOST_BYTES
