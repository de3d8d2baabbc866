"""Every network as a graph: ONNX Runtime and OpenVINO against the float64 reference.

A new release of either library is usable if this file passes: OpenVINO 2026.4 crashes on other
forms of the same networks.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ldmref.backends.arguments import map_arrays, split_arrays
from ldmref.backends.graph.compiled import describe_inputs, find_open_axes
from ldmref.backends.graph.onnx import make_model
from ldmref.backends.graph.tracer import trace
from ldmref.backends.numpy import NumpyBackend
from ldmref.families.unet import describe_unet
from ldmref.models import autoencoder, classifier, controlnet, taesd, text
from ldmref.models.params import init, tree_map
from ldmref.models.presets import PRESETS, preset
from ldmref.models.rescaler import rescaler, rescaler_spec
from ldmref.models.unet import unet, unet_spec
from ldmref.samplers import PartsPerturbed

pytest.importorskip("onnx")
RNG = np.random.default_rng(0)
TINY = preset("tiny").unet
TIMES = np.asarray([500.5, 3.0], np.float32)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


def unet_case(config, h=8, w=8):
    width = config.cross_attention_dim
    context = normal(2, 7, width) if config.attention != "self" and width else None
    more = ()
    if config.addition_embed_type:
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        more = normal(2, pooled), np.full((2, 6), 128.0, np.float32)
    args = (config, normal(2, config.in_channels, h, w), TIMES, context, *more)
    return unet, unet_spec(config), args


def shrink_unet(config):
    levels = min(len(config.block_out_channels), 3)
    return replace(
        config,
        block_out_channels=(16, 32, 32)[:levels],
        num_heads=(2,) * levels,
        layers_per_block=1,
        norm_num_groups=8,
        attention_levels=config.attention_levels[:levels],
        transformer_layers_per_block=(1,) * levels,
        cross_attention_dim=min(config.cross_attention_dim or 0, 32),
    )


def shrink_vae(config):
    levels = len(config.block_out_channels)
    widths = (8, 16, 16, 16, 16, 16)[:levels]
    return replace(config, block_out_channels=widths, norm_num_groups=4, layers_per_block=1)


def shrink_text(config):
    widths = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    projection = {"projection_dim": 16} if config.projection_dim else {}
    return replace(config, vocab_size=100, num_hidden_layers=2, **widths, **projection)


def make_cases():
    """Return network, spec and arguments by name; equal configurations of several presets once."""
    cases = {"unet": unet_case(TINY), "unet of 7 x 9 cells": unet_case(TINY, 7, 9)}
    for name, config in PRESETS.items():
        cases[f"unet as {name}"] = unet_case(shrink_unet(config.unet))
    seen = set()
    for name, config in PRESETS.items():
        vae = shrink_vae(config.vae)
        if vae not in seen:
            spec = autoencoder.autoencoder_spec(vae)
            latents = normal(2, vae.latent_channels, 8, 8)
            images = normal(1, vae.in_channels, 64, 64)
            cases[f"decoder as {name}"] = autoencoder.decode, spec, (vae, latents)
            cases[f"encoder as {name}"] = autoencoder.encode, spec, (vae, images)
        for encoder in config.text_encoders:
            small = shrink_text(encoder)
            if small in seen:
                continue
            length = 1 if small.model_type == "class" else min(16, small.max_position_embeddings)
            args = small, RNG.integers(0, 99, (2, length))
            key = f"text as {name}, {small.model_type}, {small.hidden_size}"
            cases[key] = text.text_encoder, text.text_spec(small), args
            if small.projection_dim:
                cases[f"pooled {key}"] = text.text_encoder_pooled, text.text_spec(small), args
            seen.add(small)
        seen.add(vae)
    return cases | controlnet_cases() | other_cases()


def controlnet_cases():
    config = controlnet.ControlNetConfig(TINY, conditioning_embedding_out_channels=(8, 16, 16))
    spec = controlnet.controlnet_spec(config)
    x = normal(2, 4, 8, 8)
    states = normal(2, 7, TINY.cross_attention_dim)
    features = normal(2, TINY.block_out_channels[0], 8, 8)
    args = (config, x, TIMES, states, features)
    residuals = controlnet.controlnet(NumpyBackend(), init(spec), *args)
    unet_args = (TINY, x, TIMES, states, None, None, residuals)
    return {
        "controlnet": (controlnet.controlnet, spec, args),
        "hint encoder": (controlnet.encode_hint, spec, (normal(2, 3, 32, 32),)),
        "unet with residuals": (unet, unet_spec(TINY), unet_args),
        "unet without self-attention": (perturbed_unet, unet_spec(TINY), unet_args),
    }


def perturbed_unet(*args):
    return describe_unet(TINY).steered(*args, steering=(PartsPerturbed(PartsPerturbed.ALL),))


def other_cases():
    tiny = taesd.TinyConfig(encoder_channels=16, decoder_channels=16)
    spec = taesd.tiny_spec(tiny)
    judge = classifier.ClassifierConfig(class_names=("a", "b"))
    judged = (judge, normal(2, 4, 8, 8), TIMES)
    semantic = next(config for config in PRESETS.values() if config.segmentation_classes)
    onehot = normal(1, semantic.segmentation_classes, 32, 32)
    return {
        "tiny decoder": (taesd.tiny_decode, spec, (normal(1, 4, 8, 8),)),
        "tiny encoder": (taesd.tiny_encode, spec, (normal(1, 3, 64, 64),)),
        "classifier": (classifier.classifier, classifier.classifier_spec(judge), judged),
        "rescaler": (rescaler, rescaler_spec(semantic), (onehot, 4)),
    }


CASES = make_cases()


def open_backend(name):
    library = {"onnx": "onnxruntime", "openvino": "openvino"}[name]
    pytest.importorskip(library)
    from ldmref.backends import get_backend

    return get_backend(name)


def compute_reference(network, params, args):
    """Return the results of the float64 reference, a list of arrays."""
    wide = map_arrays(lambda x: x.astype(float) if x.dtype.kind == "f" else x, args)
    exact = NumpyBackend(dtype="float64")
    y = network(exact, tree_map(lambda x: x.astype(float), params), *wide)
    return split_arrays((y,))[0]


def compare(got, want):
    """Check values relative to the largest; they are exact if the reference is infinite."""
    assert len(got) == len(want)
    for y, expected in zip(got, want, strict=True):
        assert y.shape == expected.shape and y.dtype == np.float32
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(y[~finite], expected[~finite])
        scale = np.abs(expected[finite]).max(initial=1e-30)
        assert np.abs(y[finite] - expected[finite]).max(initial=0.0) < 1e-5 * scale


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.parametrize("sizes", ["fixed", "open"])
@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("case", CASES)
def test_networks_agree_with_the_reference(case, name, sizes):
    network, spec, args = CASES[case]
    ops = open_backend(name)
    params = init(spec)
    arrays, template = split_arrays(args)
    axes = find_open_axes([x.shape for x in arrays]) if sizes == "open" else []
    graph = trace(network, params, template, describe_inputs(arrays, axes))
    compare(ops.build(graph)(arrays), compute_reference(network, params, args))


QUANTIZED = next(
    name
    for name, (network, _, args) in CASES.items()
    if network is autoencoder.decode and args[0].codebook_size
)


@pytest.mark.parametrize("case", ["unet of 7 x 9 cells", QUANTIZED, "controlnet"])
def test_one_open_graph_runs_every_size(case):
    """The graph of one size at another batch, height, width and length."""
    network, spec, args = CASES[case]
    params = init(spec)
    arrays, template = split_arrays(args)
    axes = find_open_axes([x.shape for x in arrays])
    graph = trace(network, params, template, describe_inputs(arrays, axes))

    def resized(x):
        if x.ndim == 1:
            return np.asarray([900.0, 3.0, 0.0], np.float32)
        return normal(3, x.shape[1], 12, 5) if x.ndim == 4 else normal(3, 11, x.shape[2])

    others = map_arrays(resized, args)
    given = [np.ascontiguousarray(x) for x in split_arrays(others)[0]]
    want = compute_reference(network, params, others)
    for name in ("onnx", "openvino"):
        compare(open_backend(name).build(graph)(given), want)


@pytest.mark.parametrize("sizes", ["fixed", "open"])
@pytest.mark.parametrize("case", CASES)
def test_models_are_valid(case, sizes):
    """For the checker and for strict inference of all shapes."""
    import onnx

    network, spec, args = CASES[case]
    arrays, template = split_arrays(args)
    axes = find_open_axes([x.shape for x in arrays]) if sizes == "open" else []
    graph = trace(network, init(spec), template, describe_inputs(arrays, axes))
    model = make_model(graph, "inputs")
    onnx.checker.check_model(model, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    for stated, found in zip(model.graph.output, inferred.graph.output, strict=True):
        sizes = [x.type.tensor_type.shape.dim for x in (stated, found)]
        assert stated.type.tensor_type.elem_type == found.type.tensor_type.elem_type
        for a, b in zip(*sizes, strict=True):
            assert a.dim_value == b.dim_value or not (a.dim_value and b.dim_value)


def test_every_kind_of_network_is_here():
    networks = {network.__name__ for network, _, _ in CASES.values()}
    assert networks == {
        "unet", "decode", "encode", "text_encoder", "text_encoder_pooled", "controlnet",
        "encode_hint", "tiny_decode", "tiny_encode", "classifier", "rescaler", "perturbed_unet",
    }  # fmt: skip
    shifts = [args[0].resnet_time_scale_shift for f, _, args in CASES.values() if f is unet]
    assert "scale_shift" in shifts
