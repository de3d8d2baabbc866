"""What is joined to latents along the channels, and where it comes from."""

from __future__ import annotations

import numpy as np
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import images

Z = normal(0, 1, 4, 8, 8)
MASK = (normal(1, 1, 1, 8, 8) > 0).astype(float)
PHOTO = 0.1 + 0.8 * (np.abs(normal(2, 1, 3, 4, 4)) % 1.0)


def drawn(**by_method):
    """Return calls of encoders' draws, and the attributes that say who drew them."""
    names = {f"posterior.{i:03}": method for i, method in enumerate(by_method)}
    calls = {call: {"output": by_method[method]} for call, method in names.items()}
    return calls, {call: {"for": method} for call, method in names.items()}


def summary(rows):
    return [(row.kind, row.verdict, row.cause) for row in rows]


# -- latents of masked images ---------------------------------------------------------------------


def prepared(got, request=None, method="prepare_mask_latents", model="tiny"):
    calls, of = drawn(**{method: Z})
    if request is not None:
        calls["inputs.000"] = {"input.masked_image_latents": request}
    calls["mask.000"] = {"output.latents": got}
    context = context_of(calls, model, attributes=of)
    rows = [*images.judge_prepared(context)]
    return rows, context.coverage.has(entry_of(context, "mask.000"), "latents", "output")


def test_latents_of_a_masked_image_are_what_was_drawn():
    rows, seen = prepared(Z)
    assert summary(rows) == [("encoded latents", "equal", "")] and seen
    assert rows[0].segment == "from the encoder to the latents of the masked image"
    assert summary(prepared(np.concatenate([Z, Z]))[0]) == [("encoded latents", "equal", "")]
    assert prepared(Z + normal(4, *Z.shape))[0][0].verdict == "differs"
    for got in (Z[..., :4], Z[:, :2]):
        assert prepared(got) == ([], False)
    assert prepared(Z, method="prepare_latents") == ([], False)


def test_latents_of_a_masked_image_may_be_given():
    rows, seen = prepared(2.0 * Z, request=2.0 * Z)
    assert summary(rows) == [("encoded latents", "equal", "")] and seen
    rows, _ = prepared(np.concatenate([2.0 * Z] * 2), request=2.0 * Z)
    assert rows[0].verdict == "equal"
    assert prepared(Z, request=2.0 * Z)[0][0].verdict == "differs"
    assert prepared(Z, request=Z[..., :4])[0][0].verdict == "equal"  # they are of something else
    context = context_of({"mask.000": {"output.mask": MASK}, "mask.001": {"output.latents": Z}})
    assert [*images.judge_prepared(context)] == []
    calls, of = drawn(prepare_mask_latents=Z)
    calls |= {"mask.000": {"output.mask": MASK}, "mask.001": {"output.latents": Z}}
    context = context_of(calls, attributes=of)
    assert [row.call for row in images.judge_prepared(context)] == ["mask.001"]


# -- images of a request --------------------------------------------------------------------------


def control_rows(*outputs, given=PHOTO, name="control_image", **more):
    calls = {} if given is None else {"inputs.000": {f"input.{name}": given}}
    calls |= {f"control.{i:03}": {"output": x} for i, x in enumerate(outputs)}
    context = context_of({**calls, **more})
    return [*images.judge_images(context)], context


def test_control_images_are_those_of_the_request():
    rows, context = control_rows(PHOTO)
    assert summary(rows) == [("control image", "equal", "")]
    assert context.coverage.has(entry_of(context, "control.000"), "output", "output")
    assert control_rows(PHOTO, name="image")[0][0].verdict == "equal"
    causes = {
        "pixels in [-1, 1] instead of [0, 1]": 2.0 * PHOTO - 1.0,
        "pixels from 0 to 255 instead of [0, 1]": 255.0 * PHOTO,
        "red and blue are exchanged": PHOTO[:, ::-1],
        "the image is inverted": 1.0 - PHOTO,
    }
    for cause, got in causes.items():
        assert control_rows(got)[0][0].cause == cause
    rows, context = control_rows(PHOTO, given=None)
    assert rows == []
    reasons = [*context.coverage.rest([entry_of(context, "control.000")])]
    assert reasons == [("control.000", ["output"], "no image of the request is known")]


def test_an_encoder_whose_input_was_not_recorded_is_passed_over():
    photo = 2.0 * PHOTO - 1.0
    calls = {
        "inputs.000": {"input.image": PHOTO},
        "vae.encode.000": {"output.mean": Z},
        "vae.encode.001": {"input.sample": photo},
        "vae.encode.002": {"input.input": photo},
        "vae.encode.003": {"input.x": photo},
    }
    rows = [*images._judge_encoded_images(context_of(calls))]
    assert [row.call for row in rows] == [f"vae.encode.{i:03}" for i in (1, 2, 3)]


# -- masks ----------------------------------------------------------------------------------------


def masks(**arrays):
    """Return the rows of a mask, and why arrays of it were not compared."""
    given = {key: arrays.pop(key) for key in [*arrays] if key.startswith("input.given_")}
    request = {f"input.{key[12:]}": x for key, x in given.items()}
    context = context_of({"inputs.000": request, "mask.000": arrays})
    rows = [*images._judge_masks(context)]
    return rows, [*context.coverage.rest([entry_of(context, "mask.000")])]


def test_masked_images_may_be_latents():
    rows, rest = masks(**{"input.given_masked_image_latents": Z, "input.masked_image": Z})
    assert summary(rows) == [("masked image", "equal", "")] and rest == []
    wrong = {"input.given_masked_image_latents": Z, "input.masked_image": 1.0 + Z}
    assert masks(**wrong)[0][0].verdict == "differs"
    rows, rest = masks(**{"input.given_masked_image_latents": Z[..., :4], "input.masked_image": Z})
    assert rows == [] and len(rest) == 1


def test_small_masks_without_a_place_are_passed_over():
    mask = np.ones((1, 1, 4, 4))
    for small in (np.ones((1, 1, 8, 4)), np.ones((1, 1, 4, 8)), np.ones((1, 4, 4))):
        assert masks(**{"input.mask": mask, "output.mask": small})[0] == []
    assert masks(**{"output.mask": mask})[0] == []
    quarter = np.zeros((1, 1, 4, 4))
    quarter[..., 1, 2] = 1.0
    rows, _ = masks(**{"input.mask": quarter, "output.mask": quarter[:, :, ::2, ::2]})
    assert [row.verdict for row in rows] == ["equal"]
    same, _ = masks(**{"input.mask": quarter, "output.mask": quarter})
    assert [row.verdict for row in same] == ["equal"]
    twice = np.concatenate([quarter[:, :, ::2, ::2]] * 2)
    rows, _ = masks(**{"input.mask": quarter, "output.mask": twice})
    assert [row.verdict for row in rows] == ["equal"]
    wide = np.zeros((1, 1, 4, 8))
    wide[..., 1, 5] = 1.0  # the second row and column of its cell of 2 x 4
    folded = np.zeros((1, 8, 2, 2))
    folded[0, 5, 0, 1] = 1.0
    rows, _ = masks(**{"input.mask": wide, "output.mask": folded})
    assert [row.verdict for row in rows] == ["equal"]
