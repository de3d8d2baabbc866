"""Kinds of autoencoders: those of ldmref, and one of another package, that every tool reads."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from centred_autoencoder import CENTRED
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, UsageError
from ldmref.families import describe_autoencoder
from ldmref.families.autoencoders.flux2 import FLUX2_AUTOENCODER as FLUX2
from ldmref.families.autoencoders.qwen_image import QWEN_IMAGE
from ldmref.io import save_folder
from ldmref.io.diffusers.folder import diffusers_autoencoder_table
from ldmref.locate import diff_traces
from ldmref.models import (
    AutoencoderConfig,
    LatentDiffusion,
    config_from_dict,
    flatten,
    model_spec,
    preset,
    unflatten,
)
from ldmref.models.autoencoder_kind import (
    BUILT_IN,
    LatentScale,
    autoencoder_of,
    find_autoencoder,
    scales_of,
    spec_of,
)
from ldmref.models.params import init
from ldmref.models.validate import check_config
from ldmref.trace import read_trace, record_trace

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from small_pipelines import pipeline, unet  # noqa: E402

OPS = get_backend("numpy", dtype="float64")
POINTS = """[ldmref.autoencoders]
centred = centred_autoencoder:CENTRED
"""
KINDS = {"flux2": FLUX2, "qwen-image": QWEN_IMAGE}


@pytest.fixture(autouse=True)
def installed(tmp_path, monkeypatch):
    """Install a package with a kind of autoencoder."""
    info = tmp_path / "site" / "theirs-1.2.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(POINTS)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    find_autoencoder.cache_clear()
    yield
    find_autoencoder.cache_clear()


def randomized(module):
    """Return a module in float64, with random weights and statistics."""
    torch.manual_seed(0)
    module = module.double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1 if parameter.ndim > 1 else 0.3)
    if hasattr(module, "bn"):
        module.bn.running_mean.normal_()
        module.bn.running_var.uniform_(0.5, 2.0)
    return module


def flux2():
    return randomized(
        diffusers.AutoencoderKLFlux2(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
        )
    )


def qwen_image():
    return randomized(
        diffusers.AutoencoderKLQwenImage(
            base_dim=8,
            z_dim=4,
            dim_mult=[1, 2],
            num_res_blocks=1,
            temperal_downsample=[True],
            latents_mean=[0.1, -0.2, 0.3, 0.4],
            latents_std=[1.0, 2.0, 0.5, 1.5],
        )
    )


MODULES = {"flux2": flux2, "qwen-image": qwen_image}


@pytest.fixture(params=[*MODULES])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Write a folder of diffusers for each kind, whose U-Net has its latents."""
    found = {}
    for name, channels in {"flux2": 16, "qwen-image": 4}.items():
        found[name] = tmp_path_factory.mktemp("folders") / name
        made = pipeline("sd1")
        made.register_modules(unet=unet(in_channels=channels, out_channels=channels))
        made.save_pretrained(found[name])
        for file in (found[name] / "vae").iterdir():
            file.unlink()
        MODULES[name]().save_pretrained(found[name] / "vae")
    return found


@pytest.fixture
def folder(kind, folders):
    return folders[kind]


@pytest.fixture
def model(folder):
    return ldmref.load(folder, backend="numpy")


IMAGE = Image.fromarray(np.random.default_rng(3).integers(0, 256, (16, 16, 3), np.uint8))
MASK = Image.fromarray(np.uint8(255 * (np.arange(16) < 8))[None].repeat(16, 0))


def small(model, mode="txt2img", **params):
    """Return a plan of an image of 16 x 16 pixels in two steps."""
    if mode == "txt2img":
        params = {"width": 16, "height": 16} | params
    return modes.plan(mode, model, prompt="a red cat", seed=1, steps=2, **params)


# -- against diffusers ----------------------------------------------------------------------------


def test_networks_equal_those_of_diffusers(folder, kind, monkeypatch):
    """Encoder, decoder and the latents between them, in float64."""
    module = diffusers.models.autoencoders.autoencoder_kl_qwenimage.QwenImageUpsample
    monkeypatch.setattr(module, "forward", torch.nn.Upsample.forward)  # in float64, not 32
    model = ldmref.load(folder, backend="numpy", dtype="float64")
    theirs = MODULES[kind]()
    frames = kind == "qwen-image"
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    with torch.no_grad():
        posterior = theirs.encode(x[:, :, None] if frames else x).latent_dist
        mean, std = (a[:, :, 0] if frames else a for a in (posterior.mean, posterior.std))
        want, spread = their_latents(theirs, mean, std)
        latents, deviation = model.encode_posterior(x.numpy())
        np.testing.assert_allclose(latents, want, atol=1e-10)
        np.testing.assert_allclose(deviation, spread, atol=1e-10)
        z = model.latent_scale().denormalize(latents)
        np.testing.assert_allclose(z, mean, atol=1e-10)
        decoded = theirs.decode(mean[:, :, None] if frames else mean).sample
        image = decoded[:, :, 0] if frames else decoded
    assert float(image.std()) > 0.01
    np.testing.assert_allclose(model.decode(latents), image, atol=1e-10)


def their_latents(module, mean, std):
    """Return mean and deviation of latents as diffusers' pipelines compute them."""
    if hasattr(module, "bn"):
        fold = diffusers.Flux2Pipeline._patchify_latents
        m = module.bn.running_mean.view(1, -1, 1, 1)
        s = torch.sqrt(module.bn.running_var.view(1, -1, 1, 1) + module.config.batch_norm_eps)
        return (fold(mean) - m) / s, fold(std) / s
    m, s = (
        torch.tensor(numbers, dtype=torch.float64).view(1, -1, 1, 1)
        for numbers in (module.config.latents_mean, module.config.latents_std)
    )
    return (mean - m) / s, std / s


def test_a_sample_of_the_posterior_has_noise_in_the_layout_of_latents(model):
    pixels = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    mean, std = model.encode_posterior(pixels)
    noise = np.random.default_rng(1).standard_normal(mean.shape).astype(np.float32)
    assert mean.shape[1:] == model.latent_shape(16, 16)
    np.testing.assert_allclose(model.encode_image(pixels, noise), mean + std * noise, atol=1e-5)


# -- every tool -----------------------------------------------------------------------------------


def test_a_folder_of_diffusers_generates_in_every_mode(model, kind, folder):
    assert autoencoder_of(model.config.vae) is KINDS[kind]
    assert model.config.vae.factor == {"flux2": 4, "qwen-image": 2}[kind]
    result = small(model).run(model)
    assert result.latents.shape[1:] == model.latent_shape(16, 16)
    assert result.images[0].size == (16, 16)
    changed = small(model, "img2img", image=IMAGE, strength=0.5).run(model).images[0]
    painted = small(model, "inpaint", image=IMAGE, mask=MASK).run(model).images[0]
    assert np.asarray(changed).std() > 0
    assert (np.asarray(painted)[:, 8:] == np.asarray(IMAGE)[:, 8:]).all()
    other = ldmref.load(folder, backend="torch")
    images = [np.asarray(small(m).run(m).images[0], np.int64) for m in (model, other)]
    assert abs(images[0] - images[1]).max() <= 1


def test_previews_tiles_and_estimates(model):
    seen = []
    plan = small(model, width=32, height=32)
    plan.run(model, callback=lambda progress: seen.append(progress.preview()[0].size))
    assert seen == [(32, 32)] * 2
    latents = np.random.default_rng(0).standard_normal((1, *model.latent_shape(32, 32)))
    latents = latents.astype(np.float32)
    assert model.decode(latents, tile=16).shape == (1, 3, 32, 32)
    np.testing.assert_array_equal(model.decode(latents, tile=32), model.decode(latents))
    assert model.estimate_memory(64, 64).decoding > model.estimate_memory(32, 32).decoding > 0


def test_a_folder_of_ldmref_names_the_kind(model, kind, tmp_path):
    assert config_from_dict(model.config.to_dict()) == model.config
    assert model.config.to_dict()["vae"]["kind"] == kind
    save_folder(tmp_path / "n", model.config, model.params, model.tokenizers, np.float32)
    again = ldmref.load(tmp_path / "n", backend="numpy")
    assert again.config.vae == model.config.vae
    assert (small(again).run(again).latents == small(model).run(model).latents).all()


def test_an_autoencoder_replaces_that_of_a_model(model, folder, kind):
    again = ldmref.load(folder, backend="numpy", vae=folder / "vae")
    assert again.config.vae == model.config.vae
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    single = ldmref.load(folder, backend="numpy", vae=weights)
    assert (small(single).run(single).latents == small(model).run(model).latents).all()
    with pytest.raises(UsageError, match="channels at"):
        ldmref.load(backend="numpy", vae=folder / "vae")


def test_exported_graphs_hold_the_normalisation(model, tmp_path):
    """Latents are those of the denoiser, at the sizes that the manifest says."""
    from graph_runs import run_graph

    from ldmref.export import export_onnx

    export_onnx(model, tmp_path / "e")
    manifest = json.loads((tmp_path / "e" / "ldmref.json").read_text())["latents"]
    assert (manifest["scaling_factor"], manifest["shift_factor"]) == (1.0, 0.0)
    channels, h, w = model.latent_shape(24, 40)
    assert (manifest["channels"], manifest["factor"]) == (channels, model.config.vae.factor)
    z = np.random.default_rng(0).standard_normal((2, channels, h, w)).astype(np.float32)
    image = np.tanh(np.random.default_rng(1).standard_normal((2, 3, 40, 24))).astype(np.float32)
    decoded = run_graph(tmp_path / "e", "vae_decoder", latent_sample=z)["sample"]
    np.testing.assert_allclose(decoded, model.decode(z), atol=1e-5)
    encoded = run_graph(tmp_path / "e", "vae_encoder", sample=image)
    mean, deviation = model.encode_posterior(image)
    np.testing.assert_allclose(encoded["latent_sample"], mean, atol=1e-5)
    np.testing.assert_allclose(np.exp(0.5 * encoded["latent_logvar"]), deviation, atol=1e-5)


def test_traces_are_judged_and_a_wrong_normalisation_is_named(model, tmp_path):
    plan = small(model, "img2img", image=IMAGE, strength=0.9)
    record_trace(plan, model, tmp_path / "t")
    trace = read_trace(tmp_path / "t")
    report = diff_traces(trace, model)
    assert report.equal and not report.counts().get("incomplete")
    tensors = {name: np.asarray(trace.tensors[name]) for name in trace.tensors}
    scale = model.latent_scale(OPS)
    z = tensors["vae.decode//input.latents"].astype(np.float64)
    raw = scale.unfold(scale.kind.normalize(OPS, scale.params, scale.config, scale.fold(z)))
    tensors["vae.decode//input.latents"] = raw.astype(np.float32)
    rows = diff_traces(replace(trace, tensors=tensors), model).rows
    causes = {row.cause for row in rows if row.call == "vae.decode" and row.verdict == "differs"}
    assert "the latents are not denormalised" in causes


def test_training_uses_the_latents_of_the_denoiser(model):
    from ldmref.training.batches import FULL_BATCH
    from ldmref.training.diffusion.latents import Latents, NoisyLatents

    ops = get_backend("torch")
    config = model.config.vae
    c, h, w = model.latent_shape(16, 16)
    z = (c // config.patch**2, h * config.patch, w * config.patch)
    mean = np.random.default_rng(0).standard_normal((3, *z)).astype(np.float32)
    params = unflatten({k: torch.as_tensor(v) for k, v in flatten(model.params["vae"]).items()})
    noisy = NoisyLatents(
        Latents(mean, np.full_like(mean, -60.0)), np.ones(3), LatentScale(ops, config, params), ops
    )
    x0, eps = noisy.noise(np.arange(3), 0, 0, FULL_BATCH)
    assert x0.shape == eps.shape == (3, c, h, w)
    np.testing.assert_allclose(x0, model.latent_scale().normalize(mean), atol=1e-5)


def test_a_lora_is_trained_and_used(folder, tmp_path):
    from ldmref.training.finetune.finetuning_run import fine_tune
    from ldmref.training.recipes.file import recipe_from_dict

    images = tmp_path / "images"
    images.mkdir()
    for name in ("a red cat", "a cat"):
        IMAGE.save(images / f"{name}.png")
    stage = {"optimizer": {"batch_size": 2, "warmup": 1}, "budget": {"steps": 2}}
    tables = {"base": str(folder), "data": {"source": str(images), "size": 16}}
    file = fine_tune(recipe_from_dict(tables | {"diffusion": stage}), tmp_path / "out")
    model = ldmref.load(folder, backend="numpy", lora=file)
    assert np.isfinite(small(model).run(model).latents).all()


def test_reconstruction_and_likelihood_are_measured(model):
    from ldmref.evaluate.images import encode_images, likelihood, reconstruction

    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), np.uint8)
    encoded = encode_images(model, images, np.random.default_rng(1), 2)
    latents = model.latent_scale(OPS).normalize(encoded.z).astype(np.float32)
    np.testing.assert_allclose(encoded.decoded, model.decode(latents), atol=1e-5)
    assert len(reconstruction(encoded).rows) == 3
    rng = np.random.default_rng(2)
    section = likelihood(model, encoded, ["a cat"] * 2, rng, 1, (0, 0), 2)
    rows = {row.name: row.value for row in section.rows}
    x = model.latent_scale(OPS).normalize(encoded.mean)
    deviation = model.latent_scale(OPS).spread(np.exp(0.5 * encoded.logvar))
    nats = 0.5 * (x**2 + deviation**2 - 1.0) - np.log(deviation)
    fitted = rows["VAE bound with the prior's variance fitted"] - rows["decoder, E[-log p(x|z)]"]
    assert fitted == pytest.approx(nats.sum() / (2 * 3 * 256 * np.log(2.0)), rel=1e-6)


def test_code_for_diffusers_reads_the_networks(folder, model):
    from ldmref.compat.diffusers import StableDiffusionPipeline

    vae = StableDiffusionPipeline.from_pretrained(folder).vae
    pixels = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
    posterior = vae.encode(pixels).latent_dist
    want, spread = model.encode_posterior(pixels)
    scale = model.latent_scale()
    np.testing.assert_allclose(scale.normalize(np.asarray(posterior.mean)), want, atol=1e-6)
    np.testing.assert_allclose(scale.spread(np.asarray(posterior.std)), spread, atol=1e-6)
    np.testing.assert_allclose(vae.decode(posterior.mean).sample, model.decode(want), atol=1e-5)
    assert vae.config.latent_channels == 4 and "scaling_factor" not in vae.config


def test_golden_cases_have_a_tiny_version(model, kind):
    from ldmref.cases.network_cases import network_case
    from ldmref.cases.shrink import shrink_autoencoder

    tiny = shrink_autoencoder(KINDS[kind].config())
    check_config(replace(model.config, vae=tiny, denoiser=fitting(model, tiny)))
    for network in describe_autoencoder(tiny):
        case = network_case("sd15", network)
        outputs = case.function(OPS, case.params, **case.settings, **case.inputs)
        many = outputs if isinstance(outputs, tuple) else (outputs,)
        assert len(many) == len(case.outputs) and all(np.isfinite(x).all() for x in many)


def fitting(model, vae):
    z = vae.latent_channels
    return replace(model.config.denoiser, in_channels=z, out_channels=z)


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_norm_eps": -1.0}, "vae.batch_norm_eps"),
        ({"latent_channels": 18}, "the patch of vae must divide"),
        ({"norm_num_groups": 5}, "norm_num_groups must divide"),
        ({"skale": 1.0}, "skale"),
        ({"kind": "kl"}, "unknown key vae.decoder_block_out_channels"),
        ({"kind": "vae"}, "unknown vae.kind 'vae'"),
        ({"kind": 3}, "unknown vae.kind 3"),
    ],
)
def test_fields_of_a_kind_are_checked(changes, message):
    vae = FLUX2.shrink(FLUX2.config())
    small = preset("tiny")
    denoiser = replace(small.denoiser, in_channels=16, out_channels=16)
    values = replace(small, vae=vae, denoiser=denoiser).to_dict()
    config_from_dict(values)
    values["vae"] |= changes
    with pytest.raises(CorruptModelError, match=message):
        config_from_dict(values)


def test_what_is_no_autoencoder_is_refused(tmp_path):
    points = tmp_path / "site" / "theirs-1.2.dist-info" / "entry_points.txt"
    points.write_text(POINTS + "wrong = centred_autoencoder:spec\n")
    with pytest.raises(UsageError, match="not a Autoencoder"):
        find_autoencoder("wrong")
    values = preset("tiny").to_dict()
    values["vae"]["kind"] = "vq"
    with pytest.raises(CorruptModelError, match=r"vae\.kind is 'vq', the fields are of 'kl'"):
        config_from_dict(values)

    class Other(AutoencoderConfig):
        pass

    with pytest.raises(CorruptModelError, match="vae must be a AutoencoderConfig, not Other"):
        check_config(replace(preset("tiny"), vae=Other(**vars(preset("tiny").vae))))


def test_without_the_package_its_folder_is_refused(folders, tmp_path, monkeypatch):
    their_folder = tmp_path / "theirs"
    shutil.copytree(folders["flux2"], their_folder)
    (their_folder / "vae" / "config.json").write_text('{"_class_name": "AutoencoderCentred"}')
    monkeypatch.setattr("ldmref.models.autoencoder_kind.list_plugins", lambda group: {})
    with pytest.raises(CorruptModelError, match="the autoencoder is a AutoencoderCentred"):
        ldmref.load(their_folder)


def test_what_needs_one_scaling_factor_says_so(model, kind, tmp_path):
    from ldmref.io import compvis_table
    from ldmref.modes.guide import differences
    from ldmref.training.recipes.file import recipe_from_dict

    with pytest.raises(UsageError, match="has no scaling factor"):
        scales_of(model.config.vae)
    with pytest.raises(UsageError, match="neither KL nor VQ"):
        compvis_table(model.config)
    vae = model.config.to_dict()["vae"]
    unet = {"in_channels": vae["latent_channels"], "out_channels": vae["latent_channels"]}
    with pytest.raises(UsageError, match="cannot be trained"):
        recipe_from_dict({"model": {"preset": "tiny", "vae": vae, "unet": unet}})
    assert not differences(model.config, model.config)
    other = replace(model.config.vae, out_channels=4)
    ((what, *_),) = differences(replace(model.config, vae=other), model.config)
    assert what == "vae.out_channels"
    own = AutoencoderConfig(latent_channels=vae["latent_channels"], block_out_channels=(8,) * 2)
    found = differences(replace(model.config, vae=own), model.config)
    assert "vae.kind" in [what for what, *_ in found]


# -- the kinds of ldmref --------------------------------------------------------------------------


def test_every_kind_answers_every_question():
    kinds = [find_autoencoder(name) for name in BUILT_IN] + [CENTRED]
    for kind in kinds:
        config = kind.config(codebook_size=8) if kind.is_quantized else kind.config()
        assert autoencoder_of(config) is kind and kind.title
        assert config.factor >= 1 and config.decoder_width >= 1
        assert not [*kind.broken_rules(config)]
        decode, encode = describe_autoencoder(config)
        assert decode.spec() == kind.spec(config) == encode.spec()
        assert kind.has_posterior != kind.is_quantized


def test_the_published_autoencoder_of_qwen_image_has_the_parameters_of_the_makers():
    """Without those along time, that no image reads, and with the kernels of all frames."""
    theirs = diffusers.AutoencoderKLQwenImage
    with torch.device("meta"):
        stored = theirs().state_dict()
    table = diffusers_autoencoder_table(QWEN_IMAGE.config())
    assert sum(x.numel() for x in stored.values()) == 126_892_531
    along_time = {name for name in stored if ".time_conv." in name}
    assert {entry.name for entry in table.values()} == stored.keys() - along_time
    for entry in table.values():
        assert entry.stored_shape == tuple(stored[entry.name].shape)


def test_the_published_autoencoder_of_flux2_has_the_parameters_of_the_makers():
    """The statistics of the batch norm are no parameters of torch's; there is one per channel."""
    sizes = {k: int(np.prod(shape)) for k, shape in flatten(spec_of(FLUX2.config())).items()}
    statistics = sum(size for name, size in sizes.items() if name.startswith("bn."))
    assert (sum(sizes.values()) - statistics, statistics) == (84_046_115, 2 * 128)


def test_a_kind_may_describe_its_networks_itself(monkeypatch):
    network = describe_autoencoder(AutoencoderConfig())[0]
    alone = replace(FLUX2, networks=lambda config: [network])
    monkeypatch.setattr("ldmref.families.latent_diffusion.autoencoder_of", lambda config: alone)
    assert describe_autoencoder(FLUX2.config()) == [network]


def test_a_configuration_of_ldmref_names_no_kind():
    """If it is KL's or VQ's: its files are those of versions that knew these two alone."""
    for name in ("sd15", "ldm-inpainting", "flux-dev"):
        config = preset(name)
        assert "kind" not in config.to_dict()["vae"]
        named = config.to_dict()
        named["vae"] = {"kind": config.vae.kind} | named["vae"]
        assert config_from_dict(named) == config


@pytest.mark.parametrize("name", ["sd15", "flux-dev"])
def test_two_numbers_scale_latents(name):
    config = preset(name).vae
    scale = LatentScale(OPS, config, unflatten({}))
    z = np.random.default_rng(0).standard_normal((1, 4, 2, 2))
    np.testing.assert_array_equal(
        scale.normalize(z), (z - config.shift_factor) * config.scaling_factor
    )
    np.testing.assert_allclose(scale.denormalize(scale.normalize(z)), z, rtol=1e-14)
    np.testing.assert_array_equal(scale.spread(z), z * config.scaling_factor)
    assert scale.fold(z) is z and scale.unfold(z) is z


# -- images with alpha ----------------------------------------------------------------------------


def test_alpha_is_opaque_in_and_over_white_out():
    """An autoencoder of four channels reads and returns three."""
    small = preset("tiny")
    config = replace(small, vae=replace(small.vae, in_channels=4, out_channels=4))
    check_config(config)
    words = ldmref.random_model("tiny").tokenizer
    model = LatentDiffusion(OPS, config, init(model_spec(config), 0), words)
    image = np.tanh(np.random.default_rng(0).standard_normal((1, 3, 16, 16)))
    kind = autoencoder_of(config.vae)
    opaque = np.concatenate([image, np.ones((1, 1, 16, 16))], axis=1)
    mean, _ = kind.encode(OPS, model.params["vae"], config.vae, opaque)
    np.testing.assert_array_equal(model.encode_image(image), mean)
    z = np.random.default_rng(1).standard_normal((1, 4, 8, 8))
    rgba = kind.decode(OPS, model.params["vae"], config.vae, z)
    alpha = np.clip(0.5 * rgba[:, 3:] + 0.5, 0.0, 1.0)
    np.testing.assert_allclose(model.decode(z), alpha * rgba[:, :3] + (1.0 - alpha), atol=1e-12)
    assert 0.0 < alpha.mean() < 1.0
