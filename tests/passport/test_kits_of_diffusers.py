"""diffusers and transformers open the folder of a kit, and what they read computes its run."""

import json

import numpy as np
import pytest

import ldmref
from ldmref.io.key_table import find_matching
from ldmref.models.autoencoder_kind import autoencoder_of
from ldmref.models.config import TEXT_ENCODERS
from ldmref.models.text_kind import kind_of
from ldmref.passport import check_dump, run_pipeline
from ldmref.passport.make import distinct_families
from ldmref.passport.pipelines import make_object
from ldmref.ports.pipeline_folder import parts_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

CLOSE = 2e-5  # relative, of float32 through a few blocks
LDM = "ldm-text2img256"  # whose pipeline reads another number of tokens than its kit
FAMILIES = [name for name in distinct_families() if name != LDM]


def read_index(kit):
    paths = [kit.folder / f"{name}.json" for name in ("model_index", "modular_model_index")]
    return json.loads(next(path for path in paths if path.is_file()).read_text())


def open_part(kit, name, library, kind):
    """Return a part of the pipeline, which its class reads from the folder alone."""
    modules = {"diffusers": diffusers, "transformers": transformers}
    found = getattr(modules.get(library) or getattr(diffusers.pipelines, library), kind)
    report = {"output_loading_info": True} if hasattr(found, "load_state_dict") else {}
    made = found.from_pretrained(kit.folder, subfolder=name, **report)
    if not report:
        return made
    network, notes = made
    missing = {*notes["missing_keys"]} - find_matching(unread(kit, name), notes["missing_keys"])
    assert not missing and not notes["unexpected_keys"] and not notes["mismatched_keys"]
    return network.eval()


def unread(kit, name):
    """Return a pattern of the weights that a network of transformers or diffusers has besides."""
    config = kit.config
    if name in ("vae", "vqvae"):
        return autoencoder_of(config.vae).ignored
    texts = dict(zip(TEXT_ENCODERS, config.text_encoders, strict=False))
    text = config.text_encoder if name == "bert" else texts.get(name)
    return "" if text is None else kind_of(text).ignored


def open_parts(kit):
    index = read_index(kit)
    named = {name: x for name, x in index.items() if isinstance(x, list) and len(x) > 1 and x[0]}
    named = {name: x for name, x in named.items() if isinstance(x[0], str)}
    return {name: open_part(kit, name, *x[:2]) for name, x in named.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pipeline_of_the_parts_of_a_folder_passes(make_small_kit, family):
    kit = make_small_kit(family)
    parts, config = parts_of(kit.config), kit.config
    opened = open_parts(kit)
    read = {k: opened.pop(parts.tokenizer_folders.get(k, k)) for k in tokenizers_of(config)}
    made = opened | parts.tokenizers(read)
    made |= {name: make_object(part) for name, part in parts.more(config, kit.request).items()}
    pipe = make_object(parts.pipeline(config), **made)
    parts.adapt(pipe)
    pipe.set_progress_bar_config(disable=True)
    with ldmref.recording(pipe) as run:
        run_pipeline(pipe, kit)
    verdict = check_dump(run.trace, kit)
    assert verdict.passed, str(verdict)


def tokenizers_of(config):
    names = ("tokenizer", "tokenizer_2", "tokenizer_3")
    return names[: len(config.text_encoders)]


ALONE = "qwen-image-2.1"  # whose kit has a tokenizer, and nothing that reads images
ORDINARY = [name for name in FAMILIES if not name.startswith("flux3") and name != ALONE]


@pytest.mark.parametrize("family", ORDINARY)
def test_the_pipeline_of_a_folder_is_opened(make_small_kit, family):
    kit = make_small_kit(family)
    pipe = diffusers.DiffusionPipeline.from_pretrained(kit.folder)
    assert type(pipe).__name__ == read_index(kit)["_class_name"]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name.startswith("flux3")])
def test_the_modular_pipeline_of_a_folder_is_opened(make_small_kit, family):
    kit = make_small_kit(family)
    pipe = diffusers.ModularPipeline.from_pretrained(kit.folder)
    pipe.load_components(["transformer", "vae"])
    assert type(pipe).__name__ == read_index(kit)["_class_name"]
    assert pipe.transformer.config.in_channels == kit.config.denoiser.in_channels


def test_networks_of_latent_diffusion_compute_the_outputs_of_the_kit(make_small_kit):
    kit = make_small_kit(LDM)
    parts = open_parts(kit)

    def read(name):
        return torch.from_numpy(np.array(kit.trace.tensors[name]))

    def compare(found, name):
        expected = np.asarray(kit.trace.tensors[name])
        assert np.abs(found.numpy() - expected).max() <= CLOSE * np.abs(expected).max()

    with torch.inference_mode():
        compare(parts["bert"](read("tokens//output.ids")[0])[0], "text_encoder//output")
        arguments = [read(f"unet.000//input.{x}").float() for x in ("sample", "timestep")]
        states = read("unet.000//input.encoder_hidden_states").float()
        compare(parts["unet"](*arguments, states).sample, "unet.000//output")
        latents = read("vae.decode//input.latents").float()
        compare(parts["vqvae"].decode(latents).sample, "vae.decode//output")
