"""What is joined to latents along the channels, and where it comes from."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

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


# -- the channels ---------------------------------------------------------------------------------


def names_of(context):
    return [name for name, _ in images.further_channels(context)]


def test_masks_come_before_their_images_unless_latents_are_unpacked():
    calls = {"mask.000": {"output.mask": MASK, "output.latents": Z}}
    context = context_of(calls)
    (first, mask), (second, latents) = images.further_channels(context)
    assert (first, second) == ("mask", "masked image")
    assert np.array_equal(mask, MASK) and np.array_equal(latents, Z)
    assert names_of(context_of(calls, "flux-tiny")) == ["masked image", "mask"]
    later = {**calls, "mask.001": {"output.mask": 1 - MASK, "output.latents": 2 * Z}}
    assert np.array_equal(next(images.further_channels(context_of(later)))[1], 1 - MASK)
    for missing in ("output.mask", "output.latents"):
        arrays = {k: x for k, x in calls["mask.000"].items() if k != missing}
        assert names_of(context_of({"mask.000": arrays})) == []


def test_control_images_are_what_was_drawn_of_them():
    model = model_of("sd3-tiny")
    calls, of = drawn(prepare_image=normal(3, 1, 16, 4, 4))
    context = context_of(calls, model.config.name or "sd3-tiny", attributes=of)
    ((name, got),) = images.further_channels(context)
    vae = model.config.vae
    right = (calls["posterior.000"]["output"] - vae.shift_factor) * vae.scaling_factor
    assert name == "control image" and np.allclose(got, right)
    assert names_of(context_of(calls, attributes={"posterior.000": {"for": "other"}})) == []


class Bare(SimpleNamespace):
    """What the functions of channels read of a context."""

    def calls(self, kind):
        return [SimpleNamespace(kind=kind)] * self.encoders if kind == "vae.encode" else []

    def read_output(self, entry, role="output"):
        return Z if role == "mean" else None

    def normalize(self, z):
        return None if z is None else 2.0 * z


def bare(concat, encoders=1, diffusers=False, **params):
    config = SimpleNamespace(concat=concat, vae=SimpleNamespace(factor=2))
    params = {"mode": "txt2img"} | params
    model = SimpleNamespace(config=config)
    return Bare(model=model, encoders=encoders, is_diffusers=diffusers, params=params)


@pytest.mark.parametrize(
    ("concat", "kinds", "channels"),
    [
        ("control", ["control image"], [4]),
        ("", ["mask", "masked image"], [1, 4]),
        ("masked_image", ["masked image", "mask"], [4, 1]),
        ("folded_mask", ["masked image", "mask"], [4, 4]),
        ("other", [], []),
    ],
)
def test_channels_of_a_run_of_ldmref(concat, kinds, channels):
    found = [*images.further_channels(bare(concat))]
    assert [name for name, _ in found] == kinds and [x.shape[1] for _, x in found] == channels
    for name, x in found:
        right = np.ones((1, x.shape[1], 8, 8)) if name == "mask" else 2.0 * Z
        assert np.array_equal(x, right)


def test_channels_that_are_not_known():
    for context in (
        bare("control", encoders=0),
        bare("control", encoders=2),
        bare("control", diffusers=True),
        bare("control", mode="img2img"),
        bare("control", control=["x"]),
    ):
        assert [*images.further_channels(context)] == []


def channels_of(got, **calls):
    known = {"mask.000": {"output.mask": MASK, "output.latents": Z}, **calls}
    context = context_of({**known, "unet.000": {"input.sample": got}})
    network = entry_of(context, "unet.000")
    return [*images.judge_channels(context, network, got, 1)], network


def test_channels_are_those_that_were_prepared():
    rows, network = channels_of(np.concatenate([MASK, Z], axis=1))
    assert summary(rows) == [
        ("channels of the mask", "equal", ""), ("channels of the masked image", "equal", ""),
    ]  # fmt: skip
    assert [row.call for row in rows] == [network.call] * 2
    assert [row.segment for row in rows] == [
        "from the mask to the denoiser's channels",
        "from the masked image to the denoiser's channels",
    ]
    twice = np.concatenate([np.concatenate([MASK, Z], axis=1)] * 2)
    assert [row.verdict for row in channels_of(twice)[0]] == ["equal"] * 2
    changes = {
        "the mask is inverted": (1.0 - MASK, Z),
        "the mask is zero": (0.0 * MASK, Z),
        "the mask is one": (0.0 * MASK + 1.0, Z),
        "the masked image is inverted": (MASK, -Z),
        "the masked image is zero": (MASK, 0.0 * Z),
        "the masked image is one": (MASK, 0.0 * Z + 1.0),
    }
    for cause, parts in changes.items():
        rows, _ = channels_of(np.concatenate(parts, axis=1))
        assert [row.cause for row in rows if row.verdict == "differs"] == [cause]


def test_channels_of_another_number_or_size_are_refused():
    with pytest.raises(ValueError, match="not recorded by themselves"):
        channels_of(Z)
    wrong = {"mask.000": {"output.mask": MASK[..., :4], "output.latents": Z}}
    with pytest.raises(ValueError, match="the mask has another shape"):
        channels_of(np.concatenate([MASK, Z], axis=1), **wrong)
    three = {"mask.000": {"output.mask": np.concatenate([MASK] * 2), "output.latents": Z}}
    with pytest.raises(ValueError, match="the mask has another shape"):
        channels_of(np.concatenate([MASK, Z], axis=1), **three)


def test_channels_that_are_scaled_otherwise():
    calls, of = drawn(prepare_image=normal(3, 1, 16, 4, 4))
    context = context_of(
        {**calls, "transformer.000": {"input.sample": Z}}, "sd3-tiny", attributes=of
    )
    network = entry_of(context, "transformer.000")
    vae = context.model.config.vae
    got = calls["posterior.000"]["output"] * vae.scaling_factor
    (row,) = images.judge_channels(context, network, got, 1)
    assert row.cause == "the shift factor is missing"


# -- latents of masked images ---------------------------------------------------------------------


def prepared(got, request=None, method="prepare_mask_latents", model="tiny"):
    calls, of = drawn(**{method: Z})
    if request is not None:
        calls["inputs.000"] = {"input.masked_image_latents": request}
    calls["mask.000"] = {"output.latents": got}
    context = context_of(calls, model, attributes=of)
    rows = [*images.judge_prepared(context)]
    return rows, context.ledger.has(entry_of(context, "mask.000"), "latents", "output")


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


def test_three_drawn_images_are_one_batch():
    calls = {"posterior.000": {"output": Z}, "posterior.001": {"output": 3 * Z}}
    of = {"posterior.000": {"for": "prepare_latents"}, "posterior.001": {"for": "prepare_latents"}}
    context = context_of({**calls, "posterior.002": {"output": 5 * Z}}, attributes=of)
    found = images.encoded_latents(context, "prepare_latents")
    assert np.array_equal(found, np.concatenate([Z, 3 * Z]))
    entry = entry_of(context, "posterior.000")
    assert (
        images.judge_encoded(context, entry, np.zeros((3, 4, 8, 8)), "prepare_latents", "") is None
    )
    row = images.judge_encoded(
        context, entry, np.concatenate([Z, 3 * Z] * 2), "prepare_latents", "x"
    )
    assert row.verdict == "equal" and row.segment == "x" and row.call == "posterior.000"


# -- images of a request --------------------------------------------------------------------------


def control_rows(*outputs, given=PHOTO, name="control_image", **more):
    calls = {} if given is None else {"inputs.000": {f"input.{name}": given}}
    calls |= {f"control.{i:03}": {"output": x} for i, x in enumerate(outputs)}
    context = context_of({**calls, **more})
    return [*images.judge_images(context)], context


def test_control_images_are_those_of_the_request():
    rows, context = control_rows(PHOTO)
    assert summary(rows) == [("control image", "equal", "")]
    assert context.ledger.has(entry_of(context, "control.000"), "output", "output")
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
    reasons = [*context.ledger.rest([entry_of(context, "control.000")])]
    assert reasons == [("control.000", ["output"], "no image of the request is known")]


def test_each_controlnet_has_an_image():
    first, second = PHOTO, 1.0 - PHOTO
    both = np.concatenate([first, second])
    rows, _ = control_rows(first, second, given=both)
    assert [row.verdict for row in rows] == ["equal", "equal"]
    rows, _ = control_rows(second, first, given=both)
    assert [row.verdict for row in rows] == ["differs", "differs"]
    rows, _ = control_rows(first, given=both)  # a batch of which one was prepared
    assert [row.verdict for row in rows] == ["equal"]
    four = np.concatenate([first, first, second, second])
    rows, _ = control_rows(four, given=both)
    assert [row.verdict for row in rows] == ["equal"]
    rows, context = control_rows(np.concatenate([first] * 3), given=both)
    assert rows == [] and "the number of images is another one" in str(
        [*context.ledger.rest([entry_of(context, "control.000")])]
    )
    rows, context = control_rows(PHOTO[:, :1])  # another number of channels
    assert rows == []


def test_control_images_for_an_encoder_have_both_signs():
    calls, of = drawn(prepare_image=Z)
    request = {"inputs.000": {"input.control_image": PHOTO}}
    context = context_of({**request, **calls}, attributes=of)
    assert np.allclose(images.control_image(context, (4, 4)), 2.0 * PHOTO - 1.0)
    request["inputs.000"] = {"input.control_image": PHOTO - 0.5}
    context = context_of({**request, **calls}, attributes=of)
    assert np.array_equal(images.control_image(context, (4, 4)), PHOTO - 0.5)
    black = {"inputs.000": {"input.control_image": 0.0 * PHOTO}}
    context = context_of({**black, **calls}, attributes=of)
    assert np.array_equal(images.control_image(context, (4, 4)), 0.0 * PHOTO - 1.0)
    assert images.given_image(context_of(black), (4, 4)) is None


def test_encoders_are_given_the_control_image_that_was_prepared_before():
    first, second = 2.0 * PHOTO - 1.0, 1.0 - 2.0 * PHOTO
    calls = {
        "inputs.000": {"input.image": PHOTO},
        "control.000": {"output": first},
        "vae.encode.000": {"input.image": first},
        "posterior.000": {"output": Z},
        "control.001": {"output": second},
        "vae.encode.001": {"input.image": second},
        "posterior.001": {"output": Z},
    }
    of = {f"posterior.{i:03}": {"encoder": f"vae.encode.{i:03}", "for": "prepare_image"}
          for i in range(2)}  # fmt: skip
    rows = [*images._judge_encoded_images(context_of(calls, attributes=of))]
    assert summary(rows) == [("control image", "equal", "")] * 2
    calls["vae.encode.001"] = {"input.image": first}
    rows = [*images._judge_encoded_images(context_of(calls, attributes=of))]
    assert [row.verdict for row in rows] == ["equal", "differs"]
    late = {name: calls[name] for name in calls if name != "control.000"}
    context = context_of(late, attributes=of)
    entry = entry_of(context, "vae.encode.000")
    assert images._control_before(context, entry) is None
    assert (
        images._control_before(context, entry_of(context, "vae.encode.001")).call == "control.001"
    )


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
    return rows, [*context.ledger.rest([entry_of(context, "mask.000")])]


def test_masks_whose_request_is_not_known_have_a_reason():
    white = np.ones((1, 1, 4, 4))
    rows, rest = masks(**{"input.mask": white})
    assert rows == [] and rest == [("mask.000", ["input.mask"], "no mask of the request is known")]
    rows, rest = masks(**{"input.mask": white, "input.masked_image": 0.0 * PHOTO})
    assert rows == [] and [why for _, _, why in rest] == [
        "no mask of the request is known", "no image of the request is known",
    ]  # fmt: skip
    rows, rest = masks(**{"input.given_mask_image": white, "input.mask": white})
    assert summary(rows) == [("mask", "equal", "")] and rest == []
    twice = np.concatenate([white, white])
    rows, _ = masks(**{"input.given_mask_image": white, "input.mask": twice})
    assert summary(rows) == [("mask", "equal", "")]


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


def test_several_images_of_a_request_have_one_size():
    two = {"inputs.000": {"input.image.0": PHOTO, "input.image.1": PHOTO[:, :, :, :2]}}
    resized = images.given_image(context_of(two), (4, 4))
    assert resized is not None and resized.shape == (2, 3, 4, 4)
    grey = {"inputs.000": {"input.image.0": PHOTO, "input.image.1": PHOTO[:, :1]}}
    assert images.given_image(context_of(grey), (4, 4)) is None
    bad = {"inputs.000": {"input.image.0": PHOTO, "input.image.1": np.zeros(3)}}
    assert images.given_image(context_of(bad), (4, 4)) is None
    later = {"inputs.000": {"input.other": PHOTO}, "inputs.001": {"input.image": PHOTO}}
    assert np.allclose(images.given_image(context_of(later), (4, 4)), 2.0 * PHOTO - 1.0)


def test_a_normalisation_of_more_numbers_has_its_faults():
    scale = SimpleNamespace(
        fold=lambda x: 10.0 * x,
        denormalize=lambda x: x / 2.0,
        kind=SimpleNamespace(
            scales=None,
            denormalize=lambda ops, params, config, x: x - (ops + params + config),
            normalize=lambda ops, params, config, x: x + (ops + params + config),
        ),
        ops=1.0, params=2.0, config=4.0,
    )  # fmt: skip
    found = dict(images.scale_faults(SimpleNamespace(latent_scale=scale), Z))
    assert np.allclose(found["the latents are not normalised"], 5.0 * Z)
    assert np.allclose(found["denormalised instead of normalised"], 5.0 * Z - 7.0)
    assert np.allclose(found["normalised twice"], Z + 7.0)
    assert len(found) == 3
    plain = SimpleNamespace(scales=lambda vae: (0.5, 0.0))
    model = SimpleNamespace(config=SimpleNamespace(vae=None))
    context = SimpleNamespace(latent_scale=SimpleNamespace(kind=plain), model=model)
    assert [*dict(images.scale_faults(context, Z))] == [
        "the scaling factor is missing", "divided by the scaling factor instead of multiplied",
    ]  # fmt: skip
