"""The three networks: equal on every backend, gradients everywhere, parity with peers."""

from functools import cache

import numpy as np
import pytest

from ldmref.backends import get_backend
from ldmref.backends.traced import TracedBackend
from ldmref.models import autoencoder, params, text, unet
from ldmref.models.config import AutoencoderConfig, TextConfig
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.presets import preset

TINY = preset("tiny")
RNG = np.random.default_rng(11)


def random_params(spec, seed=0):
    """Like `params.init`, but with norms and biases that are not one and zero."""
    rng = np.random.default_rng(seed)

    def draw(x):
        return x + 0.1 * rng.standard_normal(x.shape) if x.ndim == 1 else x.astype(np.float64)

    return params.tree_map(draw, params.init(spec, seed))


def run_unet(ops, p):
    t = ops.asarray(np.array([3.0, 987.0]), ops.state_dtype)
    return unet.unet(ops, p, TINY.unet, ops.asarray(LATENTS), t, ops.asarray(CONTEXT))


LATENTS = RNG.standard_normal((2, 4, 8, 8))
CONTEXT = RNG.standard_normal((2, 5, 32))
IMAGE = RNG.uniform(-1.0, 1.0, (2, 3, 16, 16))
IDS = RNG.integers(0, 512, (2, 16))

NETWORKS = {
    "unet": (unet.unet_spec(TINY.unet), run_unet),
    "encode": (
        autoencoder.autoencoder_spec(TINY.vae),
        lambda ops, p: ops.xp.concat(
            autoencoder.encode(ops, p, TINY.vae, ops.asarray(IMAGE)), axis=1
        ),
    ),
    "decode": (
        autoencoder.autoencoder_spec(TINY.vae),
        lambda ops, p: autoencoder.decode(ops, p, TINY.vae, ops.asarray(LATENTS)),
    ),
    "text": (
        text.text_spec(TINY.text_encoder),
        lambda ops, p: text.text_encoder(ops, p, TINY.text_encoder, ops.asarray(IDS)),
    ),
}


def difference(a, b):
    """Return the largest difference over the largest value."""
    assert a.shape == b.shape
    return np.max(np.abs(a.astype(float) - b)) / np.max(np.abs(b))


def run(name, ops):
    spec, network = NETWORKS[name]
    with ops.inference():
        return ops.to_numpy(network(ops, params.tree_map(ops.weight, random_params(spec))))


@cache
def exact(name):
    """Return the output and the trace of the float64 reference."""
    ops = TracedBackend(get_backend("numpy", dtype="float64"))
    return run(name, ops), tuple(ops.records)


TYPES_AND_SPEEDS = [("float64", None), ("float32", "exact"), ("float32", None)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("dtype", "speed"), TYPES_AND_SPEEDS)
def test_numpy_and_torch_agree_side_by_side(rounding_bound, name, dtype, speed):
    pytest.importorskip("torch")
    numpy, torch = (
        get_backend(backend, dtype=dtype, speed=speed) for backend in ("numpy", "torch")
    )
    bound = 2 * rounding_bound(exact(name)[1], dtype)  # both err
    assert difference(run(name, torch), run(name, numpy)) < bound


@pytest.mark.gpu
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numpy_and_cupy_agree_on_a_real_gpu(rounding_bound, gpu_dtype_backend, name, dtype):
    cupy = gpu_dtype_backend(dtype)
    numpy = get_backend("numpy", dtype=dtype)
    bound = 2 * rounding_bound(exact(name)[1], dtype)
    assert difference(run(name, cupy), run(name, numpy)) < bound


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("speed", ["exact", None])
@pytest.mark.parametrize("name", NETWORKS)
def test_float32_is_near_float64(rounding_bound, name, backend, speed):
    if backend == "torch":
        pytest.importorskip("torch")
    short = run(name, get_backend(backend, speed=speed))
    (long, records) = exact(name)
    assert short.dtype == np.float32
    assert difference(short, long) < rounding_bound(records, "float32")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("backend", "dtype"), [("numpy", "float16"), ("torch", "bfloat16")])
def test_short_dtypes_stay_short_and_sensible(rounding_bound, name, backend, dtype):
    if backend == "torch":
        pytest.importorskip("torch")
    ops = get_backend(backend, dtype=dtype)
    spec, network = NETWORKS[name]
    y = network(ops, params.tree_map(ops.asarray, random_params(spec)))
    assert str(y.dtype).endswith(dtype)
    want, records = exact(name)
    assert difference(ops.to_numpy(y), want) < rounding_bound(records, dtype)


# -- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_reach_every_parameter_and_are_right(rounding_bound, name):
    """Autograd's gradient against a central difference along a random direction."""
    pytest.importorskip("torch")
    ops = get_backend("torch", dtype="float64")
    spec, network = NETWORKS[name]
    flat = {k: ops.asarray(x) for k, x in params.flatten(random_params(spec)).items()}
    leaves = {k: x.requires_grad_() for k, x in flat.items()}

    def loss(parameters):
        y = network(ops, params.unflatten(parameters))
        return (y * ops.asarray(np.random.default_rng(5).standard_normal(tuple(y.shape)))).sum()

    loss(leaves).backward()
    elsewhere = {"encode": ("decoder.", "post_quant_conv."), "decode": ("encoder.", "quant_conv.")}
    reached = {k for k, x in leaves.items() if x.grad is not None and bool((x.grad != 0).any())}
    expected = {k for k in leaves if not k.startswith(elsewhere.get(name, ("-",)))}
    # A key's bias adds one number to all scores of a query. The softmax ignores it: gradient 0.
    keys_bias = {k for k in expected if k.endswith(("to_k.bias", "k_proj.bias"))}
    assert expected - keys_bias <= reached <= expected

    rng = np.random.default_rng(6)
    step = 1e-6
    direction = {k: ops.asarray(rng.standard_normal(tuple(x.shape))) for k, x in leaves.items()}
    slope = sum(
        float((x.grad * direction[k]).sum()) for k, x in leaves.items() if x.grad is not None
    )

    def central_difference(h):
        up, down = (loss({k: x + s * direction[k] for k, x in leaves.items()}) for s in (h, -h))
        return float(up - down) / (2 * h)

    with ops.inference():
        once = central_difference(step)
        twice = central_difference(2 * step)
    # The truncation error is a multiple of step^2, so the one of `once` is a third of the
    # difference; below that remain the two losses' roundings, divided by 2 step.
    rounding = rounding_bound(exact(name)[1], "float64") * np.abs(exact(name)[0]).sum() / step
    error = abs(twice - once) + rounding
    assert error < 1e-4 * abs(slope)  # sharp enough to mean something
    assert abs(slope - once) < error


# -- parity with diffusers and transformers -------------------------------------------------------

UNETS = {
    "tiny": TINY.unet,
    "all levels attend": UNetConfig(
        sample_size=8, block_out_channels=(16, 32), attention_levels=(True, True),
        num_heads=(2, 4), cross_attention_dim=32, norm_num_groups=8, use_linear_projection=True,
        transformer_layers_per_block=(2, 2), in_channels=9,
    ),
    "like sd15": UNetConfig(
        sample_size=8, block_out_channels=(8, 16, 24, 24), num_heads=(2, 2, 2, 2),
        cross_attention_dim=32, norm_num_groups=4, norm_eps=1e-3,
    ),
    "pooled text": UNetConfig(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1,
        attention_levels=(True, True), num_heads=(2, 4), cross_attention_dim=32,
        norm_num_groups=8, class_embed_type="simple_projection",
    ),
    "one level": UNetConfig(
        sample_size=8, block_out_channels=(16,), layers_per_block=1, attention_levels=(False,),
        num_heads=(4,), cross_attention_dim=32, norm_num_groups=8,
    ),
}  # fmt: skip


def theirs(model, p):
    """Return `model` in float64 with our parameters; the names are the same by design."""
    torch = pytest.importorskip("torch")
    state = {k: torch.from_numpy(np.array(x, np.float64)) for k, x in params.flatten(p).items()}
    model = model.double().eval()
    model.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("size", [(8, 16), (9, 15), (5, 13)])
@pytest.mark.parametrize("name", UNETS)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_unet_equals_diffusers(rounding_bound, name, backend, size):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    c = UNETS[name]
    kinds = ["CrossAttn" if attends else "" for attends in c.attention_levels]
    model = diffusers.UNet2DConditionModel(
        sample_size=c.sample_size,
        in_channels=c.in_channels,
        out_channels=c.out_channels,
        block_out_channels=c.block_out_channels,
        layers_per_block=c.layers_per_block,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in kinds[::-1]),
        attention_head_dim=c.num_heads,  # the number of heads, in spite of its name
        transformer_layers_per_block=c.transformer_layers_per_block,
        cross_attention_dim=c.cross_attention_dim,
        use_linear_projection=c.use_linear_projection,
        norm_num_groups=c.norm_num_groups,
        norm_eps=c.norm_eps,
        class_embed_type=c.class_embed_type or None,
        projection_class_embeddings_input_dim=32,
        flip_sin_to_cos=True,
        freq_shift=0,
    )
    p = random_params(unet.unet_spec(c))
    rng = np.random.default_rng(3)
    x = rng.standard_normal((2, c.in_channels, *size))
    context = rng.standard_normal((2, 7, 32))
    t = np.array([0.0, 731.0])
    # diffusers embeds timesteps in float32 whatever the model's dtype; give it the float64 one
    model.time_proj = torch.nn.Identity()
    model.get_time_embed = lambda sample, timestep: torch.from_numpy(
        unet.timestep_embedding(t, c.block_out_channels[0])
    )
    labels = torch.from_numpy(context[:, -1]) if c.class_embed_type else None
    with torch.no_grad():
        inputs = map(torch.from_numpy, (x, t, context))
        want = theirs(model, p)(*inputs, class_labels=labels).sample.numpy()
    ops = TracedBackend(get_backend(backend, dtype="float64"))
    with ops.inference():
        mine = params.tree_map(ops.asarray, p)
        got = unet.unet(ops, mine, c, *map(ops.asarray, (x, t, context)))
    assert difference(ops.to_numpy(got), want) < 2 * rounding_bound(ops.records, "float64")


def test_timestep_embedding_equals_diffusers():
    torch = pytest.importorskip("torch")
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = np.array([0.0, 1.0, 731.0, 999.0])
    theirs = embeddings.get_timestep_embedding(
        torch.from_numpy(t), 320, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    # theirs is computed in float32: an angle of 999 rad is off by up to 999 * 2^-23
    np.testing.assert_allclose(unet.timestep_embedding(t, 320), theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(
    "config",
    [
        TINY.vae,
        AutoencoderConfig(
            block_out_channels=(8, 8, 16), layers_per_block=2, latent_channels=3, norm_num_groups=4
        ),
    ],
)
def test_autoencoder_equals_diffusers(rounding_bound, config, backend):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    levels = len(config.block_out_channels)
    model = diffusers.AutoencoderKL(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        latent_channels=config.latent_channels,
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        norm_num_groups=config.norm_num_groups,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )
    p = random_params(autoencoder.autoencoder_spec(config))
    rng = np.random.default_rng(4)
    image = rng.uniform(-1.0, 1.0, (2, 3, 16, 24))
    z = rng.standard_normal((2, config.latent_channels, 4, 6))
    with torch.no_grad():
        model = theirs(model, p)
        posterior = model.encode(torch.from_numpy(image)).latent_dist
        want = model.decode(torch.from_numpy(z)).sample.numpy()
    ops = TracedBackend(get_backend(backend, dtype="float64"))
    with ops.inference():
        mine = params.tree_map(ops.asarray, p)
        mean, logvar = autoencoder.encode(ops, mine, config, ops.asarray(image))
        decoded = autoencoder.decode(ops, mine, config, ops.asarray(z))
    bound = 2 * rounding_bound(ops.records, "float64")  # both err
    assert difference(ops.to_numpy(mean), posterior.mean.numpy()) < bound
    assert difference(ops.to_numpy(logvar), posterior.logvar.numpy()) < bound
    assert difference(ops.to_numpy(decoded), want) < bound


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("skip", [0, 1])
def test_text_encoder_equals_transformers(rounding_bound, act, skip, backend):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = TextConfig(
        vocab_size=99,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=3,
        max_position_embeddings=12,
        hidden_act=act,
    )
    model = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=config.vocab_size,
            eos_token_id=98,
            bos_token_id=97,
            pad_token_id=98,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            hidden_act=act,
            layer_norm_eps=config.layer_norm_eps,
        )
    )
    p = random_params(text.text_spec(config))
    # transformers 5 leaves out the prefix "text_model." that all published checkpoints have
    inner = getattr(model, "text_model", model)
    inner = theirs(inner, p.text_model)
    ids = np.random.default_rng(5).integers(0, 99, (2, 9))
    with torch.no_grad():
        output = inner(torch.from_numpy(ids), output_hidden_states=True)
        want = inner.final_layer_norm(output.hidden_states[-1 - skip]).numpy()
        if skip == 0:
            assert difference(output.last_hidden_state.numpy(), want) == 0
    ops = TracedBackend(get_backend(backend, dtype="float64"))
    with ops.inference():
        mine = params.tree_map(ops.asarray, p)
        got = text.text_encoder(ops, mine, config, ops.asarray(ids), skip)
    assert difference(ops.to_numpy(got), want) < 2 * rounding_bound(ops.records, "float64")
