"""LoRAs that widen Flux.1's first layer, as those of FLUX.1 [Canny] and [Depth], with diffusers."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from checkpoint_folders import load_diffusers
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.apps.server.adapters import Adapters
from ldmref.errors import LdmrefError
from ldmref.families.flux.files import original_table
from ldmref.io import read_loras, with_loras
from ldmref.io.adapters.control_lora import widen_config, widen_tensors
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_file import Lora
from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.models import preset
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.support.deferred import DeferredArray
from ldmref.support.server_settings import ServerSettings

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
import flux_networks  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

RANK = 3
PROMPT = "a red cat"
SIZE = {"width": 24, "height": 16}
INPUT = "transformer.x_embedder.weight"
EDGES = Image.fromarray(
    np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (16, 24))
).convert("RGB")


@pytest.fixture
def made(tmp_path, skip):
    """(diffusers' pipeline of FLUX.1 [dev], the folder that it writes)."""
    if find_spec("peft") is None:
        skip("peft", "needed for diffusers' own merging, is not installed")
    pipe = flux_networks.make_pipeline(True)
    pipe.save_pretrained(tmp_path / "model")
    return pipe, tmp_path / "model"


def with_control(config):
    """The configuration of the model into which the LoRA turns this one."""
    return widen_config(config, [Lora("control", control_tensors(config, "diffusers"))])


def control_tensors(config, keys, dtype="float64", columns=32):
    """Random tensors for each layer and norm, in the keys of diffusers or Black Forest Labs.

    `columns` are those of the first layer: 16 of the packed latents, and 16 of the control image.
    """
    draw = np.random.default_rng(0).standard_normal
    if keys == "diffusers":
        own = flatten(model_spec(config)).items()
        shapes = {name: x for name, x in own if name.startswith("transformer.")}
        first, norms = "transformer.x_embedder", ".norm_"
    else:
        shapes = list_stored_shapes(original_table(config))
        first, norms = "img_in", "_norm.scale"
    tensors = {}
    for name, shape in shapes.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and len(shape) == 2:
            inputs = columns if layer == first else shape[1]
            tensors[f"{layer}.lora_A.weight"] = 0.3 * draw((RANK, inputs))
            tensors[f"{layer}.lora_B.weight"] = 0.3 * draw((shape[0], RANK))
        elif leaf == "bias":
            tensors[f"{layer}.lora_B.bias"] = 0.1 * draw(shape)
        elif norms in name:
            tensors[name] = 1.0 + 0.1 * draw(shape)
    return {name: x.astype(dtype) for name, x in tensors.items()}


def test_merged_weights_are_those_of_diffusers(made, tmp_path):
    """In float64: the first layer is widened, norms are replaced, biases are changed."""
    pipe, folder = made
    config, flat, _ = load_diffusers(folder)
    flat = {name: x.astype(np.float64) for name, x in flat.items()}
    tensors = control_tensors(config, "diffusers")
    save_file(tensors, str(tmp_path / "a.safetensors"))
    loras = read_loras([tmp_path / "a.safetensors"])
    wide = widen_config(config, loras)
    ours = apply_loras(wide, widen_tensors(config, wide, flat), loras)
    assert wide.concat == "control" and wide.denoiser.in_channels == 8
    assert (wide.defaults.steps, wide.defaults.cfg_scale) == (50, 10.0)

    theirs = pipe.transformer.double()
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    norms = {n: x.clone() for n, x in theirs.state_dict().items() if ".norm_" in n and x.ndim == 1}
    pipe.fuse_lora()
    pipe.unload_lora_weights(reset_to_overwritten_params=False)  # puts the model's own norms back
    merged = {name: x for name, x in theirs.state_dict().items() if name not in norms} | norms
    assert {f"transformer.{name}" for name in merged} == {n for n in ours if "transformer." in n}
    for name, x in merged.items():
        want = x.detach().numpy()
        got = ours[f"transformer.{name}"]
        assert np.abs(got - want).max() <= 1e-10 * max(1.0, np.abs(want).max()), name
    changed = [name for name, x in flat.items() if not np.array_equal(ours[name], x)]
    assert {INPUT, *(f"transformer.{name}" for name in norms if "_out" not in name)} <= {*changed}
    assert ours[INPUT].shape == (24, 32) and np.abs(ours[INPUT][:, 16:]).min() > 0


def test_names_of_black_forest_labs_mean_the_same(made):
    """Merged into the matrices as they store them, (o, i), the file gives the same model."""
    config, flat, _ = load_diffusers(made[1])
    flat = {name: x.astype(np.float64) for name, x in flat.items()}
    tensors = control_tensors(config, "Black Forest Labs")
    wide = widen_config(config, [Lora("control", tensors)])
    assert wide == with_control(config)
    padded = widen_tensors(config, wide, flat)
    ours = apply_loras(wide, padded, [Lora("control", tensors, 0.7)])
    own = {n.partition(".")[2]: x for n, x in padded.items() if n.startswith("transformer.")}
    stored = to_compvis(own, original_table(wide))
    for name, x in stored.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "bias":
            stored[name] = x + 0.7 * tensors[f"{layer}.lora_B.bias"]
        elif leaf == "scale":
            stored[name] = 0.3 * x + 0.7 * tensors[name]
        else:
            up, down = (tensors[f"{layer}.lora_{role}.weight"] for role in "BA")
            stored[name] = x + 0.7 * up @ down
    for name, want in to_native(stored, original_table(wide)).items():
        assert np.abs(ours[f"transformer.{name}"] - want).max() <= 1e-12, name


@pytest.fixture
def control(made, tmp_path):
    """(diffusers' control pipeline with a LoRA, our folder, the file of the LoRA)."""
    pipe, folder = made
    path = tmp_path / "control.safetensors"
    config, _, _ = load_diffusers(folder)
    save_file(control_tensors(config, "diffusers", "float32"), str(path))
    parts = {name: part for name, part in pipe.components.items() if part}
    theirs = diffusers.FluxControlPipeline(**parts)
    theirs.set_progress_bar_config(disable=True)
    theirs.load_lora_weights(tmp_path, weight_name=path.name)
    return theirs, folder, path


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_images_are_those_of_diffusers(control, backend):
    pipe, folder, path = control
    latents = np.random.default_rng(1).standard_normal((1, 4, 8, 12)).astype(np.float32)
    options = {"guidance_scale": 10.0, "num_inference_steps": 4, "output_type": "np", **SIZE}
    packed = pipe._pack_latents(torch.tensor(latents), 1, 4, 8, 12)
    generator = torch.Generator().manual_seed(5)
    want = pipe(PROMPT, control_image=EDGES, latents=packed, generator=generator, **options)
    model = ldmref.load(folder, backend=backend, lora=[path])
    settings = {"steps": 4, "cfg_scale": 10.0, "seed": 5, "rng": "torch", "latents": latents}
    got = modes.txt2img(model, PROMPT, control_image=EDGES, **settings, **SIZE)
    image = np.asarray(got.images[0]).astype(int)
    assert np.abs(image - np.round(want.images[0] * 255)).max() <= 1
    assert got.params["model"]["loras"][0]["name"] == "control"
    settings |= {"seed": 5, "control_image": Image.new("RGB", (24, 16)), **SIZE}
    other = modes.txt2img(model, PROMPT, **settings).images[0]
    assert np.abs(image - np.asarray(other)).max() > 2  # twice what two programs may differ


def test_a_loaded_model_gets_the_lora_as_well(control):
    _, folder, path = control
    loaded = ldmref.load(folder, lora=[path])
    plain = ldmref.load(folder)
    changed = with_loras(plain, read_loras([path]))
    assert changed.config == loaded.config and plain.config.concat == ""
    for name, x in flatten(loaded.params["transformer"]).items():
        assert np.array_equal(x, flatten(changed.params["transformer"])[name]), name
    settings = {"control_image": EDGES, "steps": 2, "seed": 1, **SIZE}
    first, second = (modes.txt2img(m, PROMPT, **settings).latents for m in (loaded, changed))
    assert np.array_equal(first, second)


def test_a_lora_of_the_plain_model_leaves_the_control_image_alone(made):
    """As in diffusers, which fills its `down` with zeros; in any order, and also alone."""
    config, flat, _ = load_diffusers(made[1])
    style = control_tensors(config, "diffusers", columns=16)
    style = {name: x for name, x in style.items() if ".norm_" not in name and "bias" not in name}
    style = Lora("style", style, 0.5)
    both = Lora("control", control_tensors(config, "diffusers"))
    wide = widen_config(config, [style, both])
    assert widen_config(config, [style]) == config and wide.concat == "control"
    padded = widen_tensors(config, wide, flat)
    first = apply_loras(wide, padded, [both])[INPUT]
    added = apply_loras(config, flat, [style])[INPUT] - flat[INPUT]
    for loras in ([both, style], [style, both]):
        merged = apply_loras(wide, padded, loras)[INPUT] - first
        assert np.abs(merged[:, :16] - added).max() < 1e-6 and not merged[:, 16:].any()
    alone = apply_loras(wide, padded, [style])[INPUT]
    assert np.allclose(alone[:, :16], flat[INPUT] + added, atol=1e-6) and not alone[:, 16:].any()


def test_a_quantised_matrix_is_widened_when_it_is_used(made):
    config, flat, _ = load_diffusers(made[1])
    reads = []

    def read():
        reads.append(INPUT)
        return flat[INPUT]

    wide = with_control(config)
    lazy = flat | {INPUT: DeferredArray(read, flat[INPUT].shape)}
    lora = Lora("control", control_tensors(config, "diffusers"))
    found = apply_loras(wide, widen_tensors(config, wide, lazy), [lora])[INPUT]
    assert isinstance(found, DeferredArray) and found.shape == (24, 32) and not reads
    want = apply_loras(wide, widen_tensors(config, wide, flat), [lora])[INPUT]
    assert np.array_equal(np.asarray(found), want)


def test_the_command_plans_with_the_control_image(control, tmp_path, capsys):
    """Before the weights are loaded: a missing control image is one clear line."""
    _, folder, path = control
    edges = tmp_path / "edges.png"
    EDGES.save(edges)
    output = str(tmp_path / "a.png")
    command = ["txt2img", "-p", PROMPT, "-m", str(folder), "--lora", str(path), "--steps", "1"]
    command += ["--width", "24", "--height", "16", "-o", output]
    assert main(command) == 2
    assert "only with a control image" in capsys.readouterr().err
    assert main([*command, "--control-image", str(edges)]) == 0
    assert main(["run", "--from", output, "-m", str(folder), "--lora", str(path), "-o",
                 str(tmp_path / "b.png"), "--control-image", str(edges)]) == 0  # fmt: skip
    assert "another" not in capsys.readouterr().err
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()


def test_what_does_not_fit_is_refused(made):
    """Other widths, and models that a control image does not make sense for."""
    config, _, _ = load_diffusers(made[1])
    odd = Lora("odd", control_tensors(config, "diffusers", columns=48))
    assert widen_config(config, [odd]) == config
    with pytest.raises(LdmrefError, match="misshapen") as caught:
        with_loras(ldmref.load(made[1]), [odd])
    assert caught.value.code == "E-KEYS"
    lora = Lora("control", control_tensors(config, "diffusers"))
    for name in ("sd15", "sd3-tiny", "flux-fill-dev"):
        assert widen_config(preset(name), [lora]) == preset(name)


def test_a_server_says_how_to_serve_it(control):
    """A request cannot turn the model into another one."""
    _, folder, path = control
    settings = ServerSettings(lora_folder=str(path.parent))
    adapters = Adapters({"flux": ldmref.load(folder)}, settings)
    assert adapters.describe("flux")["loras"] == []
    assert [line for line in adapters.warnings if "reads a control image" in line]
