"""Images, masks and draws of encoders: every kind of array, cause and reason."""

from __future__ import annotations

import math

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import images

SIZE = (4, 6)
PHOTO = 0.1 + 0.8 * (np.abs(normal(2, 1, 3, *SIZE)) % 1.0)
SIGNED = 2.0 * PHOTO - 1.0
OTHER = 0.1 + 0.8 * (np.abs(normal(3, 1, 3, *SIZE)) % 1.0)
WHITE = np.zeros((1, 1, *SIZE))
WHITE[..., :2, 1:] = 1.0


def moved(x, by):
    """Return an array of which one number is wrong, by a share of the largest."""
    found = x.copy()
    found.flat[np.argmin(np.abs(x))] += by * np.abs(x).max()
    return found


def why_of(context, call, role, side="input"):
    return context.coverage.reasons.get((entry_of(context, call).name, side, role), "")


# -- pixels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((4, 6), (None, None, 0, 1)),
        ((4, 6, 3), (None, 2, 0, 1)),
        ((4, 6, 1), (None, 2, 0, 1)),
        ((3, 4, 6), (None, 0, 1, 2)),
        ((1, 4, 6), (None, 0, 1, 2)),
        ((5, 4, 6), (0, None, 1, 2)),  # of one channel each
        ((2, 4, 6), (0, None, 1, 2)),
        ((2, 3, 4, 6), (0, 1, 2, 3)),
        ((2, 1, 4, 6), (0, 1, 2, 3)),
        ((2, 4, 6, 3), (0, 3, 1, 2)),
        ((2, 4, 6, 1), (0, 3, 1, 2)),
        ((2, 5, 4, 6), (0, 1, 2, 3)),  # latents
    ],
)
@pytest.mark.parametrize("size", [(4, 6), (2, 3), (8, 6)])
def test_axes_of_images(shape, axes, size):
    """Arrays that have no axis for images or channels have one of each."""
    x = normal(0, *shape)
    right = x.transpose([axis for axis in axes if axis is not None])
    for place, axis in enumerate(axes):
        right = np.expand_dims(right, place) if axis is None else right
    rows = np.arange(size[0]) * 4 // size[0]
    columns = np.arange(size[1]) * 6 // size[1]
    read = images.read_pixels(x, size)
    assert np.array_equal(read, right[:, :, rows][:, :, :, columns])


def test_narrow_images_keep_their_channels():
    first = normal(0, 2, 3, 4, 3)
    assert np.array_equal(images.read_pixels(first, (4, 3)), first)
    grey = normal(0, 2, 1, 4, 1)
    assert np.array_equal(images.read_pixels(grey, (4, 1)), grey)


@pytest.mark.parametrize("shape", [(), (4,), (1, 1, 3, 4, 6)])
def test_arrays_of_other_axes_are_no_images(shape):
    assert images.read_pixels(np.ones(shape), SIZE) is None
    assert images.read_pixels(np.ones(shape, np.uint8), SIZE) is None


def test_bytes_of_a_batch_are_numbers():
    """As pipelines of diffusers read an array of images."""
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8)
    read = images.read_pixels(x, SIZE)
    assert read.dtype == np.float64 and np.array_equal(read, x.transpose(0, 3, 1, 2))


def given(size=SIZE, **arrays):
    calls = {"inputs.000": {f"input.{name}": x for name, x in arrays.items()}}
    return context_of(calls), size


@pytest.mark.parametrize(("least", "signed"), [(-0.01, True), (0.0, False), (0.2, False)])
def test_images_with_negative_numbers_stay_as_they_are(least, signed):
    x = PHOTO.copy()
    x.flat[3] = least
    context, size = given(image=x)
    right = x if signed else 2.0 * x - 1.0
    assert np.array_equal(images.given_image(context, size), right)


@pytest.mark.parametrize(("least", "signed"), [(-0.01, True), (0.0, False), (0.2, False)])
def test_control_images_with_negative_numbers_stay_as_they_are(least, signed):
    x = PHOTO.copy()
    x.flat[3] = least
    calls = {"inputs.000": {"input.control_image": x, "input.image": OTHER}}
    context = context_of(calls)
    assert np.array_equal(images.control_image(context, SIZE), x)
    calls["posterior.000"] = {"output": normal(0, 1, 4, 2, 2)}
    of = {"posterior.000": {"for": "prepare_image"}}
    right = x if signed else 2.0 * x - 1.0
    assert np.array_equal(images.control_image(context_of(calls, attributes=of), SIZE), right)
    assert images.control_image(context_of({}), SIZE) is None


# -- masks ----------------------------------------------------------------------------------------


def masked(arrays, **request):
    """Return the rows of a mask by its kinds, and the context."""
    calls = {"inputs.000": {f"input.{k}": x for k, x in request.items()}} if request else {}
    calls["mask.000"] = arrays
    context = context_of(calls)
    rows = [*images._judge_masks(context)]
    assert {row.call for row in rows} <= {"mask.000"}
    return rows, context


def test_a_mask_that_was_not_recorded_has_no_reason():
    rows, context = masked({"input.other": WHITE}, mask_image=WHITE)
    assert rows == [] and not context.coverage.reasons
    rows, context = masked({"input.masked_image": SIGNED}, image=PHOTO)
    assert rows == [] and why_of(context, "mask.000", "masked_image")


BARE = np.where(WHITE > 0.5, 0.0, SIGNED)


@pytest.mark.parametrize(("by", "verdict"), [(0.9e-5, "equal"), (1.1e-5, "differs")])
def test_masked_images_may_round(by, verdict):
    arrays = {"input.mask": WHITE, "input.masked_image": moved(BARE, by)}
    (_, row), _ = masked(arrays, image=PHOTO, mask_image=WHITE)
    assert (row.kind, row.verdict, row.allowed) == ("masked image", verdict, 1e-5)


@pytest.mark.parametrize(("grey", "kept"), [(0.49, True), (0.5, False)])
def test_half_of_a_mask_is_white(grey, kept):
    mask = grey * WHITE
    right = SIGNED if kept else BARE
    (row,), context = masked({"input.mask": mask, "input.masked_image": right}, image=PHOTO)
    assert (row.kind, row.verdict) == ("masked image", "equal")
    assert why_of(context, "mask.000", "mask")


def test_one_row_of_pixels_is_no_cell_of_channels():
    mask = np.zeros((1, 1, 2, 8))
    mask[0, 0, 1, 4] = 1.0
    got = np.zeros((1, 4, 2, 2))
    got[0, :, 1, 1] = 1.0
    (row,), _ = masked({"input.mask": mask, "output.mask": got})
    assert row.verdict == "equal"


# -- what an encoder is given ---------------------------------------------------------------------


def encoded(got, image):
    """Return the rows of what an encoder was given of an image, and the context."""
    calls = {"inputs.000": {"input.image": image}, "vae.encode.000": {"input.image": got}}
    context = context_of(calls)
    return [*images._judge_encoded_images(context)], context


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda x: 2.0 * x - 1.0, "[-1, 1] instead of [0, 1]"),
        (lambda x: 255.0 * x, "255 instead of [0, 1]"),
        (lambda x: x[:, ::-1], "exchanged"),
        (lambda x: 1.0 - x, "inverted"),
    ],
)
@pytest.mark.parametrize("least", [0.0, 0.1])
def test_control_images_that_are_prepared_otherwise(change, word, least):
    photo = PHOTO.copy()
    photo.flat[7] = least
    calls = {"inputs.000": {"input.image": photo}, "control.000": {"output": change(photo)}}
    (row,) = images.judge_images(context_of(calls))
    assert (row.call, row.kind, row.verdict) == ("control.000", "control image", "differs")
    assert row.cause.endswith(word) and row.explained < 1e-12


@pytest.mark.parametrize(("by", "verdict"), [(0.9e-5, "equal"), (1.1e-5, "differs")])
def test_images_may_round(by, verdict):
    (row,), context = encoded(moved(SIGNED, by), PHOTO)
    assert (row.verdict, row.allowed) == (verdict, 1e-5)
    entry = entry_of(context, "vae.encode.000")
    assert context.coverage.has(entry, "image")
    assert not context.coverage.has(entry, "image", "output")


def test_images_of_which_nothing_is_known_are_what_was_given():
    calls = {f"vae.encode.00{i}": {"input.image": SIGNED, "input.other": MEAN} for i in range(2)}
    context = context_of(calls)
    assert [*images._judge_encoded_images(context)] == []
    entries = context.calls("vae.encode")
    assert all(context.coverage.has(entry, "image") for entry in entries)
    assert not any(context.coverage.has(entry, "other") for entry in entries)


def test_methods_of_encoders():
    calls = {"posterior.000": {"output": PHOTO}, "posterior.001": {"output": PHOTO}}
    of = {"posterior.000": {"encoder": "a", "for": "first"}, "posterior.001": {"encoder": "b"}}
    context = context_of(calls, attributes=of)
    assert [images.method_of(context, name) for name in "abc"] == ["first", "", ""]


# -- control images -------------------------------------------------------------------------------


def test_a_map_of_classes_is_what_was_given():
    context = context_of({"cond_stage.000": {"input.map": WHITE, "output": PHOTO}})
    assert [*images.judge_images(context)] == []
    assert context.coverage.has(entry_of(context, "cond_stage.000"), "map")


def test_all_images_of_a_run_are_judged():
    mean = normal(0, 1, 4, 2, 3)
    calls = {
        "inputs.000": {"input.image": PHOTO, "input.mask_image": WHITE},
        "mask.000": {"input.mask": WHITE},
        "vae.encode.000": {"input.image": SIGNED, "output.mean": mean},
        "posterior.000": {"output": mean},
        "control.000": {"output": PHOTO},
    }
    of = {"posterior.000": {"encoder": "vae.encode.000", "for": "prepare_latents"}}
    rows = [*images.judge_images(context_of(calls, attributes=of))]
    assert [(row.call, row.kind, row.verdict) for row in rows] == [
        ("mask.000", "mask", "equal"),
        ("vae.encode.000", "image", "equal"),
        ("posterior.000", "posterior", "equal"),
        ("control.000", "control image", "equal"),
    ]


# -- draws ----------------------------------------------------------------------------------------

MEAN = normal(5, 1, 4, 16, 16)
NOISE = normal(6, *MEAN.shape)
NOISE = (NOISE - NOISE.mean()) / np.std(NOISE)


def posterior(drawn, logvar=0.0, **outputs):
    found = {"output.mean": MEAN}
    found |= {} if logvar is None else {"output.logvar": np.full(MEAN.shape, logvar)}
    calls = {"vae.encode.000": found | outputs, "posterior.000": {"output": drawn}}
    context = context_of(calls, attributes={"posterior.000": {"encoder": "vae.encode.000"}})
    rows = [*images._judge_posteriors(context)]
    seen = context.coverage.has(entry_of(context, "posterior.000"), "output", "output")
    return [(row.kind, row.call, row.verdict) for row in rows], seen


EQUAL = [("posterior", "posterior.000", "equal")]
DIFFERS = [("posterior", "posterior.000", "differs")]


@pytest.mark.parametrize(
    ("logvar", "used"), [(0.0, 0.0), (-2.0, -2.0), (-29.0, -29.0), (-35.0, -30.0), (25.0, 20.0)]
)
def test_draws_have_the_variance_of_their_encoder(logvar, used):
    """As in diffusers: ln of the variance is from -30 to 20."""
    spread = math.exp(0.5 * used)
    for factor, found in ((1.0, EQUAL), (1.3, DIFFERS), (0.7, DIFFERS)):
        assert posterior(MEAN + factor * spread * NOISE, logvar) == (found, True)
    assert posterior(MEAN, logvar) == (EQUAL, True)


def test_draws_of_an_unknown_variance_are_not_compared():
    assert posterior(MEAN + NOISE, None) == ([], False)
    assert posterior(MEAN, None) == (EQUAL, True)


def test_draws_that_were_not_recorded_do_not_hide_the_others():
    calls = {
        "vae.encode.000": {"output.mean": MEAN},
        "posterior.000": {"input.x": MEAN},
        "posterior.001": {"output": MEAN[:, :3]},
        "posterior.002": {"output": MEAN},
    }
    of = {f"posterior.00{i}": {"encoder": "vae.encode.000"} for i in range(3)}
    rows = [*images._judge_posteriors(context_of(calls, attributes=of))]
    assert [row.call for row in rows] == ["posterior.002"]


# -- further channels -----------------------------------------------------------------------------


def test_latents_of_each_mask_are_those_of_the_request():
    calls = {"inputs.000": {"input.masked_image_latents": MEAN}}
    calls |= {f"mask.00{i}": {"output.latents": x} for i, x in enumerate((MEAN, -MEAN, MEAN))}
    context = context_of(calls)
    rows = [(row.call, row.verdict) for row in images.judge_prepared(context)]
    verdicts = ("equal", "differs", "equal")
    assert rows == [(f"mask.00{i}", verdict) for i, verdict in enumerate(verdicts)]
    assert len(context.coverage.judged) == 3
