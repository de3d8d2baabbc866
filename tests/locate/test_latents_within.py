"""Autoencoders that scale latents within are right, and a wrong scale in them is found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy_ports import make_model, run_port

from ldmref.backends import get_backend
from ldmref.locate import diff_traces
from ldmref.models.autoencoder_kind import LatentScale
from ldmref.trace import build_trace

MODELS = ("flux-tiny", "flux2-tiny")  # scaled and shifted; folded and normalised
LATENTS = "vae.decode//input.latents"
NOTE = "latents scaled within the autoencoder"


def decoder(name: str, changed: Callable[[np.ndarray], np.ndarray] = lambda x: x):
    """Return a model, and what its decoder records that is given latents as the denoiser has them.

    Args:
        name: The model.
        changed: Changes the latents.
    """
    model = make_model(name)
    arrays = run_port(model, network="vae.decode")
    scale = LatentScale(get_backend("numpy"), model.config.vae, model.params["vae"])
    latents = np.asarray(scale.normalize(arrays[LATENTS].astype(float)))
    return model, {**arrays, LATENTS: changed(latents).astype(np.float32)}


def encoder(name: str, folded: bool = True):
    """Return a model, and what its encoder records that returns one array.

    Args:
        name: The model.
        folded: Whether it returns latents as the denoiser has them, instead of the mean.
    """
    model = make_model(name)
    arrays = run_port(model, network="encode")
    last = "quant_conv" if "vae.encode/quant_conv/output" in arrays else "encoder.conv_out"
    moments = arrays[f"vae.encode/{last}/output"].astype(float)
    mean = moments[:, : moments.shape[1] // 2]
    scale = LatentScale(get_backend("numpy"), model.config.vae, model.params["vae"])
    found = np.asarray(scale.normalize(mean)) if folded else mean
    return model, {**arrays, "vae.encode//output": found.astype(np.float32)}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("make", [decoder, encoder])
def test_latents_scaled_within_are_a_convention(name, make):
    model, arrays = make(name)
    report = diff_traces(build_trace(arrays), model)
    assert (report.verdict, [row.name for row in report.faults]) == ("equal", [])
    assert any(NOTE in note for note in report.notes)


@pytest.mark.parametrize("name", ["tiny", *MODELS])
def test_an_encoder_that_returns_the_mean_alone_has_no_log_variance(name):
    model, arrays = encoder(name, folded=False)
    report = diff_traces(build_trace(arrays), model)
    assert (report.verdict, [*report.faults]) == ("equal", [])
    assert not any(NOTE in note for note in report.notes)


@pytest.mark.parametrize("name", MODELS)
def test_another_scale_within_is_found_where_the_latents_are_read(name):
    model, arrays = decoder(name, lambda x: 1.01 * x)
    report = diff_traces(build_trace(arrays), model)
    assert report.verdict == "differs"
    first = "post_quant_conv" if name != "flux-tiny" else "decoder.conv_in"
    assert [row.layer for row in report.faults] == [first]


def test_a_decoder_that_is_given_unscaled_latents_keeps_its_terms():
    model = make_model("flux-tiny")
    report = diff_traces(build_trace(run_port(model, network="vae.decode")), model)
    assert report.verdict == "equal"
    assert not any(NOTE in note for note in report.notes)
