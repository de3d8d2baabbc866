"""Every network of a model goes through `Backend.compile`, by its documented contract."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.backends.arguments import fill, map_arrays, split_arrays
from ldmref.backends.numpy import NumpyBackend
from ldmref.models.control import ControlNet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.lazy_params import CompiledNetworks
from ldmref.models.model import LatentDiffusion, model_spec
from ldmref.models.params import init
from ldmref.models.presets import preset
from ldmref.models.taesd import TinyAutoencoder, TinyConfig, tiny_spec
from ldmref.models.unet import Residuals


class Watchful(NumpyBackend):
    """Runs only what is compiled, records it, and returns results that nobody may write to."""

    compiles = True

    def set_up(self):
        super().set_up()
        self.compiled = []
        self.called = []
        self.inside = False

    def compile(self, network, params):
        self.compiled.append(network.__name__)

        def run(*args, **kwargs):
            arrays, template = split_arrays(args, kwargs)
            hash(template)
            self.called.append(network.__name__)
            args, kwargs = fill(template, arrays)
            self.inside = True
            y = network(self, params, *args, **kwargs)
            self.inside = False

            def freeze(array):
                array.flags.writeable = False
                return array

            return map_arrays(freeze, y)

        return run

    def conv2d(self, *args, **kwargs):
        assert self.inside, "a network ran without being compiled"
        return super().conv2d(*args, **kwargs)

    def linear(self, *args, **kwargs):
        assert self.inside, "a network ran without being compiled"
        return super().linear(*args, **kwargs)

    def embedding(self, *args, **kwargs):
        assert self.inside, "a network ran without being compiled"
        return super().embedding(*args, **kwargs)


@pytest.fixture
def ops():
    return Watchful()


@pytest.fixture
def model(ops):
    return ldmref.random_model("tiny", backend=ops)


def numpy_model():
    return ldmref.random_model("tiny", backend="numpy", speed="exact")


def differences(a, b):
    a, b = (np.asarray(image[0], int) for image in (a, b))
    return int(np.abs(a - b).max())


def test_text_to_image(model, ops):
    image = modes.txt2img(model, "a cat", seed=1, steps=3)
    assert ops.compiled == ["text_encoder", "unet", "decode"]
    assert ops.called.count("unet") == 3 and ops.called.count("decode") == 1
    assert differences(image, modes.txt2img(numpy_model(), "a cat", seed=1, steps=3)) == 0


def test_encoder_and_decoder_share_parameters_and_nothing_else(model, ops):
    image = np.linspace(-1, 1, 3 * 16 * 16, dtype=np.float32).reshape(1, 3, 16, 16)
    latents = model.encode_image(image)
    decoded = model.decode(latents)
    again = model.encode_posterior(image)[0]
    assert ops.compiled == ["encode", "decode"] and ops.called == ["encode", "decode", "encode"]
    np.testing.assert_array_equal(again, latents)
    np.testing.assert_array_equal(decoded, numpy_model().decode(latents))


def test_two_text_encoders_one_with_pooled_output(ops):
    tiny = preset("tiny")
    second = replace(tiny.text_encoder, projection_dim=24, hidden_size=16)
    unet = replace(
        tiny.unet,
        cross_attention_dim=32 + 16,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 48,
    )
    config = replace(tiny, denoiser=unet, text_encoder_2=second)
    tokenizer = ldmref.random_model("tiny").tokenizer
    params = init(model_spec(config))
    model = LatentDiffusion(ops, config, params, tokenizer)
    plain = LatentDiffusion(NumpyBackend(), config, params, tokenizer)
    image = modes.txt2img(model, "a cat", seed=1, steps=2)
    assert ops.compiled == ["text_encoder", "text_encoder_pooled", "unet", "decode"]
    assert differences(image, modes.txt2img(plain, "a cat", seed=1, steps=2)) == 0


def test_tiles_with_immutable_results(model, ops):
    latents = np.random.default_rng(0).standard_normal((1, 4, 16, 12)).astype(np.float32)
    got = model.decode(latents, tile=16)
    assert ops.called.count("decode") > 1
    np.testing.assert_array_equal(got, numpy_model().decode(latents, tile=16))


def test_controlnet_is_compiled_at_the_first_use(ops):
    config = ControlNetConfig(preset("tiny").unet, conditioning_embedding_out_channels=(8, 16))
    params = init(controlnet_spec(config))
    net = ControlNet(ops, config, params)
    assert ops.compiled == []
    rng = np.random.default_rng(0)
    hint = net.encode_hint(rng.random((1, 3, 16, 16), np.float32))
    x = rng.standard_normal((1, 4, 8, 8), np.float32)
    states = rng.standard_normal((1, 7, config.unet.cross_attention_dim), np.float32)
    for _ in range(2):
        residuals = net.residuals(x, np.asarray([10.0], np.float32), states, hint)
    assert ops.compiled == ["encode_hint", "controlnet"] and isinstance(residuals, Residuals)
    again = pickle.loads(pickle.dumps(net))
    assert again.backend.compiled == []
    plain = ControlNet(NumpyBackend(), config, params)
    ones = np.ones((1, 3, 16, 16), np.float32)
    np.testing.assert_array_equal(again.encode_hint(ones), plain.encode_hint(ones))


def test_the_tiny_autoencoder_is_compiled_at_the_first_use(ops):
    config = TinyConfig(encoder_channels=8, decoder_channels=8)
    tiny = TinyAutoencoder(ops, config, init(tiny_spec(config)))
    assert ops.compiled == []
    latents = tiny.encode(np.zeros((1, 3, 32, 32), np.float32))
    image = tiny.decode(latents)
    tiny.decode(latents)
    assert ops.compiled == ["tiny_encode", "tiny_decode"] and image.shape == (1, 3, 32, 32)
    other = Watchful()
    moved = pickle.loads(pickle.dumps(tiny)).with_backend(other)
    np.testing.assert_array_equal(moved.decode(latents), image)
    assert other.compiled == ["tiny_decode"] and len(ops.compiled) == 2


def test_static_options_of_the_unet_go_through_compile(model, ops):
    x = np.zeros((1, 4, 8, 8), np.float32)
    states = np.ones((1, 7, 32), np.float32)
    plain = model.unet(x + 1, np.asarray([3.0]), states)
    other = model.unet(x + 1, np.asarray([3.0]), states, identity_attention=["mid", "up"])
    assert ops.compiled == ["unet"] * 2 and ops.called == ["unet"] * 2
    model.unet(x, np.asarray([3.0]), states, identity_attention=["down"])
    assert ops.compiled == ["unet"] * 2  # the parts are static arguments
    assert not np.array_equal(plain, other)


def test_copies_and_pickles_of_a_model_compile_again(model):
    modes.txt2img(model, "a cat", seed=1, steps=1)
    assert len(model._compiled._entries) == 3
    for other in (copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert len(other._compiled._entries) == 0
        assert len(model._compiled._entries) == 3
    model._compiled.forget("unet")
    assert [name for name, _ in model._compiled._entries] == ["text_encoder", "vae"]


def test_other_parameters_or_another_backend_compile_again():
    ops, other = Watchful(), Watchful()
    params, changed = ({"weight": np.ones(1)} for _ in range(2))

    def network(ops, p, x):
        return p["weight"] * x

    networks = CompiledNetworks()
    first = networks.get(ops, network, params)
    assert networks.get(ops, network, params) is first
    assert networks.get(ops, network, changed) is not first
    assert networks.get(other, network, changed)(3.0) == 3.0
    assert len(ops.compiled) == 2 and len(other.compiled) == 1
