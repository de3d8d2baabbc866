"""Judges of images, masks and latents, on arrays that are built by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, normal

from ldmref.locate.pipeline import images, latents

SHAPE = (1, 4, 8, 8)
EPSILON = 2.0**-23


# -- images ---------------------------------------------------------------------------------------


def test_pixels_of_images():
    size = (2, 3)
    photo = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    read = images.read_pixels(photo, size)
    assert np.array_equal(read, photo.transpose(2, 0, 1)[None] / 255.0)
    grey = images.read_pixels(photo[..., 0], size)
    assert np.array_equal(grey, photo[..., 0][None, None] / 255.0)
    alpha = np.concatenate([photo, photo[..., :1]], axis=-1)
    assert np.array_equal(images.read_pixels(alpha, size), read)
    x = normal(0, 2, 3, 3)
    assert np.array_equal(images.read_pixels(x, size), x.transpose(2, 0, 1)[None])
    assert np.array_equal(images.read_pixels(x.transpose(2, 0, 1), (2, 3))[0], x.transpose(2, 0, 1))
    assert np.array_equal(images.read_pixels(x[..., 0], size), x[None, None, :, :, 0])
    batch = normal(1, 4, 2, 5, 3)
    assert np.array_equal(images.read_pixels(batch, (2, 5)), batch.transpose(0, 3, 1, 2))
    first = normal(1, 4, 3, 2, 3)  # channels come first if they can
    assert np.array_equal(images.read_pixels(first, size), first)
    assert images.read_pixels(np.zeros(3), size) is None
    assert images.read_pixels(np.zeros((1, 1, 1, 1, 1)), size) is None
    assert images.read_pixels(photo, (4, 6)).shape == (1, 3, 4, 6)


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


def test_images_of_a_request_are_from_minus_one_to_one():
    x = np.abs(normal(0, 1, 3, 4, 4)) % 1.0
    assert np.allclose(images.given_image(of_images(image=x), (4, 4)), 2.0 * x - 1.0)
    assert np.array_equal(images.given_image(of_images(image=x - 0.5), (4, 4)), x - 0.5)
    assert images.given_image(of_images(mask_image=x), (4, 4)) is None
    two = context_of({"inputs.000": {"input.image.0": x, "input.image.1": x[..., ::-1]}})
    assert np.allclose(
        images.given_image(two, (4, 4)), 2.0 * np.concatenate([x, x[..., ::-1]]) - 1.0
    )
    assert np.array_equal(images.control_image(of_images(image=x), (4, 4)), x)
    both = of_images(image=x, control_image=x / 2)
    assert np.array_equal(images.control_image(both, (4, 4)), x / 2)


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
    assert not [*context.ledger.rest([entry_of(context, "mask.000")])]
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


def decoded(got, last, model="tiny", **arrays):
    """Return the row of the latents that a decoder was given after the last step."""
    calls = {
        "sampler.000": {"output": last, **arrays},
        "vae.decode.000": {"input.latents": got},
    }
    context = context_of(calls, model)
    rows = [*latents._judge_decoder(context)]
    assert context.ledger.has(entry_of(context, "vae.decode.000"), "latents")
    return rows[0]


def test_the_scale_of_what_is_decoded():
    last = normal(0, *SHAPE)
    row = decoded(last, last)
    assert row.verdict == "equal" and row.allowed == max(2e-6, 16 * EPSILON)
    clamped = decoded(np.clip(last, -0.5, 0.75), last)
    assert clamped.cause == "the state is clamped to [-0.5, 0.75]"
    assert decoded(last[:, :3], last[:, :3] * 2).verdict in ("differs", "not judged")


@pytest.mark.parametrize("factor", [0.18215, 0.5])
def test_faults_of_two_numbers_of_latents(factor):
    kind = SimpleNamespace(scales=lambda config: (factor, 0.25))
    model = SimpleNamespace(config=SimpleNamespace(vae=None))
    context = SimpleNamespace(latent_scale=SimpleNamespace(kind=kind), model=model)
    x = normal(0, *SHAPE)
    z = x / factor + 0.25
    found = dict(latents._scale_faults(context, x, 3.0 * x + 2.0))
    assert np.allclose(found["the scaling factor is missing"], x + 0.25)
    assert np.allclose(
        found["multiplied by the scaling factor instead of divided"], x * factor + 0.25
    )
    assert np.allclose(found["the shift factor is missing"], z - 0.25)
    assert np.allclose(found["the shift factor is subtracted instead of added"], z - 0.5)
    assert np.allclose(found["shifted before the scaling"], (x + 0.25) / factor)
    assert np.allclose(found[f"scaling factor 0.13025 instead of {factor:g}"], x / 0.13025 + 0.25)
    words = f"latents = 3 x + 2 instead of {1 / factor:.5g} x + 0.25"
    assert np.allclose(found[words], 3.0 * x + 2.0)
    assert np.allclose(found["shift factor 2 instead of 0.25"], x / factor + 2.0)
    encoded = dict(images.scale_faults(context, x))
    assert np.allclose(encoded["the scaling factor is missing"], x / factor)
    assert np.allclose(
        encoded["divided by the scaling factor instead of multiplied"], x / factor**2
    )
    assert np.allclose(encoded["scale and shift are missing"], z)
    assert np.allclose(encoded["the shift factor is missing"], z * factor)
    assert np.allclose(
        encoded["the shift factor is added instead of subtracted"], (z + 0.25) * factor
    )
    assert np.allclose(encoded["shifted after the scaling"], z * factor - 0.25)


def test_without_a_shift_no_fault_of_a_shift_is_tried():
    for shift, number in ((0.0, 2), (0.25, 6)):
        kind = SimpleNamespace(scales=lambda config, shift=shift: (0.5, shift))
        model = SimpleNamespace(config=SimpleNamespace(vae=None))
        context = SimpleNamespace(latent_scale=SimpleNamespace(kind=kind), model=model)
        found = dict(images.scale_faults(context, normal(0, *SHAPE)))
        assert len(found) == number and all("scal" in text for text in [*found][:2])


def test_masks_without_what_they_follow_from_are_explained():
    """A small mask is compared with the mask, and nothing else is known."""
    white = np.zeros((1, 1, 4, 4))
    white[..., :2, 1:] = 1.0
    arrays = {
        "input.mask": white,
        "input.masked_image": normal(0, 1, 3, 4, 4),
        "output.mask": white[:, :, ::2, ::2],
    }
    context = context_of({"inputs.000": {"input.prompt": np.ones(1)}, "mask.000": arrays})
    (row,) = images._judge_masks(context)
    assert (row.kind, row.verdict) == ("mask", "equal")
    entry = entry_of(context, "mask.000")
    assert context.ledger.has(entry, "mask", "output")
    reasons = {role: why for (_, _, role), why in context.ledger.reasons.items()}
    assert reasons == {
        "mask": "no mask of the request is known",
        "masked_image": "no image of the request is known",
    }
    assert not context.ledger.has(entry, "mask") and not context.ledger.has(entry, "masked_image")


def test_latents_of_a_masked_image_may_be_given():
    latents = normal(0, 1, 4, 4, 4)
    for got, verdict in ((latents, "equal"), (latents + 1.0, "differs")):
        calls = {
            "inputs.000": {"input.masked_image_latents": latents},
            "mask.000": {"input.masked_image": got, "output.latents": got},
        }
        context = context_of(calls)
        rows = [*images._judge_masks(context), *images.judge_prepared(context)]
        kinds = [(row.kind, row.verdict) for row in rows]
        assert kinds == [("masked image", verdict), ("encoded latents", verdict)]
        assert not [*context.ledger.rest([entry_of(context, "mask.000")])]


def test_lines_through_points():
    x = normal(0, 3, 4)
    assert latents._fit_line(x, 2.0 * x - 1.0) == pytest.approx((2.0, -1.0))
    assert all(map(math.isnan, latents._fit_line(x, x * np.nan)))
    assert all(map(math.isnan, latents._fit_line(x * np.nan, x)))


def test_variants_end_with_the_first_that_fits():
    got = np.array([1.0, -2.0])

    def names(error):
        near = got + np.array([error, 0.0])
        listed = [("far", got + 1.0), ("near", near), ("late", got)]
        return [text for text, _ in latents._first_that_fits(listed, got)]

    assert names(1.9e-5) == ["far", "near"]
    assert names(-1.9e-5) == ["far", "near"]
    assert names(2.1e-5) == ["far", "near", "late"]


def test_images_that_are_turned():
    square, wide = normal(0, 1, 2, 3, 3), normal(0, 1, 2, 3, 4)
    assert np.array_equal(latents._turned(square), np.einsum("ncij->ncji", square))
    assert latents._turned(wide) is wide


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


@pytest.mark.parametrize("factor", [0.18215, 0.13025, 0.3611, 1.5305])
def test_factors_of_published_autoencoders_are_named(factor):
    """Of Stable Diffusion 1, XL and 3, and of Flux; the model's own is another one."""
    kind = SimpleNamespace(scales=lambda config: (0.5, 0.0))
    model = SimpleNamespace(config=SimpleNamespace(vae=None))
    context = SimpleNamespace(latent_scale=SimpleNamespace(kind=kind), model=model)
    x = normal(0, *SHAPE)
    found = dict(latents._scale_faults(context, x, x))
    np.testing.assert_allclose(found[f"scaling factor {factor:g} instead of 0.5"], x / factor)
    np.testing.assert_allclose(found["scaling factor 1 instead of 0.5"], x)


@pytest.mark.parametrize(("share", "near"), [(-0.99, True), (0.99, True), (1.01, False)])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_state_of_a_standard_deviation(share, near, scale):
    """That of n normal numbers has itself a standard deviation of 1 / sqrt(2 n)."""
    state = np.resize([1.0, -1.0], SHAPE)
    size = scale * (1.0 + share * latents.DEVIATIONS / math.sqrt(2.0 * state.size))
    assert latents._is_close(size * state, scale) == near


@pytest.mark.parametrize(("logvar", "used"), [(19.5, 19.5), (25.0, 20.0), (-35.0, -30.0)])
def test_the_variance_of_an_encoder_has_limits(logvar, used):
    """As in diffusers: ln of the variance is from -30 to 20."""
    mean = normal(0, 1, 4, 32, 32)
    context = context_of({})
    factor = context.normalize(np.ones(mean.shape)) - context.normalize(np.zeros(mean.shape))
    sigma = 1e-9
    deviation = np.hypot(sigma, factor * math.exp(0.5 * used))
    for wrong, verdict in ((1.0, "equal"), (1.3, "differs")):
        calls = {
            "vae.encode.000": {"output.mean": mean, "output.logvar": np.full(mean.shape, logvar)},
            "sampler.000": {
                "input.x": context.normalize(mean) + wrong * deviation * normal(1, *mean.shape),
                "input.sigma": np.array(sigma),
            },
        }
        run = context_of(calls, params={"rng": "torch"})
        entry = entry_of(run, "sampler.000")
        (row,) = latents._judge_noised(run, entry, run.read(entry, "x"))
        assert (row.kind, row.verdict) == ("initial noise", verdict)


def test_a_decoder_that_lacks_its_latents_leaves_the_others():
    """Images of a batch may be decoded one by one, each from its part of the last state."""
    last = normal(0, 2, 4, 8, 8)
    own = context_of({})
    right = own.denormalize(last)

    def rows_of(*decoded, state=last):
        calls = {"sampler.000": {"output": state}}
        for i, x in enumerate(decoded):
            calls[f"vae.decode.00{i}"] = {"output": last} if x is None else {"input.latents": x}
        rows = [*latents._judge_decoder(context_of(calls))]
        assert all(row.kind == "latents" for row in rows)
        return [(row.call, row.verdict) for row in rows]

    first, second = "vae.decode.000", "vae.decode.001"
    assert rows_of(right[:1], right[1:]) == [(first, "equal"), (second, "equal")]
    assert rows_of(None, right) == [(second, "equal")]
    assert rows_of(right[:1], None, right[1:]) == [(first, "equal"), ("vae.decode.002", "equal")]
    assert rows_of(right[1:], right[:1]) == [(first, "differs"), (second, "differs")]
    assert rows_of(right[..., :4], right) == [(first, "not judged"), (second, "equal")]


@pytest.mark.parametrize(
    ("call", "name"), [("low_resolution", "image to enlarge"), ("cond_stage", "segmentation")]
)
def test_further_channels_of_other_modes(call, name):
    """Those of the last call, which the denoiser reads beside the latents."""
    x = normal(0, 1, 3, 8, 8)
    context = context_of({f"{call}.000": {"output": 2.0 * x}, f"{call}.001": {"output": x}})
    ((found, channels),) = images.further_channels(context)
    assert found == name and np.array_equal(channels, x)


@pytest.mark.parametrize(("dtype", "allowed"), [("float32", 2e-6), ("float16", 16.0 * 2.0**-10)])
def test_a_tiny_decoder_reads_the_last_state(dtype, allowed):
    last = normal(0, *SHAPE)
    (role, *_) = latents.first_roles_of(context_of({}), "taesd.decode") or ("latents",)

    def rows_of(*states):
        calls = {"sampler.000": {"output": last}}
        calls |= {f"taesd.decode.00{i}": {f"input.{role}": x} for i, x in enumerate(states)}
        return [*latents._judge_tiny_decoder(context_of(calls, dtype=dtype))]

    moved = last.copy()
    for factor, verdict in ((0.99, "equal"), (1.01, "differs")):
        moved.flat[0] = last.flat[0] + factor * allowed * np.abs(last).max()
        rows = rows_of(last[..., :4], moved)
        assert [(row.call, row.kind, row.verdict) for row in rows] == [
            ("taesd.decode.001", "latents", verdict)
        ]
        assert rows[0].segment == "from the last step to the tiny decoder"
