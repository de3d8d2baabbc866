"""Judges of images, masks and latents, on arrays that are built by hand."""

from __future__ import annotations

import numpy as np
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import images

# -- images ---------------------------------------------------------------------------------------


def test_nearest_pixels_are_the_first_of_their_cells():
    x = np.arange(24.0).reshape(1, 1, 4, 6)
    assert np.array_equal(images.nearest_pixels(x, (2, 3)), x[:, :, ::2, ::2])
    assert np.array_equal(images.nearest_pixels(x, (8, 6)), np.repeat(x, 2, axis=2))
    assert images.nearest_pixels(x, (4, 6)) is x


def test_rows_are_repeated():
    x = np.arange(2.0)[:, None]
    assert images.repeat_rows(x, 4)[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]
    for n in (2, 3):
        assert images.repeat_rows(x, n) is x
    assert len(images.repeat_rows(x[:0], 2)) == 0


def of_images(**arrays):
    return context_of({"inputs.000": {f"input.{name}": x for name, x in arrays.items()}})


def test_masks_of_a_request_are_white_from_one_half():
    grey = np.array([[0.0, 0.49, 0.5, 1.0]])
    found = images.given_mask(of_images(mask_image=grey), (1, 4))
    assert found[0, 0].tolist() == [[0.0, 0.0, 1.0, 1.0]]
    colours = np.array([[[1.0, 0.2, 1.0], [0.0, 0.9, 0.0], [1.0, 0.0, 1.0], [1.0, 1.0, 1.0]]])
    found = images.given_mask(of_images(mask_image=colours), (1, 4))
    luminance = colours @ [0.299, 0.587, 0.114]
    assert np.array_equal(found[0, 0], (luminance >= 0.5).astype(float))
    assert images.given_mask(of_images(image=grey), (1, 4)) is None


def masked_run(**changes):
    """Return the rows of a mask whose image and small mask follow from a request."""
    white = np.zeros((1, 1, 4, 4))
    white[..., :2, 1:] = 1.0
    photo = 0.1 + 0.8 * (np.abs(normal(0, 1, 3, 4, 4)) % 1.0)
    image = 2.0 * photo - 1.0
    arrays = {
        "input.mask": white,
        "input.masked_image": np.where(white > 0.5, 0.0, image),
        "output.mask": white[:, :, ::2, ::2],
    } | {name: change(white, image) for name, change in changes.items()}
    context = context_of(
        {
            "inputs.000": {"input.image": photo, "input.mask_image": white},
            "mask.000": arrays,
        }
    )
    first, *others = images._judge_masks(context)
    # whatever is wrong: every array was compared
    assert not [*context.coverage.rest([entry_of(context, "mask.000")])]
    return {"given": first} | {row.kind: row for row in others}


def test_masks_and_masked_images():
    rows = masked_run()
    assert {kind: row.verdict for kind, row in rows.items()} == {
        "given": "equal", "masked image": "equal", "mask": "equal",
    }  # fmt: skip
    causes = {
        "the white part is kept instead of the black one": lambda m, x: x * m,
        "the image is not masked": lambda m, x: x,
        "the masked part is black instead of grey": lambda m, x: np.where(m > 0.5, -1.0, x),
        "the masked part is white instead of grey": lambda m, x: np.where(m > 0.5, 1.0, x),
    }
    for cause, change in causes.items():
        row = masked_run(**{"input.masked_image": change})["masked image"]
        assert (row.verdict, row.cause) == ("differs", cause)
    small = masked_run(**{"output.mask": lambda m, x: 1.0 - m[:, :, ::2, ::2]})["mask"]
    assert small.cause == "the mask is inverted"
    folded = masked_run(
        **{
            "output.mask": lambda m, x: (
                m.reshape(1, 2, 2, 2, 2).transpose(0, 2, 4, 1, 3).reshape(1, 4, 2, 2)
            )
        }
    )["mask"]
    assert folded.verdict == "equal"
    given = masked_run(**{"input.mask": lambda m, x: 1.0 - m})["given"]
    assert given.cause == "the mask is inverted"


# -- latents --------------------------------------------------------------------------------------


def test_posteriors_belong_to_the_methods_that_drew_them():
    methods = {
        "prepare_mask_latents": "masked image",
        "prepare_latents": "image",
        "prepare_image": "control image",
        "other": "image",
    }
    for method, kind in methods.items():
        calls = {
            "inputs.000": {"input.image": np.full((1, 3, 4, 4), 0.75)},
            "mask.000": {"input.masked_image": np.full((1, 3, 4, 4), 0.5)},
            "control.000": {"output": np.full((1, 3, 4, 4), 0.5)},
            "vae.encode.000": {"input.image": np.full((1, 3, 4, 4), 0.5)},
            "posterior.000": {"output": np.zeros(1)},
        }
        of = {"posterior.000": {"encoder": "vae.encode.000", "for": method}}
        rows = [*images._judge_encoded_images(context_of(calls, attributes=of))]
        assert [(row.kind, row.verdict) for row in rows] == [(kind, "equal")]
