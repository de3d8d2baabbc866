"""Reference images of transformers, and tensors in their files that nobody reads."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ldmref.backends import get_backend
from ldmref.families import combined_files, reference_images

# -- other networks in a file ---------------------------------------------------------------------


UNUSED = (
    "text_encoders.clip_l.logit_scale",
    "text_encoders.t5xxl.logit_scale",
    "text_encoders.clip_g.transformer.text_model.embeddings.position_ids",
    "text_encoders.clip_l.text_projection",
    "text_encoders.clip_l.transformer.text_projection.weight",
    "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight",
)


def test_tensors_that_nobody_reads():
    for name in UNUSED:
        assert re.fullmatch(combined_files.UNUSED, name), name
    for name in (
        "text_encoders.clip_g.transformer.text_projection.weight",
        "text_encoders.clip_l.transformer.text_model.final_layer_norm.weight",
        "clip_l.logit_scale",
    ):
        assert re.fullmatch(combined_files.UNUSED, name) is None, name


# -- reference images -----------------------------------------------------------------------------


class Sized:
    """An image without pixels, which says how it was scaled and cropped."""

    def __init__(self, *size, scaled=()):
        self.size = size
        self.scaled = scaled

    def resize(self, size, resample):
        return Sized(*size, scaled=(size, resample))

    def crop(self, box):
        left, top, right, bottom = box
        assert 0 <= left <= right <= self.size[0] and 0 <= top <= bottom <= self.size[1]
        return Sized(right - left, bottom - top, scaled=self.scaled)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((16, 16), (16, 16)),
        ((17, 47), (16, 32)),
        ((48, 31), (48, 16)),
        ((1024, 1024), (1024, 1024)),
        ((1024, 1025), (1008, 1024)),
        ((2048, 512), (2048, 512)),
        ((4096, 1024), (2048, 512)),
        ((200_000, 6), (186_944, 16)),
    ],
)
def test_references_are_cropped_to_whole_tokens(size, want):
    """After they were scaled to 1024^2 pixels, of which no side is less than a token's."""
    for count in (1, 3):
        found = reference_images.crop_to_tokens(Sized(*size), count)
        assert found.size == want and all(isinstance(side, int) for side in found.size)
        assert bool(found.scaled) == (size[0] * size[1] > 1024**2)
        assert not found.scaled or found.scaled[1] == Image.Resampling.LANCZOS


def test_the_middle_of_a_reference_is_kept():
    rows, columns = np.mgrid[0:41, 0:23]
    pixels = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    found = np.asarray(reference_images.crop_to_tokens(Image.fromarray(pixels)))
    assert found.shape == (32, 16, 3)
    assert found[0, 0].tolist() == [4, 3, 0] and found[-1, -1].tolist() == [35, 18, 0]


def test_a_small_reference_is_filled_up_to_a_token():
    found = np.asarray(reference_images.crop_to_tokens(Image.new("RGB", (6, 40), "white")))
    assert found.shape == (32, 16, 3)
    assert found[:, 5:11].min() == 255 and found[:, :5].max() == 0 == found[:, 11:].max()


def test_cells_of_references_follow_each_other():
    ops = get_backend("numpy", dtype="float64")
    model = SimpleNamespace(backend=ops, encode_image=lambda image: image[:, :2])
    images = [np.arange(36.0).reshape(1, 3, 3, 4), np.arange(12.0).reshape(1, 3, 2, 2) + 100]
    cells, latents = reference_images.encode_cells(model, images)
    assert cells.shape == (1, 16, 2) and [x.shape for x in latents] == [(1, 2, 3, 4), (1, 2, 2, 2)]
    assert cells[0, :, 0].tolist() == [*range(12), 100, 101, 102, 103]
    assert cells[0, 12:, 1].tolist() == [104, 105, 106, 107]
