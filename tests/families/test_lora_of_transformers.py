"""LoRA of Stable Diffusion 3 and Flux.1 against diffusers: its readers, weights and images."""

from __future__ import annotations

from importlib.util import find_spec
from threading import Event

import numpy as np
import pytest
from checkpoint_folders import load_diffusers
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import Cancelled
from ldmref.families.flux.files import original_table
from ldmref.io.adapters.control_lora import widen_config
from ldmref.io.adapters.lora import apply_loras
from ldmref.io.adapters.lora_changes import lora_changes
from ldmref.io.adapters.lora_file import Lora, read_loras
from ldmref.io.key_table import list_stored_shapes
from ldmref.models.model import model_spec
from ldmref.models.params import flatten
from ldmref.models.presets import preset

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
import flux_networks  # noqa: E402
import sd3_networks  # noqa: E402
from diffusers.loaders import lora_conversion_utils  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

from ldmref.training.finetune.finetuning_run import fine_tune  # noqa: E402
from ldmref.training.finetune.recipe import FineTuneRecipe  # noqa: E402
from ldmref.training.recipes.file import recipe_from_dict  # noqa: E402

RANK = 3
SIZE = {"width": 24, "height": 16}
PIPELINES = {
    "flux dev": lambda: flux_networks.make_pipeline(True),
    "flux schnell": lambda: flux_networks.make_pipeline(False),
    "sd3 medium": lambda: sd3_networks.make_pipeline("3 medium"),
    "sd3.5 medium": lambda: sd3_networks.make_pipeline("3.5 medium"),
}


@pytest.fixture(params=PIPELINES)
def made(request, tmp_path, skip):
    """(diffusers' pipeline, the folder that it writes)."""
    if find_spec("peft") is None:
        skip("peft", "needed for diffusers' own merging, is not installed")
    pipe = PIPELINES[request.param]()
    pipe.save_pretrained(tmp_path / "model")
    return pipe, tmp_path / "model"


def random_pair(shape, seed):
    draw = np.random.default_rng(seed).standard_normal
    down, up = draw((RANK, *shape[1:])), draw((shape[0], RANK, *(1,) * (len(shape) - 2)))
    return 0.3 * down, 0.3 * up


def peft_file(config, path, dtype="float64", text=True):
    """Write a LoRA for every layer of the transformer and, with `text`, for those of CLIP."""
    tensors = {}
    for seed, (name, shape) in enumerate(flatten(model_spec(config)).items()):
        part, _, layer = name.removesuffix(".weight").partition(".")
        of_clip = text and part.startswith("text_encoder") and ".layers." in layer
        wanted = part == "transformer" or of_clip
        if wanted and name.endswith(".weight") and len(shape) in (2, 4):
            down, up = random_pair(shape, seed)
            tensors |= {f"{part}.{layer}.lora_A.weight": down.astype(dtype)}
            tensors |= {f"{part}.{layer}.lora_B.weight": up.astype(dtype)}
    save_file(tensors, str(path), {"format": "pt"})
    return tensors


def test_merged_weights_are_those_of_diffusers(made, tmp_path):
    """In float64."""
    pipe, folder = made
    config, flat, _ = load_diffusers(folder)
    flat = {name: x.astype(np.float64) for name, x in flat.items()}
    tensors = peft_file(config, tmp_path / "a.safetensors")
    ours = apply_loras(config, flat, read_loras([(tmp_path / "a.safetensors", 0.7)]))
    for module in (pipe.transformer, pipe.text_encoder, pipe.text_encoder_2):
        module.double()
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    assert_merged_alike(pipe, ours, 0.7, 1e-10)
    changed = sum(not np.array_equal(ours[name], flat[name]) for name in flat)
    assert changed == len(tensors) // 2


def assert_merged_alike(pipe, ours, scale, bound):
    """Compare the weights into which diffusers merges the LoRA that it has read with ours."""
    pipe.fuse_lora(components=pipe._lora_loadable_modules, lora_scale=scale)
    pipe.unload_lora_weights()
    for part in ("transformer", "text_encoder", "text_encoder_2"):
        for name, x in getattr(pipe, part).state_dict().items():
            if name == "encoder.embed_tokens.weight":  # T5's table, a second time
                continue
            name = f"{part}.{name}"
            if name not in ours:
                name = f"{part}.text_model.{name.partition('.')[2]}"
            want = x.detach().numpy()
            assert np.abs(ours[name] - want).max() <= bound * max(1.0, np.abs(want).max()), name


@pytest.mark.parametrize("made", ["flux dev", "sd3.5 medium"], indirect=True)
def test_images_are_those_of_diffusers(made, tmp_path):
    pipe, folder = made
    config, _, _ = load_diffusers(folder)
    peft_file(config, tmp_path / "a.safetensors", "float32", text=False)
    plain = ldmref.load(folder)
    model = ldmref.load(folder, lora=[tmp_path / "a.safetensors"])
    shape = 1, *plain.latent_shape(**SIZE)
    latents = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    packed = torch.tensor(latents)
    if "Flux" in type(pipe).__name__:
        packed = type(pipe)._pack_latents(packed, 1, *shape[1:])
    pipe.load_lora_weights(tmp_path, weight_name="a.safetensors")
    options = {"guidance_scale": 2.5, "num_inference_steps": 3, "output_type": "np"}
    want = pipe("a red cat", latents=packed, **options, **SIZE).images[0]
    options = {"latents": latents, "cfg_scale": 2.5, "steps": 3, **SIZE}
    got, before = (modes.txt2img(m, "a red cat", **options).images[0] for m in (model, plain))
    assert np.abs(np.asarray(got).astype(int) - np.round(want * 255)).max() <= 1
    assert np.abs(np.asarray(before).astype(int) - np.round(want * 255)).max() > 8


@pytest.mark.parametrize("made", ["flux dev", "sd3.5 medium"], indirect=True)
def test_a_fine_tuning_is_resumed_and_read_by_diffusers(made, tmp_path):
    """Interrupted and resumed, the file is the same; diffusers merges what was trained."""
    pipe, folder = made
    (tmp_path / "images").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(tmp_path / "images" / f"{colour}.png")
    tables = {
        "base": str(folder),
        "data": {"source": str(tmp_path / "images"), "size": 16},
        "lora": {"rank": 4, "alpha": 3.0},
        "diffusion": {
            "optimizer": {"batch_size": 2, "warmup": 1, "learning_rate": 0.02},
            "budget": {"steps": 4},
        },
    }
    recipe = recipe_from_dict(tables)
    assert isinstance(recipe, FineTuneRecipe)
    once = fine_tune(recipe, tmp_path / "once")
    cancel = Event()
    with pytest.raises(Cancelled):
        fine_tune(recipe, tmp_path / "twice", on_progress=lambda p: cancel.set(), cancel=cancel)
    assert fine_tune(recipe, tmp_path / "twice").read_bytes() == once.read_bytes()

    config, flat, _ = load_diffusers(folder)
    ours = apply_loras(config, flat, read_loras([once]))
    pipe.load_lora_weights(once.parent, weight_name=once.name)
    assert_merged_alike(pipe, ours, 1.0, 2e-6)
    assert sum(not np.array_equal(ours[name], flat[name]) for name in flat) > 30


@pytest.mark.parametrize("made", ["flux dev", "sd3.5 medium"], indirect=True)
def test_a_whole_transformer_is_trained_and_resumed_bit_for_bit(made, tmp_path):
    """With the targets of flow matching; every weight of the transformer changes."""
    _, folder = made
    (tmp_path / "images").mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(tmp_path / "images" / f"{colour}.png")
    recipe = recipe_from_dict(
        {
            "base": str(folder),
            "method": "full",
            "data": {"source": str(tmp_path / "images"), "size": 16},
            "diffusion": {
                "optimizer": {"batch_size": 2, "warmup": 1, "learning_rate": 0.01},
                "budget": {"steps": 4},
            },
        }
    )
    assert isinstance(recipe, FineTuneRecipe)
    once = fine_tune(recipe, tmp_path / "once")
    cancel = Event()
    with pytest.raises(Cancelled):
        fine_tune(recipe, tmp_path / "twice", on_progress=lambda p: cancel.set(), cancel=cancel)
    again = fine_tune(recipe, tmp_path / "twice")
    weights = [(path / "model.safetensors").read_bytes() for path in (once, again)]
    assert weights[0] == weights[1]
    before, after = (flatten(ldmref.load(path).params["transformer"]) for path in (folder, once))
    still = [name for name in before if np.abs(after[name] - before[name]).max() < 1e-5]
    assert len(before) > 50 and len(still) <= 4  # the last block drops the text


# -- diffusers' converters, which have the published size of Flux.1 built in ---------------------

DEV = preset("flux-dev")


def dev_file(down_end, up_end, name_of, more=False, config=DEV):
    """A LoRA of every layer of a model of Flux.1 in its makers' layout."""
    tensors = {}
    for seed, (name, shape) in enumerate(list_stored_shapes(original_table(config)).items()):
        layer, _, leaf = name.rpartition(".")
        rng = np.random.default_rng(seed)
        if leaf == "weight":
            down, up = random_pair(shape, seed)
            tensors |= {name_of(layer) + down_end: down, name_of(layer) + up_end: up}
        elif more and leaf == "bias":
            tensors[f"{layer}.lora_B.bias"] = rng.standard_normal(shape)
        elif more:
            tensors[name] = rng.standard_normal(shape)
    return tensors


def assert_equal_changes(tensors, converted, config=DEV):
    """Compare products of `up` and `down` with random columns, biases and norms."""
    changes = lora_changes(config, Lora("style", tensors))
    found = {}
    for name, x in converted.items():
        name = f"transformer.{name.removeprefix('transformer.')}"
        layer, _, leaf = name.partition(".lora_")
        if leaf == "":
            found[name] = {"whole": x.numpy()}
        elif leaf == "B.bias":
            found[f"{layer}.bias"] = {"offset": x.numpy()}
        else:
            role = {"A.weight": "down", "B.weight": "up"}[leaf]
            found.setdefault(f"{layer}.weight", {})[role] = x.numpy()
    assert found.keys() == changes.keys()
    for name, want in found.items():
        got = changes[name]
        if "up" not in want:
            (role,) = want
            assert np.array_equal(got.parts[role], want[role]), name
            continue
        columns = np.random.default_rng(0).standard_normal((want["down"].shape[1], 2))
        theirs = want["up"] @ (want["down"] @ columns)
        ours = got.scale * got.parts["up"] @ (got.parts["down"] @ columns)
        assert np.abs(ours - theirs).max() <= 1e-10 * np.abs(theirs).max(), name


def test_kohyas_files_are_read_as_by_diffusers():
    """Queries, keys and values are stacked there, in blocks of one stream with the MLP's."""
    tensors = dev_file(
        ".lora_down.weight", ".lora_up.weight", lambda layer: "lora_unet_" + layer.replace(".", "_")
    )
    scaled = {name.partition(".")[0] for name in tensors if "final_layer" not in name}
    tensors |= {f"{layer}.alpha": np.asarray(1.5) for layer in scaled}  # there diffusers drops it
    theirs = {name: torch.tensor(x) for name, x in tensors.items()}
    converted = lora_conversion_utils._convert_kohya_flux_lora_to_diffusers(theirs)
    assert_equal_changes(tensors, converted)


@pytest.mark.parametrize("name", ["flux-dev", "flux-control-dev"])
def test_black_forest_labs_files_are_read_as_by_diffusers(name):
    """With their changes of biases, and norms; those that read a control image widen `img_in`.

    diffusers exchanges the halves of `down` too in the last layer, where only `up` has them.
    """
    config = preset(name)
    ends = (".lora_A.weight", ".lora_B.weight")
    tensors = dev_file(*ends, lambda layer: layer, more=True, config=config)
    assert widen_config(DEV, [Lora("control", tensors)]).concat == config.concat
    theirs = {name: torch.tensor(x) for name, x in tensors.items()}
    converted = lora_conversion_utils._convert_bfl_flux_control_lora_to_diffusers(theirs)
    name = "transformer.norm_out.linear.lora_A.weight"
    down = tensors["final_layer.adaLN_modulation.1.lora_A.weight"]
    up = converted["transformer.norm_out.linear.lora_B.weight"].numpy()
    error = np.linalg.norm(up @ (converted[name].numpy() - down)) / np.linalg.norm(up @ down)
    assert round(error, 1) == 1.4
    converted[name] = torch.tensor(down)
    assert_equal_changes(tensors, converted, config)
