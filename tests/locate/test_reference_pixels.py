"""What ports make of the pixels of reference images is named, in any size."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from complete_runs import LAYERS, WIDE, call, of_flux2
from PIL import Image

import ldmref
from ldmref.locate import diff_traces

RNG = np.random.default_rng(0)
FIRST, SECOND = (
    Image.fromarray(RNG.integers(0, 256, (h, w, 3), dtype=np.uint8))
    for w, h in ((96, 64), (64, 128))
)


def prepared(change):
    """Return a change of the pixels that a pipeline makes of each reference."""

    def apply(pipe):
        inner = pipe.image_processor.preprocess
        pipe.image_processor.preprocess = lambda *args, **kwargs: change(inner, *args, **kwargs)

    return apply


def squeeze(inner, image, height, width, resize_mode="crop"):
    square = image.resize((64, 64), Image.Resampling.LANCZOS)
    return inner(square, height=64, width=64, resize_mode=resize_mode)


def exchange_sides(inner, image, height, width, resize_mode="crop"):
    return inner(image, height=width, width=height, resize_mode=resize_mode)


def reverse(pipe):
    inner = pipe.prepare_image_latents
    pipe.prepare_image_latents = lambda images, **options: inner(images=images[::-1], **options)


FAULTS = {
    "squeezed": (
        prepared(squeeze),
        [
            "the image is squeezed to 64 x 64 pixels instead of 96 x 64",
            "the image is squeezed to 64 x 64 pixels instead of 64 x 128",
        ],
    ),
    "reversed": (reverse, ["the references are in another order"] * 2),
    "from 0 to 1": (
        prepared(lambda inner, *args, **options: inner(*args, **options) * 0.5 + 0.5),
        ["pixels in [0, 1] instead of [-1, 1]"] * 2,
    ),
    "blue first": (
        prepared(lambda inner, *args, **options: inner(*args, **options).flip(1)),
        ["red and blue are exchanged"] * 2,
    ),
}


@pytest.fixture(scope="module")
def klein(tmp_path_factory):
    folder = tmp_path_factory.mktemp("klein")
    of_flux2(folder).save_pretrained(folder / "model")
    return folder, ldmref.load(folder / "model")


def rows_of_run(klein, change=None):
    """Return the rows of the images of a recorded run with two references."""
    folder, model = klein
    pipe = of_flux2(folder)
    if change is not None:
        change(pipe)
    with ldmref.recording(pipe) as recording:
        call(pipe, image=[FIRST, SECOND], **LAYERS, **WIDE)
    report = diff_traces(recording.trace, model)
    return [row for row in report.rows if row.kind == "image"]


def test_right_references_are_equal(klein):
    rows = rows_of_run(klein)
    assert [(row.call, row.verdict) for row in rows] == [
        ("vae.encode", "equal"),
        ("vae.encode~1", "equal"),
    ]


@pytest.mark.parametrize("name", FAULTS)
def test_wrong_pixels_of_references_are_named(klein, name):
    change, causes = FAULTS[name]
    rows = rows_of_run(klein, change)
    assert [(row.verdict, row.cause) for row in rows] == [("differs", x) for x in causes]


def shrink(inner, image, height, width, resize_mode="crop"):
    return inner(image.resize((32, 32), Image.Resampling.NEAREST), height=64, width=64)


EXCHANGED = "width and height are exchanged: "
SIZES = {
    "shrunk": (shrink, ["64 x 64 pixels instead of 96 x 64", "64 x 64 pixels instead of 64 x 128"]),
    "sides": (
        exchange_sides,
        [
            f"{EXCHANGED}64 x 96 pixels instead of 96 x 64",
            f"{EXCHANGED}128 x 64 pixels instead of 64 x 128",
        ],
    ),
}


@pytest.mark.parametrize("name", SIZES)
def test_references_of_another_size_say_so_without_a_cause(klein, name):
    change, notes = SIZES[name]
    rows = rows_of_run(klein, prepared(change))
    found = [(row.verdict, row.cause, row.note) for row in rows]
    assert found == [("differs", "", note) for note in notes]
