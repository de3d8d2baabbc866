"""Single files of ControlNets, by their names alone: each layout, and what looks like one."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import ldmref
from ldmref.backends import get_backend
from ldmref.errors import CorruptModelError, KeyMismatchError, LdmrefError, UsageError
from ldmref.io import open_controlnet
from ldmref.io.compvis.keys import controlnet_table
from ldmref.io.diffusers.config import convert_unet_config
from ldmref.io.key_table import to_compvis
from ldmref.models.control import control_of
from ldmref.models.controlnet import ControlNetConfig, controlnet_spec
from ldmref.models.params import flatten, init
from ldmref.modes.control import _require_mode, require_fit

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
import flux_networks  # noqa: E402
import sd3_networks  # noqa: E402
from control_kits import FLUX_NETS, SD3_NETS, make_flux_net, make_sd3_net  # noqa: E402

WEIGHTS = "diffusion_pytorch_model.safetensors"
SD3_MODEL = ldmref.families.sd3.MMDiTConfig(
    **{name: size for name, size in sd3_networks.SIZES.items() if name != "num_layers"},
    num_layers=3,
)
FLUX_MODEL = ldmref.families.flux.FluxConfig(
    **flux_networks.SIZES, in_channels=4, out_channels=4, guidance_embeds=True
)


def save(net, folder):
    """Write a net as diffusers does, and return its folder and the tensors of its file."""
    net.save_pretrained(folder)
    return folder, load_file(folder / WEIGHTS)


def require_same(path, folder, denoiser, **differing):
    """Check that a file opens as its folder does, tensor by tensor."""
    file, whole = open_controlnet(path, denoiser), open_controlnet(folder)
    mine, theirs = vars(file.config), vars(whole.config)
    assert {n: (mine[n], theirs[n]) for n in mine if mine[n] != theirs[n]} == differing
    found, want = file.tensors(), whole.tensors()
    assert found.keys() == want.keys()
    assert all(np.array_equal(found[name], want[name]) for name in want)


# -- U-Nets ---------------------------------------------------------------------------------------

UNET = dict(
    block_out_channels=(8, 16),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=16,
    attention_head_dim=2,
)


@pytest.mark.parametrize("layout", ["control_model.", "", "diffusers"])
def test_a_net_of_a_unet_computes_what_diffusers_computes(tmp_path, layout):
    """From the same file, in float64, at t = 0, where diffusers' time embedding is exact."""
    theirs = diffusers.ControlNetModel(**UNET)
    theirs.save_pretrained(tmp_path / "config")
    up = ("UpBlock2D", "CrossAttnUpBlock2D")
    unet = diffusers.UNet2DConditionModel(**UNET, up_block_types=up)
    config = ControlNetConfig(convert_unet_config(unet.config))
    flat = flatten(init(controlnet_spec(config), 1))
    stored = flat
    if layout != "diffusers":
        table = controlnet_table(config)
        stored = {layout + name: x for name, x in to_compvis(flat, table).items()}
    path = tmp_path / "net.safetensors"
    save_file({name: x.astype(np.float32) for name, x in stored.items()}, path)
    theirs = diffusers.ControlNetModel.from_single_file(path, config=str(tmp_path / "config"))
    ops = get_backend("numpy", dtype="float64")
    ours = ldmref.load_controlnet(path, ops, unet=config.unet)
    draw = np.random.default_rng(0).standard_normal
    x, context, image = draw((1, 4, 8, 8)), draw((1, 7, 16)), draw((1, 3, 64, 64))
    with torch.no_grad():
        inputs = map(torch.tensor, (x, np.zeros(1), context, image))
        want = theirs.double()(*inputs)
    got = ours.residuals(x, np.zeros(1), context, ours.encode_hint(image))
    pairs = zip((*got.down, got.mid), (*want[0], want[1]), strict=True)
    for a, b in pairs:
        assert np.abs(a - b.numpy()).max() <= 1e-10 * np.abs(b.numpy()).max()


# -- Stable Diffusion 3 ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SD3_NETS)
def test_a_file_of_sd3_in_the_names_of_diffusers(tmp_path, kind):
    folder, _ = save(make_sd3_net(kind), tmp_path / "net")
    unknown = {"force_zeros_for_pooled_projection": (True, False)}  # not diffusers' default
    differing = unknown if kind == "joint" else {}
    require_same(folder / WEIGHTS, folder, SD3_MODEL, **differing)


def make_file_of_stability(tmp_path):
    """Return a folder, and its tensors with the names of the original program."""
    folder, tensors = save(make_sd3_net("image alone"), tmp_path / "net")
    layers = {
        "attn.to_out.0": "attn.proj",
        "ff.net.0.proj": "mlp.fc1",
        "ff.net.2": "mlp.fc2",
        "norm1.linear": "adaLN_modulation.1",
    }
    stored = {n: x for n, x in tensors.items() if not n.startswith("transformer_blocks.")}
    for i in range(3):
        block = f"transformer_blocks.{i}"
        for leaf in ("weight", "bias"):
            stacked = [tensors[f"{block}.attn.to_{letter}.{leaf}"] for letter in "qkv"]
            stored[f"{block}.attn.qkv.{leaf}"] = np.concatenate(stacked)
            for ours, theirs in layers.items():
                stored[f"{block}.{theirs}.{leaf}"] = tensors[f"{block}.{ours}.{leaf}"]
    return folder, stored


def test_a_file_of_stability(tmp_path):
    """Blocks of the image alone, with the names of the original program."""
    folder, stored = make_file_of_stability(tmp_path)
    save_file(stored, tmp_path / "canny.safetensors")
    require_same(tmp_path / "canny.safetensors", folder, SD3_MODEL)


@pytest.mark.parametrize(("number", "kind"), [(0, "blur"), (1, "canny"), (2, "depth")])
def test_a_file_of_stability_names_the_kind_of_its_images(tmp_path, number, kind):
    folder, stored = make_file_of_stability(tmp_path)
    path = tmp_path / "net.safetensors"
    save_file(stored | {"control_type": np.array([number], np.int32)}, path)
    require_same(path, folder, SD3_MODEL, control_type=(number, -1))
    net = open_controlnet(path, SD3_MODEL).config
    white = np.ones((1, 3, 2, 2), np.float32)  # a = 1, as (n, c, h, w) in [-1, 1]
    declared = control_of(net)
    assert declared.kinds(net)[declared.kind(net)] == kind
    read = [declared.scale_image(net, x, declared.kind(net)) for x in (-white, white)]
    want = (0.5, 128.0) if kind == "canny" else (-1.0, 1.0)
    assert [x.max() for x in read] == [*want] == [x.min() for x in read]
    other = "depth" if kind == "canny" else "canny"
    with pytest.raises(UsageError, match=f"is for {kind}, not {other}"):
        _require_mode(net, declared.kinds(net).index(other), "net")


@pytest.mark.parametrize("value", [np.int32([3]), np.int32([0, 1]), np.float32([1])])
def test_a_kind_that_is_none(tmp_path, value):
    _, stored = make_file_of_stability(tmp_path)
    save_file(stored | {"control_type": value}, tmp_path / "net.safetensors")
    with pytest.raises(CorruptModelError, match="control_type"):
        open_controlnet(tmp_path / "net.safetensors", SD3_MODEL)


# -- Flux.1 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FLUX_NETS)
def test_a_file_of_flux_in_the_names_of_diffusers(tmp_path, kind):
    folder, _ = save(make_flux_net(kind), tmp_path / "net")
    require_same(folder / WEIGHTS, folder, FLUX_MODEL)


def test_a_file_of_xlabs(tmp_path):
    net = make_flux_net("encoder", num_layers=2, guidance_embeds=True)
    folder, tensors = save(net, tmp_path / "net")
    ends = {
        "x_embedder": "img_in",
        "context_embedder": "txt_in",
        "controlnet_x_embedder": "pos_embed_input",
        "input_hint_block.conv_in": "input_hint_block.0",
        "input_hint_block.conv_out": "input_hint_block.14",
    } | {f"input_hint_block.blocks.{i}": f"input_hint_block.{2 + 2 * i}" for i in range(6)}
    for theirs, ours in (("time", "timestep"), ("guidance", "guidance"), ("vector", "text")):
        path = f"time_text_embed.{ours}_embedder.linear"
        ends |= {f"{path}_1": f"{theirs}_in.in_layer", f"{path}_2": f"{theirs}_in.out_layer"}
    streams = {
        "img": ("norm1.linear", "attn.to_{}", "attn.to_out.0", "attn.norm_", "ff"),
        "txt": (
            "norm1_context.linear",
            "attn.add_{}_proj",
            "attn.to_add_out",
            "attn.norm_added_",
            "ff_context",
        ),
    }
    stored = {n: x for n, x in tensors.items() if n.startswith("controlnet_blocks.")}
    stored |= {
        f"{theirs}.{leaf}": tensors[f"{ours}.{leaf}"]
        for ours, theirs in ends.items()
        for leaf in ("weight", "bias")
    }
    for i in range(2):
        theirs, ours = f"double_blocks.{i}", f"transformer_blocks.{i}"
        for stream, (norm, qkv, out, scale, mlp) in streams.items():
            for leaf in ("weight", "bias"):
                stacked = [tensors[f"{ours}.{qkv.format(letter)}.{leaf}"] for letter in "qkv"]
                stored[f"{theirs}.{stream}_attn.qkv.{leaf}"] = np.concatenate(stacked)
                for name, path in (
                    (f"{stream}_mod.lin", norm),
                    (f"{stream}_attn.proj", out),
                    (f"{stream}_mlp.0", f"{mlp}.net.0.proj"),
                    (f"{stream}_mlp.2", f"{mlp}.net.2"),
                ):
                    stored[f"{theirs}.{name}.{leaf}"] = tensors[f"{ours}.{path}.{leaf}"]
            for letter, name in (("q", "query_norm"), ("k", "key_norm")):
                norm = tensors[f"{ours}.{scale}{letter}.weight"]
                stored[f"{theirs}.{stream}_attn.norm.{name}.scale"] = norm
    save_file(stored, tmp_path / "canny.safetensors")
    require_same(tmp_path / "canny.safetensors", folder, FLUX_MODEL)


# -- what is refused ------------------------------------------------------------------------------


def refusal(path, denoiser=None):
    with pytest.raises(LdmrefError) as caught:
        open_controlnet(path, denoiser)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("made", [make_sd3_net("joint"), make_flux_net("plain")], ids=type)
def test_a_file_of_another_family_is_refused(tmp_path, made):
    """It is recognised with any model, or none that has its sizes, and does not fit another."""
    folder, _ = save(made, tmp_path / "net")
    own = SD3_MODEL if type(made) is diffusers.SD3ControlNetModel else FLUX_MODEL
    net = open_controlnet(folder / WEIGHTS, own).config
    for name, denoiser in (("tiny", None), ("sd3-tiny", SD3_MODEL), ("flux-tiny", FLUX_MODEL)):
        if denoiser is own:
            continue
        with pytest.raises(LdmrefError, match=r"it is one of the family (sd3|flux), not"):
            require_fit(ldmref.random_model(name).config, net, "net")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["lora_controlnet", "input_blocks.0.0.up"], "a control LoRA"),
        (["adapter.body.0.resnets.0.block1.weight"], "a T2I-Adapter"),
        (["body.0.block1.weight", "conv_in.weight"], "a T2I-Adapter"),
        (["lllite_unet_input_blocks_4_1.down.0.weight"], "a ControlNet-LLLite"),
        (["difference", "control_model.zero_convs.0.0.weight"], "as differences from a U-Net"),
        (["task_embedding", "controlnet_cond_embedding.conv_in.weight"], "SDXL's union"),
        (["ip_adapter.1.to_k_ip.weight", "image_proj.proj.weight"], "an IP-Adapter"),
        (["controlnet_blocks.0.linear.weight"], "MistoLine"),
        (["lora_unet_x.lora_down.weight"], "a LoRA"),
        (["model.diffusion_model.joint_blocks.0.x_block.mlp.fc1.weight"], "Stable Diffusion 3"),
    ],
)
def test_what_looks_like_one_is_named(tmp_path, names, what):
    save_file({name: np.zeros(1, np.float32) for name in names}, tmp_path / "x.safetensors")
    told = refusal(tmp_path / "x.safetensors")
    assert what in told and "not a ControlNet" in told


@pytest.mark.parametrize("made", [make_sd3_net("dual"), make_flux_net("union")], ids=type)
def test_a_file_that_lacks_a_tensor_is_refused(tmp_path, made):
    _, tensors = save(made, tmp_path / "net")
    own = SD3_MODEL if type(made) is diffusers.SD3ControlNetModel else FLUX_MODEL
    del tensors["controlnet_blocks.0.bias"]
    save_file(tensors, tmp_path / "less.safetensors")
    with pytest.raises(KeyMismatchError, match=r"1 missing .*controlnet_blocks.0.bias"):
        open_controlnet(tmp_path / "less.safetensors", own)
