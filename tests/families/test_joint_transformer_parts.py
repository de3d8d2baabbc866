"""What transformers of image and text share: layers, declarations, small versions and counts."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.families import joint_controls, joint_transformers
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.unet import TOKENS
from ldmref.models import preset
from ldmref.models.autoencoder_config import AutoencoderConfig
from ldmref.models.declared import BATCH, HEIGHT, WIDTH, CallSize, NetworkInput, TextAttention
from ldmref.models.params import flatten, unflatten
from ldmref.models.specs import linear_spec
from ldmref.models.steering import Steerable
from ldmref.models.text_config import TextConfig
from ldmref.ports.arguments import first_layers_of, names_of
from ldmref.samplers.config import SchedulerConfig

OPS = get_backend("numpy", dtype="float64")
HALF = get_backend("numpy", dtype="float16")


def draw(shapes, seed=0):
    """Return parameters of these shapes, by name."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape) for name, shape in shapes.items()}


def silu(x):
    return x / (1.0 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def waves_of(numbers, width):
    """Return cosines, then sines, of numbers over a range of frequencies from 1 to 1/10000."""
    half = width // 2
    angles = np.asarray(numbers, np.float64)[:, None] * 10000.0 ** (-np.arange(half) / half)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1)


def apply_mlp(flat, name, x):
    """Apply the two layers of an MLP."""
    one, two = (flat[f"{name}.linear_{i}.weight"] for i in (1, 2))
    biases = (flat[f"{name}.linear_{i}.bias"] for i in (1, 2))
    first, second = biases
    return silu(x @ one.T + first) @ two.T + second


# -- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("guided", [False, True])
def test_time_guidance_and_text_are_added(guided):
    flat = draw(flatten(joint_transformers.embedding_spec(6, 5, guided)))
    assert ("guidance_embedder.linear_1.weight" in flat) == guided
    t, guidance = np.array([0.0, 400.0]), np.array([3500.0, 1000.0])
    pooled = np.random.default_rng(1).standard_normal((2, 5))
    want = apply_mlp(flat, "timestep_embedder", waves_of(t, 256))
    want = want + apply_mlp(flat, "text_embedder", pooled)
    p = unflatten(flat)
    np.testing.assert_allclose(joint_transformers.embed(OPS, p, t, pooled), want, rtol=1e-9)
    if guided:
        want = want + apply_mlp(flat, "guidance_embedder", waves_of(guidance, 256))
    found = joint_transformers.embed(OPS, p, t, pooled, guidance)
    np.testing.assert_allclose(found, want, rtol=1e-9)


def test_whole_times_become_floating_numbers():
    for given in (np.array([3, 900]), np.array([3, 900], np.int32)):
        found = joint_transformers.as_floating(OPS, given)
        assert found.dtype == np.float64 and found.tolist() == [3.0, 900.0]
    floating = np.array([0.5], np.float32)
    assert joint_transformers.as_floating(OPS, floating) is floating
    np.testing.assert_allclose(
        joint_transformers.find_sines(OPS, np.array([3, 900]), 8), waves_of([3, 900], 8), atol=1e-12
    )


def test_sines_are_computed_under_the_name_of_diffusers(monkeypatch):
    ops = get_backend("numpy", dtype="float64")
    called = []
    call = ops.call_function

    def record(name, *given, **options):
        called.append(name)
        return call(name, *given, **options)

    monkeypatch.setattr(ops, "call_function", record)
    joint_transformers.find_sines(ops, np.array([3.0]), 8)
    assert called == ["time_proj"]


def test_sines_are_rounded_to_the_type_of_the_text():
    flat = draw(flatten({"time": {"linear_1": linear_spec(4, 3), "linear_2": linear_spec(3, 3)}}))
    p = unflatten({name.removeprefix("time."): x.astype("f2") for name, x in flat.items()})
    like = np.zeros(1, np.float16)
    found = joint_transformers.embed_numbers(HALF, p, np.array([5]), 4, like)
    assert found.dtype == np.float16
    np.testing.assert_allclose(
        found, apply_mlp(flat, "time", waves_of([5], 4)), rtol=0.02, atol=0.02
    )


def test_a_norm_without_weights_has_a_small_number_below_the_root():
    x = 1e-3 * np.random.default_rng(2).standard_normal((2, 3, 4))
    centred = x - x.mean(-1, keepdims=True)
    want = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(joint_transformers.normalize(OPS, x), want, rtol=1e-9)
    one = joint_transformers.normalize(OPS, x[:1, :1])
    np.testing.assert_allclose(one, want[:1, :1], rtol=1e-9)


def test_the_feed_forward_layer_is_scaled_shifted_and_gated():
    spec = joint_transformers.feed_forward_spec(3)
    assert flatten(spec) == {
        "net.0.proj.weight": (12, 3),
        "net.0.proj.bias": (12,),
        "net.2.weight": (3, 12),
        "net.2.bias": (3,),
    }
    flat = draw(flatten(spec), 3)
    x = np.random.default_rng(4).standard_normal((2, 5, 3))

    def forward(h):
        inner = gelu(h @ flat["net.0.proj.weight"].T + flat["net.0.proj.bias"])
        return inner @ flat["net.2.weight"].T + flat["net.2.bias"]

    p = unflatten(flat)
    np.testing.assert_allclose(joint_transformers.feed_forward(OPS, p, x), forward(x), rtol=1e-9)
    shift, scale, gate = np.random.default_rng(5).standard_normal((3, 2, 1, 3))
    normal = joint_transformers.normalize(OPS, x)
    found = joint_transformers.gated_feed_forward(OPS, p, x, shift, scale, gate)
    np.testing.assert_allclose(found, gate * forward(normal * (1 + scale) + shift), rtol=1e-9)


# -- declarations ---------------------------------------------------------------------------------


def predict(ops, p, config, x, t, context=None, mask=None):
    """Stand for a transformer."""


def shapes_of(config):
    return {"proj": linear_spec(config.in_channels, 2)}


def test_inputs_have_names_sizes_and_contents():
    latents = joint_transformers.latents_input(5)
    assert (latents.argument, latents.role, latents.content) == ("x", "sample", "normal")
    assert latents.shape == (BATCH, 5, HEIGHT, WIDTH)
    time = joint_transformers.TIME
    assert (time.argument, time.role, time.content) == ("t", "timestep", "timesteps")
    assert time.shape == (CallSize("timesteps"),)
    text = joint_transformers.text_input(7)
    assert (text.argument, text.role) == ("context", "encoder_hidden_states")
    assert text.shape == (BATCH, TOKENS, 7)
    guidance, mask = joint_transformers.GUIDANCE, joint_transformers.MASK
    assert (guidance.argument, guidance.role, guidance.shape, guidance.content) == (
        "guidance",
        "guidance",
        (BATCH,),
        "guidance",
    )
    assert (mask.argument, mask.role, mask.shape, mask.content) == (
        "mask",
        "encoder_attention_mask",
        (BATCH, TOKENS),
        "mask",
    )


def test_inputs_of_a_network_with_pooled_text():
    config = SimpleNamespace(in_channels=4, joint_attention_dim=6, pooled_projection_dim=9)
    latents, time, text, pooled = joint_transformers.list_inputs(config)
    assert latents == joint_transformers.latents_input(4)
    assert time == joint_transformers.TIME
    assert text == joint_transformers.text_input(6)
    assert (pooled.argument, pooled.role) == ("pooled", "pooled_projections")
    assert pooled.shape == (BATCH, 9)


@pytest.mark.parametrize(
    ("preset", "argument", "names", "layers"),
    [
        ("flux-tiny", "pooled", ("y", "pooled"), ("text_embedder", "text_embedder.linear_1")),
        ("sd3-tiny", "context", ("context", "txt"), ("context_embedder",)),
        ("flux2-tiny", "x", ("input", "0", "x", "img", "hidden_states"), ()),
        ("flux2-tiny", "context", ("context", "ctx", "txt"), ("context_embedder",)),
        ("z-image-tiny", "context", ("context", "cap_feats"), ()),
        ("krea-2-tiny", "t", ("t", "timesteps"), ("time_proj",)),
        ("qwen-image-2.1-tiny", "mask", ("attention_mask", "mask"), ()),
    ],
)
def test_other_programs_have_more_names(preset, argument, names, layers):
    network = ldmref.random_model(preset).denoiser
    x = network.input_of(argument)
    assert names_of(network, x)[1:] == names
    assert first_layers_of(network, x) == tuple((layer, "input") for layer in layers)


def test_names_that_a_declaration_of_an_earlier_version_says_are_known():
    with pytest.warns(DeprecationWarning, match=r"NetworkInput\(also=\) is declared by"):
        x = NetworkInput("x", "sample", (BATCH, 1), also=("mine",))
    with pytest.warns(DeprecationWarning, match="layers"):
        x = replace(x, layers=(("first", "input"),))
    network = replace(ldmref.random_model("flux-tiny").denoiser, inputs=(x,))
    assert names_of(network, x)[-1] == "mine"
    assert first_layers_of(network, x) == (("first", "input"),)


def test_a_transformer_is_declared_with_its_configuration():
    config = preset("z-image-tiny").denoiser
    attention = TextAttention((".attn",), ("image", "text"))
    steerable = Steerable(blocks="layers")
    inputs = [joint_transformers.latents_input(4), joint_transformers.TIME]
    optional = [joint_transformers.MASK]

    def spec():
        return shapes_of(config)

    made = joint_transformers.declare_transformer(
        config,
        predict,
        spec,
        inputs,
        text_attention=attention,
        steerable=steerable,
        description="a network",
        optional=tuple(optional),
    )
    assert (made.name, made.params, made.exported) == ("transformer",) * 3
    assert made.description == "a network" and made.numbered
    assert made.function is predict and made.spec is spec
    assert made.settings == {"config": config}
    assert made.inputs == tuple(inputs) and made.optional == tuple(optional)
    assert made.outputs == (("", "out_sample"),)
    assert made.text_attention is attention and made.steerable is steerable
    bare = joint_transformers.declare_transformer(config, predict, spec, inputs)
    assert bare.text_attention is None and bare.steerable == Steerable() and bare.optional == ()


def test_networks_of_a_model_are_in_the_order_of_a_run():
    config = preset("sd3-tiny")
    attention = TextAttention((".attn",))
    inputs = [joint_transformers.latents_input(4), joint_transformers.TIME]
    made = joint_transformers.describe_model(
        config, predict, shapes_of, inputs, attention, description="a network"
    )
    assert [network.name for network in made] == [
        "text_encoder",
        "text_encoder_2",
        "text_encoder_3",
        "transformer",
        "vae.decode",
        "vae.encode",
    ]
    network = made[3]
    assert network.spec() == shapes_of(config.denoiser)
    assert network.settings["config"] is config.denoiser
    assert network.text_attention is attention and network.description == "a network"
    assert [x.settings["config"] for x in made[:3]] == [*config.text_encoders]
    assert made[4].settings["config"] is config.vae


# -- configurations -------------------------------------------------------------------------------


def test_configurations_that_families_share():
    assert joint_transformers.FLOW == SchedulerConfig(
        prediction_type="flow", sampler="euler", spacing="flow", final_sigma="zero"
    )
    vae = joint_transformers.AUTOENCODER
    assert vae == AutoencoderConfig(
        latent_channels=16, use_quant_conv=False, use_post_quant_conv=False
    )


@pytest.mark.parametrize(
    ("axes", "head", "broken"),
    [
        ((4, 4), 8, False),
        ((4, 4), 8.0, False),
        ((4, 4), 10, True),
        ((4, 4), 7, True),
        ((3, 5), 8, True),
        ((3, 4, 1), 8, True),
        ((2, 3), 5, True),
        ((2, 3), 6, True),
    ],
)
def test_axes_divide_a_head(axes, head, broken):
    found = [*joint_transformers.broken_axis_rules(axes, head)]
    assert len(found) == broken
    if broken:
        assert "axes_dims_rope" in found[0] and found[0].endswith("attention_head_dim")
        (named,) = joint_transformers.broken_axis_rules(axes, head, ("parts", "whole"))
        assert "transformer.parts" in named and named.endswith("whole")


def test_small_versions_of_models():
    config = preset("sd3-medium")
    text = joint_transformers.shrink_text(config.text_encoder, 12)
    small = joint_transformers.shrink_model(config, {"num_layers": 3}, text_encoder_2=text)
    defaults = replace(config.defaults, steps=4, width=16, height=16)
    vae = replace(
        config.vae,
        latent_channels=4,
        block_out_channels=(8, 12),
        layers_per_block=1,
        norm_num_groups=4,
    )
    assert small == replace(
        config,
        denoiser=replace(config.denoiser, num_layers=3),
        vae=vae,
        defaults=defaults,
        text_encoder_2=text,
    )
    own = preset("flux2-klein-4b")
    other = joint_transformers.shrink_model(own, {})
    assert other.vae.latent_channels == 16 and other.text_encoder == own.text_encoder


@pytest.mark.parametrize(("head", "projection"), [(0, 0), (64, 0), (0, 768), (64, 768)])
def test_small_versions_of_text_encoders(head, projection):
    text = TextConfig(head_dim=head, projection_dim=projection)
    assert joint_transformers.shrink_text(text, 12) == replace(
        text, vocab_size=512, hidden_size=12, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=16, head_dim=8 if head else 0,
        projection_dim=12 if projection else 0, eos_token_id=2,
    )  # fmt: skip


# -- counts ---------------------------------------------------------------------------------------


def test_tokens_of_image_and_text():
    config = preset("z-image-tiny")
    side = 2 * config.vae.factor
    length = config.text_encoder.max_position_embeddings
    assert joint_transformers.count_tokens(config, 3 * side, 5 * side) == (15, length)
    assert joint_transformers.count_tokens(config, side, side, 4) == (1, length - 4)


def test_operations_of_two_streams():
    """Each matrix multiplies the tokens of its stream, or one row."""
    network = SimpleNamespace(num_layers=2, num_single_layers=3, width=7)
    matrix = {"weight": (2, 3), "bias": (2,)}
    once, image, text, both = 1, 10, 4, 14

    def count(name, is_once=lambda name: False):
        spec = {}
        for part in reversed(name.split(".")):
            spec = {part: spec or matrix}
        return joint_transformers.count_two_stream_flops(network, spec, image, text, is_once)

    attention = 4 * 5 * both**2 * 7
    rows = {
        "x_embedder": image,
        "context_embedder": text,
        "transformer_blocks.0.attn.to_q": image,
        "transformer_blocks.0.attn.add_k_proj": text,
        "transformer_blocks.0.attn.to_add_out": text,
        "transformer_blocks.0.ff_context.net": text,
        "transformer_blocks.0.ff.net": image,
        "single_transformer_blocks.0.proj_mlp": both,
        "single_transformer_blocks.1.add_x": both,
        "x.context_embedder": image,
    }
    for name, number in rows.items():
        assert count(name) == attention + 2 * 6 * number, name
        assert count(name, lambda name: True) == attention + 2 * 6 * once
    assert count("x_embedder", lambda name: name == "x_embedder.weight") == attention + 12


# -- ControlNets ----------------------------------------------------------------------------------


def test_a_controlnet_is_declared_with_hint_and_residuals():
    net = SimpleNamespace(in_channels=4, joint_attention_dim=6, pooled_projection_dim=9)
    more = [joint_transformers.GUIDANCE]
    counts = BlockResiduals(range(2), range(1))

    def control(ops, p, config, x, t, context, pooled, hint, guidance=None):
        """Stand for a ControlNet."""

    made = joint_controls.declare_controlnet(net, control, dict, 5, counts, more)
    assert (made.name, made.params, made.exported) == ("controlnet",) * 3
    assert made.function is control and made.spec is dict and made.numbered
    assert made.settings == {"config": net}
    assert [x.argument for x in made.inputs] == ["x", "t", "context", "hint", "pooled", "guidance"]
    hint = made.inputs[3]
    assert hint.role == "hint"
    assert hint.shape == (BATCH, 5, HEIGHT, WIDTH)
    assert [tuple(x) for x in made.outputs] == [
        ("blocks.0", "controlnet_block_samples.0"),
        ("blocks.1", "controlnet_block_samples.1"),
        ("single_blocks.0", "controlnet_single_block_samples.0"),
    ]
    bare = SimpleNamespace(in_channels=4, joint_attention_dim=0, pooled_projection_dim=9)
    alone = joint_controls.declare_controlnet(bare, control, dict, 5, counts)
    assert [x.argument for x in alone.inputs] == ["x", "t", "hint", "pooled"]
    assert alone.settings == {"config": bare, "context": None}


def test_inputs_of_residuals():
    made = joint_controls.block_inputs(8, 2, 1)
    assert [x.argument for x in (*made.blocks, *made.single_blocks)] == ["control"] * 3
    assert [x.role for x in made.single_blocks] == ["control.single_blocks.0"]
    assert made.blocks[1].shape == (BATCH, CallSize("patches"), 8)
    assert made.blocks[1].exported == "controlnet_block_samples.1"


def test_depths_of_controlnets():
    ours = SimpleNamespace(layers=3)
    for layers, want in ((2, []), (3, []), (4, [("layers", 4, "3 or fewer")])):
        theirs = SimpleNamespace(layers=layers)
        assert [*joint_controls.compare_depth(ours, theirs, "layers")] == want
