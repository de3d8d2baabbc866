"""Reference images and control images that are encoded, on arrays that are built by hand."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from host_units import context_of, entry_of, model_of, normal

import ldmref
from ldmref.backends.numpy import NumpyBackend
from ldmref.locate.pipeline import hints
from ldmref.locate.pipeline.references import judge_references
from ldmref.models.family import find_family

MODEL = "flux2-tiny"
TOKENS = "reference_tokens"


@cache
def flux2():
    """Return a model whose latents are normalised by other numbers than 0 and 1."""
    model = ldmref.random_model(MODEL)
    bn = model.params["vae"]["bn"]
    n = len(bn["running_mean"])
    bn["running_mean"], bn["running_var"] = 0.3 * normal(8, n), 0.5 + np.arange(n) / n
    return model


def scale_of():
    return flux2().latent_scale(NumpyBackend(dtype="float64"))


def context_of_flux2(*values, **named):
    return replace(context_of(*values, MODEL, diffusers=False, **named), model=flux2())


def encoded(latents):
    """Return the arrays of references, made of latents by the family's own function."""
    of = iter(latents)
    model = SimpleNamespace(
        backend=NumpyBackend(dtype="float64"),
        config=flux2().config,
        encode_image=lambda image: next(of),
    )
    return flux2().family.references.encode(model, [None] * len(latents), (1, 1))


def means_of(count):
    channels = flux2().config.vae.latent_channels // 4
    return [normal(i, 1, channels, 8, 8) for i in range(count)]


def run_of(got, means, calls=1, rows=1, params=None):
    """Return the rows of runs of the denoiser, and why arrays of them were not compared."""
    arrays = {f"vae.encode.{i:03}": {"output.mean": z} for i, z in enumerate(means)}
    named = {f"input.{name}": np.concatenate([x] * rows) for name, x in got.items()}
    arrays |= {f"transformer.{i:03}": named for i in range(calls)}
    digests = {"references": ["x"] * len(means)}
    context = context_of_flux2(arrays, params=digests if params is None else params)
    found = [*judge_references(context)]
    seen = [context.coverage.has(entry, TOKENS) for entry in context.calls("transformer")]
    return found, seen, {*context.coverage.reasons.values()}


def test_references_are_the_normalised_latents_of_each_image_in_their_order():
    means = means_of(2)
    scale = scale_of()
    right = encoded([scale.normalize(z) for z in means])
    assert set(right) == {TOKENS, "reference_positions"}
    rows, seen, _ = run_of(right, means, calls=2)
    assert [row.verdict for row in rows] == ["equal", "equal"] and seen == [True, True]
    assert [row.call for row in rows] == ["transformer.000"] * 2  # the second reads the same
    rows, _, _ = run_of(right, means, rows=2)
    assert [row.verdict for row in rows] == ["equal", "equal"]
    faults = {
        "the latents are not normalised": [scale.fold(z) for z in means],
        "denormalised instead of normalised": [
            scale.kind.denormalize(scale.ops, scale.params, scale.config, scale.fold(z))
            for z in means
        ],
        "the references are in another order": [scale.normalize(z) for z in means[::-1]],
    }
    for cause, latents in faults.items():
        rows, seen, _ = run_of(
            encoded(latents) | {"reference_positions": right["reference_positions"]}, means
        )
        found = {row.kind: (row.verdict, row.cause) for row in rows}
        assert found["reference tokens"] == ("differs", cause) and seen == [True]
        assert found["reference positions"] == ("equal", "")


@pytest.mark.parametrize(("apart", "verdict"), [(0.9e-6, "equal"), (1.1e-6, "differs")])
def test_references_of_a_port_in_float64_may_be_encoded_in_less(apart, verdict):
    means = means_of(1)
    right = encoded([scale_of().normalize(z) for z in means])[TOKENS]
    got = right.copy()
    got.flat[5] += apart * np.abs(right).max()
    arrays = {"vae.encode.000": {"output.mean": means[0]},
              "transformer.000": {f"input.{TOKENS}": got}}  # fmt: skip
    context = context_of_flux2(arrays, dtype="float64", params={"references": ["x"]})
    assert [row.verdict for row in judge_references(context)] == [verdict]


def test_another_call_with_other_references_has_a_row():
    means = means_of(1)
    right = encoded([scale_of().normalize(z) for z in means])
    arrays = {"vae.encode.000": {"output.mean": means[0]}}
    for i, factor in enumerate((1.0, 1.0, 2.0)):
        arrays[f"transformer.{i:03}"] = {f"input.{TOKENS}": factor * right[TOKENS]}
    context = context_of_flux2(arrays, params={"references": ["x"]})
    found = [(row.call, row.verdict) for row in judge_references(context)]
    assert found == [("transformer.000", "equal"), ("transformer.002", "differs")]


def test_references_of_the_last_encoded_images():
    """The first image of a run that also has one to begin with is none of them."""
    means = means_of(3)
    right = encoded([scale_of().normalize(z) for z in means[1:]])
    rows, _, _ = run_of(right, means, params={"references": ["x", "y"]})
    assert [row.verdict for row in rows] == ["equal", "equal"]
    for params in ({"references": []}, {"references": "x"}, {}):
        rows, seen, why = run_of(right, means, params=params)
        assert rows == [] and seen == [False] and len(why) == 1


def test_references_whose_images_are_not_known_have_a_reason():
    means = means_of(2)
    right = encoded([scale_of().normalize(z) for z in means])
    for known in ([], means[:1]):  # of another number of tokens
        rows, seen, why = run_of(right, known, params={"references": ["x", "y"]})
        assert rows == [] and seen == [False] and len(why) == 1


def test_an_encoder_without_means_is_not_one_of_references():
    means = means_of(2)
    right = encoded([scale_of().normalize(z) for z in means[1:]])
    arrays = {
        "vae.encode.000": {"output.logvar": means[0]},
        "vae.encode.001": {"output.mean": means[1]},
        "transformer.000": {f"input.{TOKENS}": right[TOKENS]},
    }
    for params, count in (({"references": ["x"]}, 1), ({"references": ["x", "y"]}, 0)):
        context = context_of_flux2(arrays, params=params)
        assert len([*judge_references(context)]) == count


# -- hints that are latents -----------------------------------------------------------------------


def hint_run(
    got, model="flux-tiny", family="flux", logvar=None, count=1, call=0, config=None, **params
):
    """Return the row of a hint of a ControlNet that reads latents, or why it has none."""
    declared = find_family(family).control
    net = SimpleNamespace(declared=declared, config=config)
    channels = model_of(model).config.vae.latent_channels
    calls = {}
    for i in range(count):
        mean = {"output.mean": normal(i, 1, channels, 8, 8)}
        more = {} if logvar is None else {"output.logvar": np.full((1, channels, 8, 8), logvar)}
        calls[f"vae.encode.{i:03}"] = mean | more
    for i in range(call + 1):
        calls[f"controlnet.{i:03}"] = {"input.hint": got}
    controls = [{} for _ in range(count)]
    context = context_of(calls, model, diffusers=False, params={"control": controls} | params)
    context = replace(context, controlnets=(net,) * count)
    entry = entry_of(context, f"controlnet.{call:03}")
    rows = [*hints.judge_hint(context, entry)]
    assert context.coverage.has(entry, "hint") == bool(rows)
    return (rows[0].verdict, rows[0].cause) if rows else tuple({*context.coverage.reasons.values()})


def latents_of(model="flux-tiny", i=0):
    channels = model_of(model).config.vae.latent_channels
    z = normal(i, 1, channels, 8, 8)
    vae = model_of(model).config.vae
    return z, (z - vae.shift_factor) * vae.scaling_factor


def test_hints_of_latents_are_those_of_their_image():
    z, right = latents_of()
    vae = model_of("flux-tiny").config.vae
    assert hint_run(right) == ("equal", "")
    assert hint_run(np.concatenate([right, right])) == ("equal", "")
    assert hint_run(0.0 * right) == ("differs", "the latents of the control image are zero")
    assert hint_run(z - vae.shift_factor) == ("differs", "the scaling factor is missing")
    assert hint_run(right + 3.0)[0] == "differs"
    other = latents_of(i=1)[1]
    assert hint_run(right, count=2) == hint_run(other, count=2, call=1) == ("equal", "")
    swapped = ("differs", "the control image of another ControlNet")
    assert hint_run(other, count=2) == hint_run(right, count=2, call=1) == swapped
    for got in (right[..., :4], right[:, :1]):
        assert hint_run(got) == (
            "what the pipeline prepared of the control image was not recorded",
        )


@pytest.mark.parametrize("deviation", [0.5, 2.0])
def test_hints_may_be_drawn_from_the_distribution_of_latents(deviation):
    """diffusers' pipelines for Flux.1 sample the latents of the control image."""
    _, right = latents_of()
    vae = model_of("flux-tiny").config.vae
    noise = normal(7, *right.shape)
    noise = (noise - noise.mean()) / noise.std()
    logvar = 2.0 * np.log(deviation)
    drawn = right + deviation * vae.scaling_factor * noise
    assert hint_run(drawn, logvar=logvar, rng="torch") == ("equal", "")
    assert hint_run(right, logvar=logvar, rng="torch") == ("equal", "")  # its mean is as good
    wrong = right + 2.0 * deviation * vae.scaling_factor * noise
    assert hint_run(wrong, logvar=logvar, rng="torch")[0] == "differs"
    for more in ({"rng": "numpy"}, {}):  # ldmref's own runs take the mean
        assert hint_run(drawn, logvar=logvar, **more)[0] == "differs"
    assert hint_run(drawn, rng="torch")[0] == "differs"  # whose variance is not known


def test_hints_that_are_shifted_as_others_are():
    z, shifted = latents_of("sd3-tiny")
    vae = model_of("sd3-tiny").config.vae
    unshifted = z * vae.scaling_factor
    for zeros, right, wrong in ((True, unshifted, shifted), (False, shifted, unshifted)):
        config = SimpleNamespace(
            force_zeros_for_pooled_projection=zeros, extra_conditioning_channels=0
        )
        found = [hint_run(x, "sd3-tiny", "sd3", config=config) for x in (right, wrong)]
        assert found[0] == ("equal", "") and found[1][0] == "differs"
