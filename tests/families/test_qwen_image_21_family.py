"""Qwen-Image 2.1: images of diffusers, and every tool of ldmref, by its name alone."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import CorruptModelError, UsageError
from ldmref.explore.attention import AttentionBackend
from ldmref.families.qwen3.presets import QWEN3_SIZES
from ldmref.families.qwen3.prompts import USER
from ldmref.families.qwen_image_21 import transformer_spec
from ldmref.families.qwen_image_21.files import convert_transformer_config, list_tensors, recognise
from ldmref.families.qwen_image_21.text import CHAT
from ldmref.io.images.metadata import encode_png, read_parameters
from ldmref.models import flatten, preset
from ldmref.models.validate import config_from_dict
from ldmref.modes.record import replay, upgrade_record
from ldmref.prompts.prompt_words import PromptWord
from ldmref.samplers import SAMPLERS, make_schedule

pytest.importorskip("diffusers")
pytest.importorskip("transformers")
import torch
from family_tools import (
    check_commands,
    check_modes,
    check_native_folder,
    check_server,
)
from qwen_image_21_pipelines import FLOW, TURBO_TIMES, make_pipeline, make_processor

PROMPTS = ["a red cat", "the blue house of a dog on a table, painted by an assistant", ""]
NEGATIVE = "the blue house"


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


def over_white(image):
    """Return an image of diffusers, (h, w, 4) in [0, 1], over white."""
    return image[..., :3] * image[..., 3:] + 1.0 - image[..., 3:]


def generate(pipe, prompts, seed, scale, steps=3, **options):
    """Return diffusers' images of prompts in one batch, in [0, 1]."""
    options = {
        "height": 64,
        "width": 96,
        "num_inference_steps": steps,
        "output_type": "np",
    } | options
    if scale > 1:
        options |= {"true_cfg_scale": scale, "negative_prompt": [NEGATIVE] * len(prompts)}
    seeded = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    return [over_white(x) for x in pipe([*prompts], generator=seeded, **options).images]


@pytest.mark.parametrize("backend", ["numpy", "torch", "onnx", "openvino"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_images_are_those_of_diffusers(pipe, folder, backend, scale):
    """The prompts have unequal lengths, one is empty; one runs alone as well."""
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    model = ldmref.load(folder, backend=backend)
    options = {"negative_prompt": NEGATIVE} if scale > 1 else {}
    options |= {
        "seed": 5,
        "rng": "torch",
        "steps": 3,
        "cfg_scale": scale,
        "width": 96,
        "height": 64,
    }
    for prompts in (PROMPTS, PROMPTS[:1]):
        found = modes.txt2img(model, [*prompts], **options).images
        for image, want in zip(found, generate(pipe, prompts, 5, scale), strict=True):
            assert np.abs(np.asarray(image).astype(int) - np.round(want * 255)).max() <= 1


def test_an_image_of_a_batch_is_replayed_from_its_file(folder, tmp_path):
    """Bit for bit, although another prompt of the batch moved it."""
    model = ldmref.load(folder, dtype="float32")
    options = {"seed": [5, 6, 7], "steps": 2, "cfg_scale": 3.0, "width": 64, "height": 32}
    options |= {"negative_prompt": [*PROMPTS[::-1]], "rng": "torch"}
    batch = modes.txt2img(model, [*PROMPTS], **options)
    moved = modes.txt2img(model, PROMPTS[0], rng="torch", seed=5, steps=2, width=64, height=32)
    assert "longest_prompt" not in moved.params
    for i, image in enumerate(batch):
        (tmp_path / f"{i}.png").write_bytes(encode_png(image, batch.params_of(i)))
        record = read_parameters(tmp_path / f"{i}.png")["ldmref"]
        again = modes.txt2img(model, **replay(upgrade_record(record), {}))
        assert np.array_equal(again.latents, batch.latents[i : i + 1])
        assert np.array_equal(np.asarray(again.images[0]), np.asarray(image))
        assert again.params["longest_prompt"] == record["longest_prompt"]
        shorter = replay(record, {"longest_prompt": None, "longest_negative_prompt": None})
        other = modes.txt2img(model, **shorter)
        assert np.array_equal(other.latents, again.latents) == (i == 1)  # it is the longest


def test_the_longest_prompt_of_other_models_is_refused(folder):
    model = ldmref.load(folder, dtype="float32")
    with pytest.raises(UsageError, match="depends on the longest prompt"):
        modes.plan("txt2img", model, prompt="a cat", longest_prompt=20)


def test_another_prompt_moves_an_image_as_in_diffusers_alone(folder):
    """With `rng="torch"`, whatever the size of the batches; a warning says so."""
    model = ldmref.load(folder, dtype="float64")
    options = {"seed": 5, "steps": 2, "cfg_scale": 3.0, "negative_prompt": NEGATIVE}
    options |= {"width": 64, "height": 32}
    for rng in ("philox", "torch"):
        together = modes.txt2img(model, [*PROMPTS], rng=rng, **options)
        alone = modes.txt2img(model, PROMPTS[0], rng=rng, **options)
        moved = np.abs(together.latents[:1] - alone.latents).max() / np.abs(alone.latents).max()
        assert (moved > 1e-3) == (rng == "torch") and (moved < 1e-9 or rng == "torch")
        assert any("shorter prompts" in line for line in together.warnings) == (rng == "torch")
        assert not any("shorter prompts" in line for line in alone.warnings)
        one_by_one = modes.txt2img(model, [*PROMPTS], rng=rng, batch_size=1, **options)
        difference = np.abs(one_by_one.latents - together.latents).max()
        assert difference < 1e-9 * np.abs(together.latents).max()
    options["negative_prompt"] = [*PROMPTS[::-1]]
    same = modes.txt2img(model, [PROMPTS[0]] * 3, rng="torch", **options)
    assert any("shorter prompts" in line for line in same.warnings)


@pytest.mark.parametrize(("width", "height"), [(32, 32), (64, 160)])
def test_images_of_other_sizes(pipe, folder, width, height):
    size = {"width": width, "height": height}
    want = np.round(generate(pipe, PROMPTS[:1], 5, 1.0, **size)[0] * 255)
    found = modes.txt2img(ldmref.load(folder), PROMPTS[0], seed=5, rng="torch", steps=3, **size)
    assert np.abs(np.asarray(found.images[0]).astype(int) - want).max() <= 1


def test_a_batch_is_its_rows(folder):
    """In float64, to rounding: the longest prompt decides nothing."""
    model = ldmref.load(folder, backend="torch", dtype="float64")
    options = {"steps": 2, "cfg_scale": 3.0, "negative_prompt": NEGATIVE, "width": 64, "height": 32}
    together = modes.txt2img(model, [*PROMPTS], seed=3, **options).latents
    for i, prompt in enumerate(PROMPTS):
        alone = modes.txt2img(model, prompt, seed=3 + i, **options).latents
        assert np.abs(together[i : i + 1] - alone).max() < 1e-6 * np.abs(alone).max()


def test_a_cache_changes_nothing(folder):
    """Keys and values of the text are kept over a run; a recorded run computes them each time."""
    model = ldmref.load(folder, dtype="float64")
    options = {"steps": 3, "seed": 1, "width": 64, "height": 32}
    kept = modes.txt2img(model, PROMPTS[0], **options).latents
    with ldmref.recording(model):
        whole = modes.txt2img(model, PROMPTS[0], **options).latents
    assert np.abs(kept - whole).max() < 1e-12 * np.abs(whole).max()


def test_flow_times_of_turbo_are_never_shifted(tmp_path):
    """Whatever the scheduler says, in which diffusers would shift them."""
    for scheduler in ({"shift": 1.0}, FLOW):
        make_pipeline(TURBO_TIMES, scheduler).save_pretrained(tmp_path / "turbo")
        config = ldmref.load(tmp_path / "turbo").config
        assert config.defaults.steps == 8 and config.defaults.cfg_scale == 1.0
        found = make_schedule(config.scheduler, SAMPLERS["euler"], None, 8, tokens=4096)
        assert found.sigmas.tolist() == [*TURBO_TIMES, 0.0]
        assert np.abs(found.timesteps - 1000.0 * np.asarray(TURBO_TIMES)).max() < 1e-9


def test_images_of_turbo_are_those_of_diffusers(tmp_path):
    turbo = make_pipeline(TURBO_TIMES)
    turbo.save_pretrained(tmp_path / "turbo")
    want = np.round(generate(turbo, PROMPTS[:1], 5, 1.0)[0] * 255)  # it ignores the number of steps
    model = ldmref.load(tmp_path / "turbo")
    found = modes.txt2img(model, PROMPTS[0], seed=5, rng="torch", width=96, height=64)
    assert np.abs(np.asarray(found.images[0]).astype(int) - want).max() <= 1


def test_published_sizes():
    """7,115,124,736 parameters in 297 tensors, after Qwen3-VL-8B."""
    config = preset("qwen-image-2.1")
    spec = flatten(transformer_spec(config.denoiser))
    assert sum(np.prod(shape) for shape in spec.values()) == 7_115_124_736
    assert len(spec) == 297
    assert config.denoiser == convert_transformer_config({})
    text = config.text_encoder
    assert replace(text, hidden_layers=(-1,), final_norm=True) == QWEN3_SIZES["qwen3-vl-8b"]
    assert text.rope_theta == 5e6 and not text.final_norm
    assert config.count_tokens(1024, 1024) == 4096 and config.size_multiple == 32


@pytest.mark.parametrize(
    ("side", "mu"), [(512, 0.53871), (768, 0.60323), (1024, 0.69355), (2048, 1.31290)]
)
def test_the_shift_grows_with_the_image(side, mu):
    """And the levels end at 0.02, before 0."""
    scheduler = preset("qwen-image-2.1").scheduler
    tokens = preset("qwen-image-2.1").count_tokens(side, side)
    sigmas = make_schedule(scheduler, SAMPLERS["euler"], None, 40, tokens=tokens).sigmas
    t = np.linspace(1.0, 1 / 40, 40)
    shifted = np.exp(mu) * t / (1.0 + (np.exp(mu) - 1.0) * t)
    want = 1.0 - (1.0 - shifted) * 0.98 / (1.0 - shifted[-1])
    assert np.abs(sigmas[:-1] - want).max() < 1e-5
    assert abs(sigmas[-2] - 0.02) < 1e-15 and sigmas[-1] == 0.0


def test_the_prompt_is_read_in_a_chat_of_which_14_tokens_are_dropped():
    from ldmref.models.text_kind import kind_of

    theirs = make_processor()
    text = preset("qwen-image-2.1-tiny").text_encoder
    source = theirs.backend_tokenizer.to_str()
    system = CHAT.before.removesuffix(USER)
    assert len(theirs(system).input_ids) == CHAT.dropped == 14
    assert system != CHAT.before and CHAT.prepare_text("") == " "
    assert json.loads(source)["model"]["type"] == "BPE" and kind_of(text).any_length


def test_tokens_are_those_of_diffusers(pipe, folder):
    tokenizer = ldmref.load(folder).tokenizer
    for prompt in PROMPTS:
        want = pipe.processor(pipe.prompt_template_t2i.format(prompt or " ")).input_ids
        found = tokenizer.tokenize([prompt])
        assert found.ids[0, 0, : len(want)].tolist() == want
        assert int(found.mask.sum()) == len(want) and found.dropped == 14


def test_every_mode(folder):
    check_modes(folder, {"width": 64, "height": 32})


def test_img2img_begins_at_the_latents_of_the_image(pipe, folder):
    """Those that diffusers' pipeline makes of an opaque image, and noise, at the flow time."""
    model = ldmref.load(folder, dtype="float64")
    image = modes.txt2img(model, "a red cat", seed=1, steps=1, width=64, height=32).images[0]
    pixels = torch.tensor(np.asarray(image), dtype=torch.float64).permute(2, 0, 1) / 127.5 - 1.0
    opaque = torch.cat([pixels, torch.ones_like(pixels[:1])])[None, :, None].float()
    with torch.no_grad():
        want = pipe._encode_vae_image(opaque, None)[:, :, 0].numpy()
    found = np.asarray(model.encode_image(pixels[None].numpy()))
    assert np.abs(found - want).max() < 1e-4 * np.abs(want).max()


def test_maps_of_words(folder):
    """The image attends to words by the keys of the text in front of its own, also behind padding.

    The maps are those of the weights that are computed from the queries and keys of each block.
    """
    model = ldmref.load(folder, dtype="float64")
    words = [PromptWord("first", (0,)), PromptWord("others", (1, 2))]
    ops = AttentionBackend(model, words)
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 6))
    context = np.random.default_rng(1).standard_normal((1, 5, 20))
    ops.watch((4, 6))
    network = ops.compile(model.denoiser.function, model.params["transformer"])
    network(model.config.denoiser, x, np.asarray([500.0]), context)
    maps = ops.take(["cond"])
    assert [found.layer for found in maps] == [f"transformer_blocks.{i}.attn" for i in range(2)]
    for found in maps:
        assert found.weights.shape == (24, 2) and (found.weights > 0).all()
        assert found.weights.sum(axis=1).max() < 1


def test_sides_are_multiples_of_32(folder):
    with pytest.raises(UsageError, match="width"):
        modes.txt2img(ldmref.load(folder), "a red cat", width=48, height=32)


def test_folders_of_ldmref(tmp_path, folder):
    check_native_folder(folder, tmp_path / "native", side=32)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_single_files_are_recognised(prefix):
    config = preset("qwen-image-2.1")
    shapes = {entry.name: entry.stored_shape for entry in list_tensors(config, prefix).values()}
    assert recognise(shapes, prefix) == config
    smaller = replace(config.denoiser, num_layers=2)
    shapes = {
        entry.name: entry.stored_shape
        for entry in list_tensors(replace(config, denoiser=smaller), prefix).values()
    }
    assert recognise(shapes, prefix).denoiser == smaller
    assert recognise({f"{prefix}img_in.weight": (8, 4)}, prefix) is None
    shapes[f"{prefix}transformer_blocks.0.attn.norm_q.weight"] = (64,)
    assert recognise(shapes, prefix) is None


@pytest.mark.parametrize(
    ("part", "changes", "words"),
    [
        ("denoiser", {"axes_dims_rope": (4, 4, 6)}, "axes_dims_rope must be even and add up"),
        ("denoiser", {"axes_dims_rope": (5, 5, 2)}, "axes_dims_rope must be even and add up"),
        ("denoiser", {"in_channels": 9}, "out_channels must equal in_channels"),
        ("denoiser", {"context_in_dim": 40}, "context_in_dim must be the width"),
        ("text_encoder", {"use_attention_mask": False}, "must not attend to padding"),
        ("scheduler", {"flow_times": (0.5, 0.9)}, "flow_times must decrease"),
        ("scheduler", {"flow_times": (1.0, 0.0)}, "flow_times must decrease"),
    ],
)
def test_what_does_not_fit_is_refused(part, changes, words):
    config = preset("qwen-image-2.1-tiny")
    data = replace(config, **{part: replace(getattr(config, part), **changes)}).to_dict()
    with pytest.raises(CorruptModelError, match=words):
        config_from_dict(data)


def test_commands_know_the_family(folder):
    check_commands(folder, "qwen-image-2.1-turbo", "qwen-image-2.1", "num_layers 2")


def test_the_server_offers_what_the_model_can(folder):
    check_server(folder, multiple=32)
