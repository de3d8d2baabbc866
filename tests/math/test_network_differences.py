"""docs/math/differences.md, "Networks": each number, by the lines of other programs."""

import math

import numpy as np

import ldmref
from ldmref import math as lm
from ldmref.differences import read_differences
from ldmref.families.flux.presets import make_presets
from ldmref.families.joint_controls import BlockResiduals
from ldmref.families.sd3.controlnet import (
    IMAGE_KINDS,
    MMDiTControlConfig,
    place_residuals,
    scale_image,
)
from ldmref.families.sd3.presets import make_presets as make_sd3_presets
from ldmref.models.family import find_family
from ldmref.models.t5 import t5
from ldmref.models.transformer_layers import find_angles, turn
from ldmref.samplers.flow_spacings import flow_levels


def round_to_bfloat16(x):
    """Round to eight significant bits, ties to even."""
    mantissa, exponent = np.frexp(np.asarray(x, np.float64))
    return np.ldexp(np.rint(mantissa * 256), exponent - 8)


def embedding_of_flux(t, dim, time_factor=1000.0):
    """black-forest-labs/flux, src/flux/modules/layers.py, `timestep_embedding`."""
    half = dim // 2
    freqs = np.exp(-math.log(10000) * np.arange(half) / half)
    args = (time_factor * t)[:, None] * freqs[None]
    return np.concatenate([np.cos(args), np.sin(args)], axis=-1)


def test_the_time_of_flux_is_multiplied_inside():
    sigma = np.array([0.5, 0.013])
    want = lm.timestep_embedding(1000 * sigma, 32)
    np.testing.assert_allclose(embedding_of_flux(sigma, 32), want, rtol=0, atol=1e-9)
    twice = embedding_of_flux(1000 * sigma, 32)
    np.testing.assert_allclose(twice, lm.timestep_embedding(1e6 * sigma, 32), rtol=0, atol=1e-6)
    assert abs(twice - want).max() > 1


def test_timesteps_of_flux_in_bfloat16():
    """`t_vec` has the type of the image, and is multiplied by 1000 in it."""
    scheduler = make_presets()["flux-dev"].scheduler
    sigmas = flow_levels(scheduler, "flow", 28, tokens=(1024 // 16) ** 2)[:28]
    rounded = round_to_bfloat16(1000 * round_to_bfloat16(sigmas))
    off = abs(rounded - 1000 * sigmas)
    assert (off > 1e-3).sum() == 27 and round(off.max(), 1) == 3.5
    large = rounded[(rounded >= 512) & (rounded < 1024)]
    assert (large % 4 == 0).all()


def test_padding_of_t5_is_attended():
    """The states of a prompt's own tokens change with the padding, unless a mask hides it."""
    model = ldmref.random_model("flux-tiny", backend="numpy")
    encoder = model.config.text_encoders[1]
    ids = np.array([[5, 7, 9, 3, 1]])
    params = model.params["text_encoder_2"]
    padded = np.concatenate([ids, np.zeros((1, 507), int)], axis=1)
    assert padded.shape == (1, 512)
    alone, among = (t5(model.backend, params, encoder, x)[:, :5] for x in (ids, padded))
    assert abs(alone - among).max() > 0.01
    mask = (np.arange(512) < 5)[None].astype(np.float32)
    masked = t5(model.backend, params, encoder, padded, mask=mask)[:, :5]
    np.testing.assert_allclose(masked, alone, rtol=0, atol=1e-5 * abs(alone).max())


def test_layouts_of_rotary_positions():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 6, 8))
    angles = find_angles(np.arange(6.0)[:, None], (8,))

    def rotate_halves(x):
        first, second = np.split(x, 2, axis=-1)
        turned = np.concatenate([-second, first], axis=-1)
        cos, sin = (np.concatenate([wave(angles)] * 2, axis=-1) for wave in (np.cos, np.sin))
        return x * cos + turned * sin

    def scores(turn, q, k):
        return turn(q) @ turn(k).swapaxes(-1, -2)

    def neighbours(x):
        return turn(x, angles)

    order = [0, 4, 1, 5, 2, 6, 3, 7]
    want = scores(rotate_halves, q, k)
    np.testing.assert_allclose(scores(neighbours, q[..., order], k[..., order]), want, atol=1e-12)
    assert abs(scores(neighbours, q, k) - want).max() > 0.1


def test_dit_guides_three_of_four_channels():
    """facebookresearch/DiT, models.py, `forward_with_cfg`."""
    cond, uncond = np.random.default_rng(1).standard_normal((2, 1, 4, 2, 2))
    scale = 4.0
    guided = uncond[:, :3] + scale * (cond[:, :3] - uncond[:, :3])
    theirs = np.concatenate([guided, cond[:, 3:]], axis=1)
    ours = lm.classifier_free_guidance(uncond, cond, scale)
    np.testing.assert_allclose(theirs[:, :3], ours[:, :3], rtol=1e-12)
    np.testing.assert_allclose((ours - uncond)[:, 3], scale * (theirs - uncond)[:, 3], rtol=1e-12)


def test_scales_that_mean_off():
    """Tongyi-MAI/Z-Image, src/zimage/pipeline.py, and diffusers' pipeline_z_image.py."""
    cond, uncond = np.random.default_rng(2).standard_normal((2, 5))

    def z_image(w, guides):
        return cond + w * (cond - uncond) if guides(w) else cond

    authors, diffusers = (z_image(0.5, guides) for guides in (lambda w: w > 1, lambda w: w > 0))
    assert np.array_equal(authors, lm.classifier_free_guidance(uncond, cond, 1.0))
    np.testing.assert_allclose(
        diffusers, lm.classifier_free_guidance(uncond, cond, 1.5), rtol=1e-12
    )


def test_times_of_qwen_image_21_in_bfloat16():
    """diffusers' pipeline_qwenimage21.py, `t.to(latents.dtype)`, then `timestep / 1000`."""
    scheduler = find_family("qwen-image-2.1").presets["qwen-image-2.1"].scheduler
    sigmas = flow_levels(scheduler, "flow", 40, tokens=4096)[:40]
    once = 1000 * round_to_bfloat16(sigmas)
    twice = 1000 * round_to_bfloat16(round_to_bfloat16(1000 * sigmas) / 1000)
    off = [f"{abs(t - 1000 * sigmas).max():.1f}" for t in (twice, once)]
    [row] = [row for row in read_differences() if "times_of_qwen_image_21" in row.test]
    assert f"up to {off[0]} of 1000, {off[1]} if rounded once" in row.number


def test_norms_of_z_image_in_bfloat16():
    """Tongyi-MAI/Z-Image, src/zimage/transformer.py, `RMSNorm`."""
    x = round_to_bfloat16(np.random.default_rng(3).standard_normal((512, 3840)))
    square = x * x
    mean = round_to_bfloat16(round_to_bfloat16(square).mean(-1))  # torch adds in float32
    theirs = round_to_bfloat16(1 / np.sqrt(round_to_bfloat16(mean + 1e-5)))
    ours = 1 / np.sqrt(square.mean(-1) + 1e-5)
    off = abs(theirs / ours - 1).max()
    [row] = [row for row in read_differences() if "norms_of_z_image" in row.test]
    assert f"up to {100 * off:.2f} %" in row.number


def test_the_image_of_the_canny_net_of_sd35():
    """Stability-AI/sd3.5, sd3_infer.py, `vae_encode`; ComfyUI, controlnet.py and sd.py."""
    net = MMDiTControlConfig(joint_attention_dim=0)
    a = np.array([0.0, 1.0])
    read = {kind: scale_image(net, 2 * a - 1, i) for i, kind in enumerate(IMAGE_KINDS)}
    assert read["canny"].tolist() == (a * 255 * 0.5 + 0.5).tolist() == [0.5, 128.0]
    assert read["blur"].tolist() == read["depth"].tolist() == [-1.0, 1.0]

    def of_comfyui(preprocess):
        return 2.0 * preprocess(a) - 1.0  # VAE.process_input

    assert of_comfyui(lambda a: a * 255 * 0.5 + 0.5).tolist() == [0.0, 255.0]
    assert of_comfyui(lambda a: 1.0 - a).tolist() == (1 - 2 * a).tolist()


def test_residuals_of_stability_follow_every_block():
    """Stability-AI/sd3.5, mmditx.py, `forward_core_with_concat`."""
    blocks, residuals = 38, 19
    added = [i // (blocks // residuals) for i in range(blocks)]
    config = make_sd3_presets()["sd35-large"]
    own = place_residuals(
        config, MMDiTControlConfig(), BlockResiduals(tuple(range(residuals)))
    ).blocks
    assert added == [*own] and len(added) == config.denoiser.num_layers == blocks
    control = find_family("sd3").control
    assert len(control.inputs(config).blocks) == blocks - 1  # those that the transformer takes


def test_noise_of_flux3_by_tokens_and_by_channels():
    """flux3-mlx's pipeline.py, `randn((h * w, 128), seed)`, against (128, h, w)."""
    height = width = 1024 // 16
    drawn = np.arange(128 * height * width)
    theirs = drawn.reshape(height * width, 128)[0]
    ours = drawn.reshape(128, height, width)[:, 0, 0]
    assert theirs.tolist() == list(range(128))
    (step,) = {*np.diff(ours).tolist()}
    [row] = [row for row in read_differences() if "noise_of_flux3" in row.test]
    assert f"first {len(theirs)} numbers there, and every {step}th here" in row.number


def test_bytes_that_are_cut():
    """flux3-mlx's pipeline.py, `to_pil`, after the makers' `((x + 1) * 127.5).to(uint8)`."""
    pixels = np.linspace(-1.0, 1.0, 100_001)
    cut = ((pixels + 1.0) * 127.5).astype(np.uint8).astype(int)
    rounded = np.round((pixels + 1.0) * 127.5).astype(int)
    lower = rounded - cut
    assert {*lower.tolist()} == {0, 1}
    [row] = [row for row in read_differences() if "bytes_that_are_cut" in row.test]
    assert f"1 lower, {lower.mean():.1f} on average" in row.number
