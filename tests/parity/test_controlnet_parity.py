"""ControlNets: networks, files and whole images against diffusers."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import ldmref
from ldmref import modes
from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, InputError, KeyMismatchError, UnsafeFileError
from ldmref.io.adapters.controlnet import open_controlnet
from ldmref.io.compvis.keys import controlnet_table
from ldmref.io.diffusers.config import convert_unet_config
from ldmref.io.key_table import to_compvis
from ldmref.loading_networks import load_controlnet
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import flatten, init
from ldmref.models.presets import PRESETS
from ldmref.modes import Control

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
OURS = dict(steps=4, cfg_scale=3.0, rng="torch", sampler="ddim", seed=5)
THEIRS = dict(num_inference_steps=4, guidance_scale=3.0)
DDIM = dict(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    clip_sample=False,
    set_alpha_to_one=False,
    steps_offset=1,
)


def random_net(unet, seed):
    """Their ControlNet of a U-Net, its zero convolutions no longer zero."""
    torch.manual_seed(seed)
    net = diffusers.ControlNetModel.from_unet(
        unet, conditioning_embedding_out_channels=(8, 16), load_weights_from_unet=False
    )
    for name, p in net.named_parameters():
        if name.startswith("controlnet_"):
            torch.nn.init.normal_(p, std=0.3)
    return net.eval()


@pytest.fixture(scope="module")
def nets(theirs, family, tmp_path_factory):
    """Two of their ControlNets and the folders that they save."""
    made = [random_net(theirs.unet, seed) for seed in (1, 2)]
    root = tmp_path_factory.mktemp("controlnets")
    for i, net in enumerate(made):
        net.save_pretrained(root / f"net{i}")
    return made, [root / f"net{i}" for i in range(2)]


@pytest.fixture(scope="module")
def hints():
    draw = np.random.default_rng(1).integers(0, 256, (2, 16, 32, 3), np.uint8)
    return [Image.fromarray(pixels) for pixels in draw]


@pytest.fixture(scope="module")
def model(theirs, folder):
    """Ours; theirs has another scheduler meanwhile."""
    own = theirs.scheduler
    theirs.scheduler = diffusers.DDIMScheduler(**DDIM)
    yield ldmref.load(folder, backend="numpy")
    theirs.scheduler = own


def seeded():
    return torch.Generator("cpu").manual_seed(5)


def difference(a, b):
    return int(abs(np.asarray(a).astype(int) - np.asarray(b).astype(int)).max())


SD1 = pytest.mark.parametrize("family", ["sd1"], indirect=True)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"], indirect=True)
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_the_network_to_the_last_digits(nets, family, backend):
    """At t = 0, where diffusers' time embedding is exact; the residuals one by one."""
    (net, _), (folder, _) = nets
    ops = get_backend(backend, dtype="float64")
    ours = load_controlnet(folder, ops)
    double = net.double()
    draw = np.random.default_rng(0).standard_normal
    u = ours.config.unet
    x = draw((2, 4, 8, 8))
    t = np.zeros(2)
    context = draw((2, 7, u.cross_attention_dim))
    pooled = draw((2, 32))
    sizes = np.zeros((2, 6))
    hint = draw((2, 3, 16, 16))
    xl = bool(u.addition_embed_type)
    added = {"text_embeds": torch.tensor(pooled), "time_ids": torch.tensor(sizes)} if xl else None
    with torch.no_grad():
        want = double(*map(torch.tensor, (x, t, context, hint)), added_cond_kwargs=added)
    net.float()
    x, t, context, hint, *more = map(ops.asarray, (x, t, context, hint, pooled, sizes))
    from ldmref.models.conditioning import Conditioning

    told = Conditioning(context, *more) if xl else context
    got = ours.residuals(x, t, told, ours.encode_hint(hint))
    want = [*want.down_block_res_samples, want.mid_block_res_sample]
    assert len(got.down) + 1 == len(want)
    for a, b in zip([*got.down, got.mid], want, strict=True):
        a = ops.to_numpy(a)
        b = b.numpy()
        assert a.shape == b.shape and np.abs(b).max() > 1e-3
        assert np.abs(a - b).max() <= 1e-10 * np.abs(b).max()


@SD1
@pytest.mark.parametrize(
    ("weights", "start", "end"),
    [
        ([1.0], 0.0, 1.0),
        ([0.5], 0.0, 1.0),
        ([1.0], 0.25, 1.0),
        ([1.0], 0.0, 0.6),
        ([0.7, -0.4], 0.0, 1.0),
    ],
)
def test_txt2img(theirs, model, nets, hints, weights, start, end):
    made, folders = nets
    many = len(weights) > 1
    pipe = diffusers.StableDiffusionControlNetPipeline(
        **theirs.components, controlnet=made if many else made[0], requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    want = pipe(
        "red cat",
        hints if many else hints[0],
        generator=seeded(),
        width=32,
        height=16,
        controlnet_conditioning_scale=weights if many else weights[0],
        control_guidance_start=start,
        control_guidance_end=end,
        **THEIRS,
    ).images[0]
    control = [Control(*each, start, end) for each in zip(folders, hints, weights, strict=False)]
    got = modes.txt2img(model, "red cat", width=32, height=16, control=control, **OURS)
    assert difference(got[0], want) <= 2
    plain = modes.txt2img(model, "red cat", width=32, height=16, **OURS)
    assert difference(plain[0], want) > 8
    assert [c["weight"] for c in got.params["control"]] == weights


@SD1
def test_img2img(theirs, model, nets, hints):
    made, folders = nets
    pipe = diffusers.StableDiffusionControlNetImg2ImgPipeline(
        **theirs.components, controlnet=made[0], requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    want = pipe(
        "red cat",
        image=hints[1],
        control_image=hints[0],
        strength=0.5,
        generator=seeded(),
        width=32,
        height=16,
        controlnet_conditioning_scale=1.0,
        **THEIRS,
    ).images[0]
    control = [Control(load_controlnet(folders[0], model.backend), hints[0])]
    got = modes.img2img(model, "red cat", hints[1], 0.5, control=control, **OURS)
    assert difference(got[0], want) <= 2


@pytest.mark.parametrize("family", ["sd1", "sd1-inpainting"], indirect=True)
def test_inpaint(theirs, model, family, hints, tmp_path):
    """A U-Net with channels for the mask hands its ControlNet the latents alone."""
    unet = diffusers.UNet2DConditionModel(**dict(theirs.unet.config) | {"in_channels": 4})
    net = random_net(unet, 3)
    net.save_pretrained(tmp_path / "net")
    parts = {k: v for k, v in theirs.components.items()}
    pipe = diffusers.StableDiffusionControlNetInpaintPipeline(
        **parts, controlnet=net, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    mask = Image.new("L", (32, 16), 0)
    mask.paste(255, (0, 0, 20, 12))
    want = pipe(
        "red cat",
        image=hints[1],
        mask_image=mask,
        control_image=hints[0],
        strength=1.0,
        generator=seeded(),
        width=32,
        height=16,
        controlnet_conditioning_scale=1.0,
        **THEIRS,
    ).images[0]
    got = modes.inpaint(
        model, "red cat", hints[1], mask, control=[Control(tmp_path / "net", hints[0])], **OURS
    )
    white = np.asarray(mask) > 0
    assert difference(np.asarray(got[0])[white], np.asarray(want)[white]) <= 2
    assert difference(np.asarray(got[0])[~white], np.asarray(hints[1])[~white]) == 0


@SD1
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_an_inpainting_net_reads_the_image_without_the_masked_part(
    theirs, folder, model, nets, hints, backend
):
    """With the condition of control_v11p_sd15_inpaint: -1 where the mask is white."""
    made, folders = nets
    pipe = diffusers.StableDiffusionControlNetInpaintPipeline(
        **theirs.components, controlnet=made[0], requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    mask = Image.new("L", (32, 16), 0)
    mask.paste(255, (0, 0, 20, 12))
    condition = np.asarray(hints[1], np.float32) / 255.0
    condition[np.asarray(mask) > 127] = -1.0
    latents = np.random.default_rng(3).standard_normal((1, 4, 8, 16)).astype(np.float32)
    want = pipe(
        "red cat",
        image=hints[1],
        mask_image=mask,
        control_image=torch.tensor(condition.transpose(2, 0, 1)[None]),
        strength=1.0,
        generator=seeded(),
        latents=torch.tensor(latents),
        width=32,
        height=16,
        controlnet_conditioning_scale=1.0,
        output_type="np",
        **THEIRS,
    ).images[0]
    ours = ldmref.load(folder, backend=backend)
    asked = OURS | {"latents": latents}
    found, plain, masked = (
        modes.inpaint(ours, "red cat", hints[1], mask, control=control, **asked)
        for control in ([Control(folders[0])], [], [Control(folders[0], hints[1])])
    )
    white = np.s_[:8, :16]  # further pixels see what ldmref and diffusers paste differently
    assert np.abs(np.asarray(found[0])[white] - np.round(want[white] * 255)).max() <= 1
    for other in (plain, masked):
        assert np.abs(np.asarray(other[0])[white] - np.round(want[white] * 255)).max() > 4
    assert "image" not in found.params["control"][0]


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd15", "sd2-base", "sdxl"])
def test_every_tensor_has_exactly_one_place(name):
    config = ControlNetConfig(PRESETS[name].unet)
    table = controlnet_table(config)
    want = flatten(controlnet_spec(config))
    assert {n: e.shape for n, e in table.items()} == want
    assert len({e.name for e in table.values()}) == len(table)


@SD1
@pytest.mark.parametrize("prefix", ["control_model.", ""])
def test_single_files(theirs, tmp_path, prefix):
    """Our CompVis names through diffusers' converter give diffusers' names, and come back."""
    from diffusers.loaders import single_file_utils as single

    config = ControlNetConfig(convert_unet_config(theirs.unet.config))
    flat = flatten(init(controlnet_spec(config), 1))
    stored = to_compvis(flat, controlnet_table(config))
    names = set(
        diffusers.ControlNetModel.from_unet(theirs.unet, load_weights_from_unet=False).state_dict()
    )
    file = {f"control_model.{n}": torch.tensor(a) for n, a in stored.items()}
    made = single.convert_controlnet_checkpoint(file, dict(theirs.unet.config))
    assert set(made) == set(flat) == names
    assert all((made[n].numpy() == flat[n]).all() for n in flat)

    whole = {"model.diffusion_model.out.2.bias": np.zeros(4, np.float32)} if prefix else {}
    save_file(whole | {prefix + n: a for n, a in stored.items()}, tmp_path / "net.safetensors")
    found = open_controlnet(tmp_path / "net.safetensors", config.unet)
    tensors = found.tensors()
    assert found.config == config and found.name == "net" and len(found.sha256()) == 64
    assert set(tensors) == set(flat) and all((tensors[n] == flat[n]).all() for n in flat)

    stored.pop("middle_block_out.0.bias")
    save_file({prefix + n: a for n, a in stored.items()}, tmp_path / "less.safetensors")
    with pytest.raises(KeyMismatchError, match=r"1 missing .*middle_block_out.0.bias"):
        open_controlnet(tmp_path / "less.safetensors", config.unet)


@SD1
def test_what_is_no_controlnet_is_refused(nets, folder, tmp_path):
    with pytest.raises(InputError, match="no ControlNet"):
        open_controlnet(tmp_path / "none")
    with pytest.raises(CorruptModelError, match="holds a UNet2DConditionModel, which"):
        open_controlnet(folder / "unet")
    (tmp_path / "net.pth").write_bytes(b"PK\x03\x04" + b"\0" * 20)
    with pytest.raises(UnsafeFileError):
        open_controlnet(tmp_path / "net.pth")
    config = (nets[1][0] / "config.json").read_text()
    (tmp_path / "bgr").mkdir()
    (tmp_path / "bgr" / "config.json").write_text(config.replace('"rgb"', '"bgr"'))
    with pytest.raises(CorruptModelError, match="channel_order"):
        open_controlnet(tmp_path / "bgr")
