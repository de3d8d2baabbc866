"""Images of a request as pipelines prepare them: bytes in any order, and batches of prompts."""

from __future__ import annotations

import numpy as np
import pytest
from host_units import context_of, entry_of
from PIL import Image

from ldmref.locate.pipeline import images

BYTES = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
SIZE = (6, 8)


# -- bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [SIZE, (3, 4)])
def test_bytes_with_channels_first_are_read_as_those_with_channels_last(channels, size):
    whole = np.concatenate([BYTES, BYTES[..., :1]], axis=2)[..., :channels]
    last = images.read_pixels(whole, size)
    first = images.read_pixels(whole.transpose(2, 0, 1), size)
    assert np.array_equal(first, last)
    assert last.shape == (1, min(channels, 3), *size)


@pytest.mark.parametrize("size", [SIZE, (3, 4), (12, 16)])
def test_bytes_of_one_channel_are_those_without_an_axis_for_it(size):
    grey = BYTES[..., 0]
    right = Image.fromarray(grey).resize(size[::-1], Image.Resampling.LANCZOS)
    for x in (grey, grey[..., None], grey[None]):
        read = images.read_pixels(x, size)
        assert np.array_equal(read, np.asarray(right)[None, None] / 255.0)


def test_bytes_with_no_axis_of_channels_are_no_image():
    for shape in ((6, 8, 2), (2, 6, 8), (5, 6, 8), (6, 8, 5)):
        assert images.read_pixels(np.zeros(shape, np.uint8), SIZE) is None


# -- control images of several prompts ------------------------------------------------------------

A, B = (np.full((1, 3, 4, 4), x) + np.linspace(0.0, 0.2, 16).reshape(4, 4) for x in (0.1, 0.6))


def prepared(rows, given=(A, B), each=None, kind="control", name="control_image"):
    """Return the verdicts of a batch of prepared images, and why it was not compared."""
    params = {} if each is None else {"num_images_per_prompt": each}
    calls = {
        "inputs.000": {f"input.{name}.{i}": x for i, x in enumerate(given)},
        f"{kind}.000": {"output": np.concatenate(rows)},
    }
    context = context_of(calls, params=params)
    found = [row.verdict for row in images.judge_images(context)]
    entry = entry_of(context, f"{kind}.000")
    return found, context.coverage.reasons.get((entry.name, "output", "output"), "")


@pytest.mark.parametrize(
    ("rows", "each", "verdict"),
    [
        ([A, B, A, B], 1, "equal"),  # both halves of guidance
        ([A, A, B, B], 1, "differs"),
        ([A, A, B, B], 2, "equal"),
        ([A, B, A, B], 2, "differs"),
        ([A, A, B, B, A, A, B, B], 2, "equal"),
        ([A, B, A, B, A, B, A, B], 2, "differs"),
        ([A, A, A, A, B, B, B, B], 2, "differs"),
        ([A, A, B, B], None, "equal"),
        ([A, B, A, B], None, "equal"),
        ([A, A, B, B, A, A, B, B], None, "equal"),
        ([A, A, A, B, B, B], None, "equal"),
        ([A, B, A, B], -1, "equal"),
        ([A, A, B, B], 0, "equal"),
        ([A, A, B, B], True, "equal"),
        ([B, A, B, A], None, "differs"),
        ([A, B, B, A], None, "differs"),
        ([A, B], None, "equal"),
        ([A, B], 1, "equal"),
        ([A, B], 2, "equal"),
        ([B, A], 1, "differs"),
        ([A], 1, "equal"),
    ],
)
def test_each_control_image_is_repeated_for_the_images_of_its_prompt(rows, each, verdict):
    assert prepared(rows, each=each) == ([verdict], "")


@pytest.mark.parametrize(
    ("rows", "each"), [([A, B, A], None), ([A, B, A, B], 3), ([A] * 5, 2), ([A, B, A, B], 10**9)]
)
def test_batches_of_another_number_are_not_compared(rows, each):
    found, why = prepared(rows, each=each)
    assert found == []
    assert "number" in why


def test_one_control_image_is_that_of_all_prompts():
    for n in (1, 2, 3, 4):
        assert prepared([A] * n, given=(A,), each=2) == (["equal"], "")
