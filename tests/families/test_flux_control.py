"""Flux.1 [Canny] and [Depth], which read the latents of a control image, against diffusers."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import explore, modes
from ldmref.apps.cli.main import main
from ldmref.apps.server.forms import unused_parameters
from ldmref.errors import LdmrefError
from ldmref.families.flux.files import original_table, recognise
from ldmref.io import read_model_config
from ldmref.io.key_table import list_stored_shapes, to_compvis
from ldmref.models import preset
from ldmref.modes.checks import can_generate

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
from flux_networks import make_control_pipeline  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
RANDOM = np.random.default_rng(0)
LATENTS = RANDOM.standard_normal((1, 4, 8, 12)).astype(np.float32)
PACKED = diffusers.FluxPipeline._pack_latents(torch.tensor(LATENTS), 1, 4, 8, 12)
IMAGE = Image.fromarray(RANDOM.integers(0, 256, (16, 24, 3), dtype=np.uint8))
EDGES = Image.fromarray(RANDOM.choice(np.array([0, 255], np.uint8), (16, 24)))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(diffusers' pipeline, the folder that it writes)."""
    pipe = make_control_pipeline()
    folder = tmp_path_factory.mktemp("control") / "model"
    pipe.save_pretrained(folder)
    return pipe, folder


def compare(pipe, found, latents, image):
    want = diffusers.FluxPipeline._unpack_latents(latents[None], 16, 24, 2).numpy()
    assert np.abs(found.latents - want).max() < 1e-4
    assert np.abs(np.asarray(found.images[0]).astype(int) - np.round(image * 255)).max() <= 1


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize(("scale", "latents"), [(10.0, LATENTS), (30.0, None)])
def test_images_are_those_of_diffusers(made, backend, scale, latents):
    """With torch's noise, the latents of the control image are sampled before the noise."""
    pipe, folder = made
    options = {"guidance_scale": scale, "num_inference_steps": 4, **SIZE}
    options["control_image"] = EDGES.convert("RGB")
    if latents is not None:
        options["latents"] = PACKED

    def call(kind):
        options["generator"] = torch.Generator().manual_seed(5)
        return pipe(PROMPT, output_type=kind, **options).images[0]

    model = ldmref.load(folder, backend=backend)
    settings = {"steps": 4, "cfg_scale": scale, "seed": 5, "rng": "torch", "latents": latents}
    found = modes.txt2img(model, PROMPT, control_image=EDGES, **settings, **SIZE)
    compare(pipe, found, call("latent"), call("np"))


def test_img2img_is_that_of_diffusers(made):
    _, folder = made
    pipe = make_control_pipeline(diffusers.FluxControlImg2ImgPipeline)
    options = {"guidance_scale": 10.0, "num_inference_steps": 4, "strength": 0.5, **SIZE}
    options |= {"image": IMAGE, "control_image": EDGES.convert("RGB")}
    latents, image = (
        pipe(PROMPT, generator=torch.Generator().manual_seed(5), output_type=kind, **options)
        for kind in ("latent", "np")
    )
    model = ldmref.load(folder)
    settings = {"steps": 4, "strength": 0.5, "cfg_scale": 10.0, "seed": 5, "rng": "torch"}
    found = modes.img2img(model, PROMPT, IMAGE, control_image=EDGES, **settings)
    compare(pipe, found, latents.images[0], image.images[0])


@pytest.mark.parametrize("upscaler", ["latent", "lanczos"])
def test_a_second_pass_reads_the_control_image_at_its_own_size(made, upscaler):
    """It is img2img of the enlarged first pass, so its control image is as large."""
    _, folder = made
    model = ldmref.load(folder)
    settings = {"steps": 2, "seed": 5, "upscale": 2.0, "upscaler": upscaler, **SIZE}
    edges = EDGES.resize((48, 32))
    plan = modes.plan("txt2img", model, prompt=PROMPT, control_image=edges, **settings)
    (first, second) = (job.control_input.image for job in plan.passes)
    assert first.size == (24, 16)
    np.testing.assert_array_equal(np.asarray(second), np.asarray(edges.convert("RGB")))
    with_edges = plan.run(model)
    without = modes.txt2img(model, PROMPT, control_image=Image.new("L", (48, 32)), **settings)
    assert with_edges.images[0].size == (48, 32)
    assert np.abs(with_edges.latents - without.latents).max() > 1e-3


def test_the_control_image_decides(made):
    model = ldmref.load(made[1])
    assert (model.config.defaults.steps, model.config.defaults.cfg_scale) == (50, 10.0)
    options = {"steps": 2, "seed": 1, **SIZE}
    one = modes.txt2img(model, PROMPT, control_image=EDGES, **options)
    two = modes.txt2img(model, PROMPT, control_image=IMAGE, **options)
    assert np.abs(one.latents - two.latents).max() > 1e-3
    digest = hashlib.sha256(np.asarray(EDGES.convert("RGB")).tobytes()).hexdigest()
    assert one.params["control_image"] == digest != two.params["control_image"]
    several = modes.txt2img(model, [PROMPT, "a dog"], control_image=EDGES, batch_size=2, **options)
    np.testing.assert_allclose(several.latents[:1], one.latents, atol=1e-5)
    exact = {"rng": "torch", "batch_size": 2}
    several = modes.txt2img(model, PROMPT, control_image=EDGES, count=2, **options | exact)
    second = modes.txt2img(model, PROMPT, control_image=EDGES, **options | {"seed": 2, **exact})
    np.testing.assert_allclose(several.latents[1:], second.latents, atol=1e-5)


def test_a_branch_reads_the_control_image_of_its_trunk(made):
    model = ldmref.load(made[1])
    asked = {"mode": "txt2img", "prompt": PROMPT, "control_image": EDGES, **SIZE}
    trunk = explore.record_run(
        model, **{n: asked[n] for n in asked if n != "mode"}, steps=3, seed=1
    )
    branch = explore.branch_run(model, asked | {"steps": 3, "seed": 1}, 1)
    assert (branch.x == trunk.x).all()


def test_other_sizes_are_cropped_with_a_warning(made):
    model = ldmref.load(made[1])
    large = EDGES.convert("RGB").resize((60, 32))
    found = modes.txt2img(model, PROMPT, control_image=large, steps=1, seed=1, **SIZE)
    text = "the control image is 60 x 32; cropped and scaled to 24 x 16"
    assert text in found.warnings


def test_a_region_is_controlled_by_its_part(made):
    """Only the part of the control image around the mask is read."""
    model = ldmref.load(made[1])
    mask = Image.new("L", (48, 32), 0)
    mask.paste(255, (26, 18, 44, 30))
    options = {"only_masked": True, "padding": 0, "steps": 1, "seed": 1, **SIZE}
    large = IMAGE.resize((48, 32))
    edges = EDGES.convert("RGB").resize((48, 32))
    other = edges.copy()
    other.paste((255, 0, 0), (0, 0, 8, 8))
    one, two = (
        modes.inpaint(model, PROMPT, large, mask, control_image=control, **options)
        for control in (edges, other)
    )
    assert np.array_equal(one.latents, two.latents)
    other.paste((255, 0, 0), (28, 20, 40, 28))
    three = modes.inpaint(model, PROMPT, large, mask, control_image=other, **options)
    assert np.abs(one.latents - three.latents).max() > 1e-3


def test_inpaint_keeps_what_the_mask_keeps(made):
    model = ldmref.load(made[1])
    mask = Image.new("L", IMAGE.size, 0)
    mask.paste(255, (8, 0, 24, 16))
    found = modes.inpaint(model, PROMPT, IMAGE, mask, control_image=EDGES, steps=2, seed=1)
    got, given = np.asarray(found.images[0]), np.asarray(IMAGE)
    assert np.array_equal(got[:, :8], given[:, :8]) and not np.array_equal(got, given)


# -- requests -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "name", "more", "text"),
    [
        ("txt2img", "flux-control-dev", {}, "generates images only with a control image"),
        ("img2img", "flux-control-dev", {"image": IMAGE}, "generates images only with a control"),
        ("txt2img", "flux-dev", {"control_image": EDGES}, "'flux-dev' reads no control image"),
        ("txt2img", "sd15", {"control_image": EDGES}, "'sd15' reads no control image"),
        ("edit", "flux-control-dev", {"image": IMAGE}, "which edit does not take"),
    ],
)
def test_a_model_gets_the_images_that_it_reads(mode, name, more, text):
    with pytest.raises(LdmrefError, match=text) as refused:
        modes.plan(mode, preset(name), prompt=PROMPT, **more)
    assert "\n" not in str(refused.value)


def test_the_page_offers_what_the_model_reads():
    control, dev = preset("flux-control-dev"), preset("flux-dev")
    assert [can_generate(model, "edit") for model in (control, dev)] == [False, True]
    assert "control_image" in unused_parameters(dev)
    assert "control_image" not in unused_parameters(control)


def test_the_command_line_draws_and_draws_again(made, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    EDGES.save("edges.png")
    IMAGE.save("other.png")
    model = ["-m", str(made[1])]
    size = ["-W", "24", "-H", "16", "--steps", "2", "--seed", "1"]
    assert main(["txt2img", PROMPT, *model, *size, "-o", "none.png"]) == 2
    assert "only with a control image" in capfd.readouterr().err
    with_it = ["--control-image", "edges.png"]
    assert main(["txt2img", PROMPT, *model, *size, *with_it, "-o", "a.png"]) == 0
    assert main(["run", "--from", "a.png", *model]) == 2
    assert "--control-image" in capfd.readouterr().err
    assert main(["run", "--from", "a.png", *model, *with_it, "-o", "b.png"]) == 0
    assert "another --control-image" not in capfd.readouterr().err
    assert np.array_equal(*(np.asarray(Image.open(name)) for name in ("a.png", "b.png")))
    other = ["--control-image", "other.png", "-o", "c.png"]
    assert main(["run", "--from", "a.png", *model, *other]) == 0
    assert "generated from another --control-image" in capfd.readouterr().err
    assert main(["txt2img", PROMPT, *model, "--control-image", "gone.png"]) == 3
    assert "gone.png" in capfd.readouterr().err


# -- files ----------------------------------------------------------------------------------------


def test_single_files(made, tmp_path):
    pipe, folder = made
    config = read_model_config(folder)
    theirs = {name: x.numpy() for name, x in pipe.transformer.state_dict().items()}
    save_file(to_compvis(theirs, original_table(config)), str(tmp_path / "canny.safetensors"))
    models = [ldmref.load(folder), ldmref.load(tmp_path / "canny.safetensors", config=folder)]
    options = {"steps": 1, "seed": 1, "control_image": EDGES, **SIZE}
    images = [modes.txt2img(model, PROMPT, **options).images[0] for model in models]
    assert images[0] == images[1]


def test_files_are_recognised_by_their_shapes():
    control = preset("flux-control-dev")
    shapes = list_stored_shapes(original_table(control))
    assert shapes["img_in.weight"] == (3072, 128)
    assert recognise(shapes) == control
    short = replace(control, denoiser=replace(control.denoiser, num_layers=8))
    found = recognise(list_stored_shapes(original_table(short)))
    assert found == replace(short, name="flux") and found.concat == "control"


def test_a_folder_with_other_channels_is_refused(made, tmp_path):
    shutil.copytree(made[1], tmp_path / "other")
    file = tmp_path / "other" / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"in_channels": 48}))
    with pytest.raises(LdmrefError, match="in_channels must be 8 with concat 'control'"):
        ldmref.load(tmp_path / "other")
