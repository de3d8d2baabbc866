"""Whole images of the paper's models: diffusers' pipelines, or its networks where it has none."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
import torch
from ldm import CLASSES, NONE, Parts, pipeline
from PIL import Image
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import ImageError, UsageError
from ldmref.io.adapters.autoencoder import read_vae
from ldmref.io.compvis.keys import compvis_table
from ldmref.io.key_table import to_compvis
from ldmref.io.native import save_folder
from ldmref.io.single_file import recognise_file
from ldmref.io.tensors.safetensors import TensorFile
from ldmref.models.params import flatten, unflatten


def difference(a, b):
    return int(abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """kind -> (diffusers' pipeline, its folder)."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = (pipeline(kind), tmp_path_factory.mktemp("ldm") / kind)
            made[kind][0].save_pretrained(made[kind][1])
        return made[kind]

    return get


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 64, 3)).astype(np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("kind,side", [("unconditional", 16), ("churches", 16)])
def test_without_a_prompt(saved, kind, side, backend):
    theirs, folder = saved(kind)
    seed = torch.Generator("cpu").manual_seed(3)
    want = theirs(generator=seed, num_inference_steps=5).images[0]
    model = ldmref.load(folder, backend=backend)
    calls = []
    inner = model.predict
    model.predict = lambda x, *rest, **more: calls.append(x.shape[0]) or inner(x, *rest, **more)
    got = modes.txt2img(model, "", seed=3, steps=5, rng="torch")
    assert got.images[0].size == want.size == (side, side)
    assert np.asarray(want).std() > 10 and difference(got.images[0], want) <= 2
    assert calls == [1] * 5, "guidance is off"
    assert got.params["cfg_scale"] == 1.0 and not got.warnings


def test_super_resolution(saved, image):
    theirs, folder = saved("superres")
    seed = torch.Generator("cpu").manual_seed(3)
    want = theirs(image, generator=seed, num_inference_steps=5).images[0]
    got = modes.superres(ldmref.load(folder), image, seed=3, steps=5, rng="torch")
    assert got.images[0].size == want.size == (128, 64)
    assert np.asarray(want).std() > 10 and difference(got.images[0], want) <= 2
    assert got.params["mode"] == "superres" and got.params["width"] == 128


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_text2img(saved, scale):
    theirs, folder = saved("text2img")
    seed = torch.Generator("cpu").manual_seed(3)
    noise = torch.randn((1, 3, 2, 4), generator=seed)
    want = theirs(
        "red cat " * 30,
        height=16,
        width=32,
        num_inference_steps=5,
        guidance_scale=scale,
        latents=noise,
    ).images[0]
    model = ldmref.load(folder)
    # the pipeline takes every autoencoder for one of f = 8
    got = modes.txt2img(
        model, "red cat " * 30, latents=noise.numpy(), steps=5, cfg_scale=scale, width=8, height=4
    )
    assert difference(got.images[0], want) <= 2
    other = modes.txt2img(
        model, "blue", latents=noise.numpy(), steps=5, cfg_scale=scale, width=8, height=4
    )
    assert difference(got.images[0], other.images[0]) > 2


def same(got, want, white=...):
    """Latents and image (where `white`); the latents tell even where all codes are the same."""
    latents, image = want
    assert np.abs(got.latents - latents).max() < 2e-4 * np.abs(latents).max()
    assert difference(np.asarray(got.images[0])[white], image[white]) <= 2


@pytest.fixture
def noise():
    return np.random.default_rng(5).standard_normal((1, 3, 8, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def classes():
    parts = Parts(CLASSES, 0)
    table = np.random.default_rng(2).standard_normal((6, 24)).astype(np.float32)
    return parts, parts.model(**{"text_encoder.embedding.weight": table}), table


@pytest.mark.parametrize("prompt,row", [("3", 3), (" 0 ", 0), ("", 5)])
def test_classes(classes, noise, prompt, row):
    parts, model, table = classes
    told = torch.tensor(table[[5, row]])[:, None]

    def predict(x, t):
        none, one = parts.unet(torch.cat([x, x]), t, told).sample.chunk(2)
        return none + 2.5 * (one - none)

    got = modes.txt2img(model, prompt, latents=noise, steps=5, cfg_scale=2.5)
    same(got, parts.draw(noise, predict))


def test_classes_are_numbers(classes):
    _, model, _ = classes
    for wrong in ("5", "-1", "goldfish", "1.0", "\u0663", "1 2"):
        for prompts in ({"prompt": wrong}, {"prompt": "1", "negative_prompt": wrong}):
            with pytest.raises(UsageError, match="classes 0 to 4"):
                modes.txt2img(model, **prompts)
    ids = model.tokenize(["4", "", "0"]).ids
    assert ids.ravel().tolist() == [4, 5, 0]
    assert model.encode_text(["4"]).shape == (1, 1, 24)


def test_a_class_model_is_saved_and_opened_again(classes, tmp_path):
    _, model, _ = classes
    save_folder(tmp_path / "m", model.config, model.params, [model.tokenizer], np.float32)
    again = ldmref.load(tmp_path / "m", backend="numpy")
    assert again.config == model.config
    assert again.tokenize(["4", ""]).ids.ravel().tolist() == [4, 5]


def test_inpainting_with_concatenation(noise):
    """scripts/inpaint.py of CompVis/latent-diffusion: the hole is black, the mask runs from -1."""
    parts = Parts(NONE, 4, concat="masked_image")
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 3)).astype(np.uint8)
    mask = np.zeros((16, 24), np.uint8)
    mask[3:12, 5:20] = 255
    image = torch.tensor(pixels / 255.0, dtype=torch.float32).permute(2, 0, 1)[None]
    hole = torch.tensor(mask / 255.0, dtype=torch.float32)[None, None]
    with torch.no_grad():
        c = parts.vq.encode((1 - hole) * image * 2 - 1).latents
    c = torch.cat([c, torch.nn.functional.interpolate(hole * 2 - 1, size=c.shape[-2:])], dim=1)
    want = parts.draw(noise, lambda x, t: parts.unet(torch.cat([x, c], dim=1), t).sample)
    got = modes.inpaint(
        parts.model(), "", Image.fromarray(pixels), Image.fromarray(mask), latents=noise
    )
    drawn = np.asarray(got.images[0])
    white = mask > 0
    same(got, want, white)
    assert (drawn[~white] == pixels[~white]).all()
    everything = modes.txt2img(parts.model(), "", latents=noise)
    with torch.no_grad():
        c = parts.vq.encode(-torch.ones_like(image)).latents
    c = torch.cat([c, torch.ones(1, 1, 8, 12)], dim=1)
    want = parts.draw(noise, lambda x, t: parts.unet(torch.cat([x, c], dim=1), t).sample)
    same(everything, want)


@pytest.fixture
def semantic():
    parts = Parts(NONE, 3, concat="segmentation", segmentation_classes=7)
    weight = np.random.default_rng(4).standard_normal((3, 7, 1, 1)).astype(np.float32)
    return parts, parts.model(**{"cond_stage.channel_mapper.weight": weight}), weight


def test_images_from_maps_of_classes(semantic, noise):
    """SpatialRescaler of CompVis/latent-diffusion: bilinear halving, then 1 x 1 convolution."""
    parts, model, weight = semantic
    labels = np.random.default_rng(3).integers(0, 7, (16, 24))
    onehot = torch.tensor(np.eye(7, dtype=np.float32)[labels]).permute(2, 0, 1)[None]
    small = torch.nn.functional.interpolate(onehot, scale_factor=0.5, mode="bilinear")
    c = torch.nn.functional.conv2d(small, torch.tensor(weight))
    want = parts.draw(noise, lambda x, t: parts.unet(torch.cat([x, c], dim=1), t).sample)
    for given in (labels, Image.fromarray(labels.astype(np.uint8))):
        same(modes.seg2img(model, given, latents=noise), want)
    paletted = Image.fromarray(labels.astype(np.uint8)).convert("P")
    paletted.putdata(labels.ravel().tolist())
    same(modes.seg2img(model, paletted, latents=noise), want)


def test_rescaler_of_several_halvings():
    from ldmref.models.rescaler import rescaler

    ops = get_backend("numpy", dtype="float64")
    onehot = np.random.default_rng(0).uniform(size=(1, 5, 16, 24))
    weight = np.random.default_rng(1).standard_normal((3, 5, 1, 1))
    want = torch.tensor(onehot)
    for _ in range(2):
        want = torch.nn.functional.interpolate(want, scale_factor=0.5, mode="bilinear")
    want = torch.nn.functional.conv2d(want, torch.tensor(weight)).numpy()
    got = rescaler(ops, unflatten({"channel_mapper.weight": weight}), onehot, 4)
    assert np.abs(got - want).max() < 1e-12


def test_what_a_model_cannot_do_is_said_before_it_is_tried(semantic, saved, image):
    _, model, _ = semantic
    superres, plain = (ldmref.load(saved(k)[1]) for k in ("superres", "unconditional"))
    labels = np.zeros((16, 24), np.int64)
    for call, error, match in (
        (lambda: modes.txt2img(model, ""), UsageError, "use|generates images only"),
        (lambda: modes.img2img(superres, "", image), UsageError, "generates images only"),
        (lambda: modes.superres(model, image), UsageError, "low_resolution"),
        (lambda: modes.superres(plain, image), UsageError, "low_resolution"),
        (lambda: modes.seg2img(superres, labels), UsageError, "segmentation"),
        (lambda: modes.txt2img(plain, "a cat"), UsageError, "takes no prompt"),
        (lambda: modes.txt2img(plain, "", negative_prompt="x"), UsageError, "takes no prompt"),
        (lambda: modes.txt2img(plain, "", cfg_scale=3), UsageError, "nothing to guide"),
        (lambda: plain.encode_text(["a"]), UsageError, "takes no prompt"),
        (lambda: modes.seg2img(model, labels + 7), ImageError, "has class 7, .* 0 to 6"),
        (lambda: modes.seg2img(model, labels - 1), ImageError, "has class -1"),
        (lambda: modes.seg2img(model, labels[:15]), UsageError, "multiple of 2"),
        (lambda: modes.seg2img(model, labels * 1.0), ImageError, "integer array"),
        (lambda: modes.seg2img(model, image), ImageError, "grey or palette"),
    ):
        with pytest.raises(error, match=match):
            call()
    odd = modes.superres(superres, image.crop((0, 0, 31, 29)), steps=1)
    assert odd[0].size == tuple(superres.config.vae.factor * side for side in (31, 29))


def test_single_files(classes, tmp_path):
    """Class, scaling factor and the second copy of the first stage, from a CompVis file."""
    _, model, _ = classes
    flat = {n: np.asarray(a, np.float32) for n, a in flatten(model.params).items()}
    tensors = to_compvis(flat, compvis_table(model.config))
    assert "cond_stage_model.embedding.weight" in tensors
    save_file(tensors | {"scale_factor": np.float32([0.25])[0:1]}, str(tmp_path / "a.safetensors"))
    file = TensorFile(tmp_path / "a.safetensors")
    opened = recognise_file(file, model.config)
    config, got = opened.config, opened.read()
    assert config.vae.scaling_factor == 0.25 and config.unet == model.config.unet
    assert recognise_file(file, config).config == config
    assert all((got[name] == flat[name]).all() for name in flat)
    inpaint = Parts(NONE, 4, concat="masked_image")
    tensors = to_compvis(inpaint.flat, compvis_table(inpaint.config))
    tensors |= {
        n.replace("first_stage_model.", "cond_stage_model."): t
        for n, t in tensors.items()
        if n.startswith("first_stage_model.")
    }
    save_file(tensors, str(tmp_path / "b.safetensors"))
    file = TensorFile(tmp_path / "b.safetensors")
    assert recognise_file(file, inpaint.config).config == inpaint.config


def test_first_stages_on_their_own(tmp_path):
    parts = Parts(NONE, 0)
    parts.vq.save_pretrained(tmp_path / "vq")
    found = read_vae(tmp_path / "vq")
    assert found.config == parts.config.vae and found.config.codebook_size == 32
    flat = {n.removeprefix("vae."): a for n, a in parts.flat.items() if n.startswith("vae.")}
    assert all((found.tensors[n] == flat[n]).all() for n in flat)
    from ldmref.io.compvis.keys import autoencoder_table

    save_file(to_compvis(flat, autoencoder_table(found.config)), str(tmp_path / "a.safetensors"))
    again = read_vae(tmp_path / "a.safetensors", found.config)
    assert all((again.tensors[n] == flat[n]).all() for n in flat)
