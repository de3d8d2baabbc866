"""Every public method of a model takes NumPy arrays, on every backend."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest

import ldmref
from ldmref.errors import UsageError
from ldmref.models.conditioning import Conditioning
from ldmref.models.config import Defaults, TextConfig
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyAutoencoder, TinyConfig, tiny_spec
from ldmref.models.unet import Residuals
from ldmref.modes.classifier import LatentClassifier

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (2, 3, 16, 16))
LATENTS = RNG.standard_normal((2, 4, 8, 8))
TIME = np.array([3.0, 500.0])
WHOLE = np.array([3, 500])
STATES = RNG.standard_normal((2, 5, 32))
LABELS = RNG.integers(0, 3, (2, 16, 16))
TINY = preset("tiny")
NET = ControlNetConfig(TINY.unet, conditioning_embedding_out_channels=(4, 8))


def residuals(net):
    return net.residuals(LATENTS, TIME, STATES, net.encode_hint(IMAGES))


def host(ops, value):
    """Return arrays of a backend, or tuples of them, on the host."""
    if isinstance(value, tuple):
        return [part for one in value for part in host(ops, one)]
    return [ops.to_numpy(value)]


# By class and method: a call with NumPy arrays alone. A new public method belongs here or below.
CALLS = {
    (LatentDiffusion, "encode_image"): lambda m: m.encode_image(IMAGES, LATENTS),
    (LatentDiffusion, "encode_posterior"): lambda m: m.encode_posterior(IMAGES),
    (LatentDiffusion, "encode_unscaled"): lambda m: m.encode_unscaled(IMAGES),
    (LatentDiffusion, "decode"): lambda m: m.decode(LATENTS, tile=8),
    (LatentDiffusion, "unet"): lambda m: m.unet(LATENTS, TIME, Conditioning(STATES)),
    (LatentDiffusion, "predict"): lambda m: m.predict(LATENTS, TIME, Conditioning(STATES)),
    (LatentDiffusion, "predict_with_variance"): lambda m: m.predict_with_variance(
        LATENTS, WHOLE, STATES, m.control
    ),
    (LatentDiffusion, "encode_segmentation"): lambda m: m.encode_segmentation(LABELS),
    (TinyAutoencoder, "encode"): lambda m: m.encode(IMAGES),
    (TinyAutoencoder, "decode"): lambda m: m.decode(LATENTS),
    (ControlNet, "encode_hint"): lambda m: m.encode_hint(IMAGES),
    (ControlNet, "residuals"): residuals,
}
WITHOUT_ARRAYS = {
    (LatentDiffusion, name)
    for name in (
        "differentiable",
        "encode_prompts",
        "encode_text",
        "latent_scale",
        "latent_shape",
        "estimate_memory",
        "grow",
        "limit_memory",
        "tokenize",
        "with_embeddings",
        "with_backend",
        "with_params",
        "with_text_length",
        "with_warnings",
    )
} | {
    (TinyAutoencoder, "with_backend"),
    (ControlNet, "with_backend"),
    (ControlNet, "for_denoiser"),
}


def subject(kind, ops):
    """Return an object of a class on a backend, with the same random parameters on each."""
    if kind is TinyAutoencoder:
        config = TinyConfig(
            encoder_channels=8,
            decoder_channels=8,
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        )
        return TinyAutoencoder(ops, config, init(tiny_spec(config), 0))
    if kind is ControlNet:
        return ControlNet(ops, NET, init(controlnet_spec(NET), 0))
    mapped = dataclasses.replace(
        TINY,
        segmentation_classes=3,
        concat="segmentation",
        denoiser=dataclasses.replace(TINY.unet, in_channels=7, out_channels=4),
        text_encoder=TextConfig(model_type="none", num_hidden_layers=1),
        defaults=Defaults(2, 1.0, 16, 16),
    )
    params = init(model_spec(TINY)) | {"cond_stage": init(model_spec(mapped))["cond_stage"]}
    tokenizer = ldmref.random_model("tiny", backend="numpy").tokenizer
    model = LatentDiffusion(ops, TINY, params, tokenizer)
    model.config = dataclasses.replace(TINY, segmentation_classes=3)
    net = subject(ControlNet, ldmref.backends.get_backend("numpy", dtype="float64"))
    down, mid = residuals(net)
    model.control = Residuals(tuple(np.asarray(x) for x in down), np.asarray(mid))
    return model


def public_methods(kind):
    return {
        (kind, name)
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


@pytest.mark.parametrize("kind", [LatentDiffusion, TinyAutoencoder, ControlNet])
def test_every_public_method_is_called_below(kind):
    listed = {entry for entry in (*CALLS, *WITHOUT_ARRAYS) if entry[0] is kind}
    assert public_methods(kind) == listed


@pytest.mark.parametrize(("kind", "name"), CALLS, ids=lambda v: getattr(v, "__name__", v))
def test_numpy_arrays_are_taken_on_every_backend(ops, kind, name):
    """And give what they give on the reference."""
    from ldmref.backends import get_backend

    reference = get_backend("numpy", dtype="float64")
    want = host(reference, CALLS[kind, name](subject(kind, reference)))
    got = host(ops, CALLS[kind, name](subject(kind, ops)))
    rtol = 1e-9 if ops.dtype == "float64" else 1e-3
    for a, b in zip(got, want, strict=True):
        assert np.abs(a - b).max() <= rtol * max(1.0, np.abs(b).max())


@pytest.mark.parametrize(("kind", "name"), CALLS, ids=lambda v: getattr(v, "__name__", v))
def test_what_is_no_array_is_named(ops, kind, name, monkeypatch):
    for constant in ("IMAGES", "LATENTS", "LABELS", "TIME", "WHOLE", "STATES"):
        if constant not in CALLS[kind, name].__code__.co_names:
            continue
        model = subject(kind, ops)
        monkeypatch.setitem(globals(), constant, [[1.0]])
        with pytest.raises(UsageError, match="must be an array") as caught:
            CALLS[kind, name](model)
        assert caught.value.code == "E-ARRAY"
        monkeypatch.undo()


def test_the_classifier_takes_numpy_arrays_too():
    torch = pytest.importorskip("torch")
    from ldmref.models.classifier import ClassifierConfig, classifier_spec

    config = ClassifierConfig(4, (8, 16), 1, 8, ("cat", "dog"))
    ops = ldmref.backends.get_backend("torch", dtype="float64")
    params = init(classifier_spec(config), 0)
    from ldmref.models.params import tree_map

    guide = LatentClassifier(ops, config, tree_map(ops.asarray, params), TINY)
    for method in (lambda x: guide.log_probabilities(x, 1.0), lambda x: guide.gradient(x, 1.0, 0)):
        torch.testing.assert_close(method(LATENTS), method(torch.as_tensor(LATENTS)))
        with pytest.raises(UsageError):
            method([[1.0]])
