"""Numbers of the presets against the files of their makers, and small rules of their parts."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np
import pytest

import ldmref
from ldmref.backends import get_backend
from ldmref.errors import UsageError
from ldmref.families.combined_files import lacks_t5, list_other_networks
from ldmref.families.lookup import find_network, known_networks, networks_of_run
from ldmref.families.sd3.network import crop_positions
from ldmref.io.key_table import list_stored_shapes
from ldmref.models import preset
from ldmref.models.family import BLOCK_LAYERS, family_of, list_families
from ldmref.models.model import model_spec
from ldmref.models.params import Params, flatten
from ldmref.prompts.tokenizer import PromptOptions

OPS = get_backend("numpy", dtype="float64")
SD3 = ("sd3-medium", "sd35-medium", "sd35-large")
FLUX = ("flux-schnell", "flux-dev", "flux-fill-dev", "flux-control-dev")
T5 = {  # google/t5-v1_1-xxl, config.json
    "vocab_size": 32128, "hidden_size": 4096, "intermediate_size": 10240, "num_hidden_layers": 24,
    "num_attention_heads": 64, "head_dim": 64, "layer_norm_eps": 1e-6, "eos_token_id": 1,
    "hidden_act": "gelu_new", "model_type": "t5",
}  # fmt: skip


@pytest.mark.parametrize("name", [*SD3, *FLUX])
def test_t5_is_the_published_one(name):
    text = preset(name).text_encoders[-1]
    assert {field: getattr(text, field) for field in T5} == T5
    assert text.max_position_embeddings == (256 if name in SD3 else 512)


@pytest.mark.parametrize("name", [*SD3, *FLUX])
def test_autoencoders_schedules_and_usual_requests(name):
    config = preset(name)
    vae = config.vae
    scale = (1.5305, 0.0609) if name in SD3 else (0.3611, 0.1159)
    assert (vae.scaling_factor, vae.shift_factor, vae.latent_channels) == (*scale, 16)
    assert not vae.use_quant_conv and not vae.use_post_quant_conv
    shift = {"flux-schnell": 1.0}.get(name, 3.0)
    assert config.scheduler.shift == shift
    assert config.scheduler.dynamic_shift == (name in FLUX[1:])
    assert config.scheduler.prediction_type == "flow" and config.scheduler.final_sigma == "zero"
    usual = {
        "flux-schnell": (4, 1.0),
        "flux-dev": (28, 3.5),
        "flux-fill-dev": (50, 30.0),
        "flux-control-dev": (50, 10.0),
    }.get(name, (28, 7.0))
    assert (config.defaults.steps, config.defaults.cfg_scale) == usual
    assert (config.defaults.width, config.defaults.height) == (1024, 1024)


def test_transformers_have_their_published_sizes():
    sizes = {
        "sd3-medium": (24, 24, 192, "", 0),
        "sd35-medium": (24, 24, 384, "rms_norm", 13),
        "sd35-large": (38, 38, 192, "rms_norm", 0),
    }
    for name, (layers, heads, side, norm, dual) in sizes.items():
        net = preset(name).denoiser
        assert (net.num_layers, net.num_attention_heads, net.attention_head_dim) == (
            layers,
            heads,
            64,
        )
        assert (net.pos_embed_max_size, net.qk_norm) == (side, norm)
        assert net.dual_attention_layers == tuple(range(dual))
        assert (net.joint_attention_dim, net.pooled_projection_dim) == (4096, 2048)
        assert (net.in_channels, net.out_channels, net.patch_size, net.sample_size) == (
            16,
            16,
            2,
            128,
        )
    channels = {"flux-schnell": 64, "flux-dev": 64, "flux-fill-dev": 384, "flux-control-dev": 128}
    for name, count in channels.items():
        net = preset(name).denoiser
        assert 4 * net.in_channels == count and 4 * net.out_channels == 64
        assert (net.num_layers, net.num_single_layers, net.num_attention_heads) == (19, 38, 24)
        assert (net.attention_head_dim, tuple(net.axes_dims_rope)) == (128, (16, 56, 56))
        assert net.guidance_embeds == (name != "flux-schnell")


OF_CHATS = {  # steps, guidance, most tokens and layers that are read; the makers' repositories
    "z-image": (50, 6.0, 512, (-2,)),
    "z-image-turbo": (8, 1.0, 512, (-2,)),
    "flux2-klein-4b": (4, 1.0, 512, (9, 18, 27)),
    "flux2-klein-9b": (4, 1.0, 512, (9, 18, 27)),
    "flux2-klein-base-4b": (50, 4.0, 512, (9, 18, 27)),
    "flux3-klein": (16, 1.0, 4096, tuple(range(4, 36, 4))),
    "flux3-klein-base": (50, 3.5, 4096, tuple(range(4, 36, 4))),
    "qwen-image-2.1": (40, 1.0, 512, (-1,)),
    "qwen-image-2.1-turbo": (8, 1.0, 512, (-1,)),
    "krea-2": (28, 5.5, 512 + 34, tuple(range(2, 36, 3))),  # 34 tokens of the chat are dropped
    "krea-2-turbo": (8, 1.0, 512 + 34, tuple(range(2, 36, 3))),
}
LINES = {  # of the shift: its smallest and largest number, and the tokens of these
    "qwen-image-2.1": (0.5, 0.9, 256, 8192),
    "krea-2": (0.5, 1.15, 256, 6400),
}
SHIFTS = {"z-image": 6.0, "z-image-turbo": 3.0, "flux3-klein": 6.93, "flux3-klein-base": 6.93}


@pytest.mark.parametrize("name", OF_CHATS)
def test_usual_requests_and_schedules_of_models_with_chats(name):
    config = preset(name)
    text, usual, scheduler = config.text_encoder, config.defaults, config.scheduler
    found = usual.steps, usual.cfg_scale, text.max_position_embeddings, text.hidden_layers
    assert found == OF_CHATS[name] and not text.final_norm
    assert (usual.width, usual.height) == (1024, 1024)
    assert scheduler.shift == SHIFTS.get(name, scheduler.shift)
    assert scheduler.dynamic_shift == (name not in SHIFTS and name != "qwen-image-2.1-turbo")
    if name in LINES:
        line = scheduler.base_shift, scheduler.max_shift
        line += scheduler.base_image_seq_len, scheduler.max_image_seq_len
        assert line == LINES[name]
    assert scheduler.shift_terminal == (0.02 if name == "qwen-image-2.1" else 0.0)


def test_latents_of_qwen_image_have_the_published_means_and_deviations():
    diffusers = pytest.importorskip("diffusers")
    theirs = inspect.signature(diffusers.AutoencoderKLQwenImage21.__init__).parameters
    vae = preset("qwen-image-2.1").vae
    assert vae.latents_mean == tuple(theirs["latents_mean"].default)
    assert vae.latents_std == tuple(theirs["latents_std"].default)


# -- texts ----------------------------------------------------------------------------------------


def test_weights_of_words_change_the_states_of_t5_alone():
    model = ldmref.random_model("flux-tiny", backend="numpy", dtype="float64")
    config, ops = model.config, model.backend
    assert ops is not None
    options = PromptOptions(prompt_weights="a1111")
    tokens = [t.tokenize(["a (red:2) cat"], options) for t in model.tokenizers]

    def compile_network(function, name):
        return partial(function, ops, Params(model.params[name]))

    def encode(weighted):
        encode = family_of(config).text.encode
        return encode(ops, config.text_encoders, tokens, compile_network, weighted=weighted)

    plain, weighted = encode(False), encode(True)
    assert np.array_equal(plain.pooled, weighted.pooled)
    weights = tokens[1].weights.reshape(1, -1, 1)
    assert {*np.unique(weights)} == {1.0, 2.0}
    scaled = plain.states * weights
    want = scaled * (plain.states.mean() / scaled.mean())
    np.testing.assert_allclose(weighted.states, want, rtol=1e-9)


# -- positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (2, 1), (1, 3), (3, 2)])
def test_the_middle_of_the_table_is_taken(rows, columns):
    table = np.arange(36.0).reshape(1, 9, 4)
    top, left = (3 - rows) // 2, (3 - columns) // 2
    want = table.reshape(3, 3, 4)[top : top + rows, left : left + columns].reshape(1, -1, 4)
    got = crop_positions(OPS, table, np.zeros((2, 5, rows, columns)))
    assert np.array_equal(got, want)


@pytest.mark.parametrize("size", [(4, 3), (3, 4)])
def test_the_table_has_no_more_positions(size):
    with pytest.raises(UsageError) as caught:
        crop_positions(OPS, np.zeros((1, 9, 4)), np.zeros((1, 5, *size)))
    assert caught.value.code == "E-SIZE"


# -- parts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd3-tiny", "flux-tiny"])
def test_layers_of_a_lora_have_the_groups_of_every_family(name):
    targets = family_of(preset(name)).lora.targets
    assert {"attention", "feed_forward"} <= targets.keys() & {*BLOCK_LAYERS}
    names = flatten(model_spec(preset(name)))
    for group in ("attention", "feed_forward", "projections"):
        ends = tuple(f"{end}.weight" for end in targets[group])
        assert any(layer.endswith(ends) for layer in names)


# -- files and names ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SD3, *FLUX, *OF_CHATS])
def test_a_single_file_is_recognised_by_its_shapes(name):
    config = preset(name)
    every = [list_stored_shapes(layout.table(config)) for layout in family_of(config).files]
    found = [layout.recognise(shapes) for layout in family_of(config).files for shapes in every]
    known = [other for other in found if other is not None]
    assert known and all(other.denoiser == config.denoiser for other in known)
    assert {repr(other.denoiser) for other in known} == {repr(config.denoiser)}  # whole numbers
    for layout in family_of(config).files:
        assert layout.recognise({}) is None
        assert layout.recognise({"x_embedder.proj.weight": (1, 2, 3)}) is None


def test_a_file_with_text_encoders_may_lack_t5():
    clip = "text_encoders.clip_l.transformer.text_model.embeddings.position_embedding.weight"
    t5 = "text_encoders.t5xxl.transformer.shared.weight"
    other = "text_encoders.t5xxl_other.weight"
    assert not lacks_t5({}) and not lacks_t5({"model.x": (1,)})
    assert lacks_t5({clip: (1,)}) and lacks_t5({clip: (1,), other: (1,)})
    assert not lacks_t5({clip: (1,), t5: (1,)}) and not lacks_t5({t5: (1,)})


def test_the_projection_of_the_first_text_encoder_is_the_identity():
    config = preset("sd3-tiny")
    tables = list_other_networks(config, ("clip_l", "clip_g", "t5xxl"), "first_stage_model.")
    assert [*tables] == ["vae", "text_encoder", "text_encoder_2", "text_encoder_3"]
    first = tables["text_encoder"]["text_projection.weight"]
    assert np.array_equal(first, np.eye(config.text_encoder.projection_dim))
    second = tables["text_encoder_2"]["text_projection.weight"]
    assert second.name == "text_encoders.clip_g.transformer.text_projection.weight"
    flux = preset("flux-tiny")
    tables = list_other_networks(flux, ("clip_l", "t5xxl"), "vae.")
    assert [*tables] == ["vae", "text_encoder", "text_encoder_2"]
    assert "text_projection.weight" not in tables["text_encoder"]
    assert all(entry.name.startswith("vae.") for entry in tables["vae"].values())


def test_networks_are_found_by_their_configuration():
    sdxl = preset("sdxl")
    networks = networks_of_run(sdxl)
    for name in ("text_encoder", "text_encoder_2"):
        own = next(network for network in networks if network.name == name)
        function = own.function.__name__
        assert find_network(networks, function, own.settings).name == name
        equal = {"config": type(own.settings["config"])(**vars(own.settings["config"]))}
        same = [x for x in networks if x.function.__name__ == function]
        assert find_network(same[::-1], function, equal).name == name
    first = next(network for network in networks if network.name == "text_encoder")
    assert find_network(networks, first.function.__name__, {}) is not None
    assert find_network(networks, "no_network", first.settings) is None
    names = known_networks()
    assert {network.name for network in networks} <= names and "transformer" in names


@pytest.mark.parametrize("family", [*list_families()], ids=lambda family: family.name)
def test_the_guidance_that_is_asked_of_a_pipeline_is_read_as_ours(family):
    """In tenths, whose sums with 1 are rounded."""
    theirs = family.guidance_scale
    for scale in np.arange(15, 120) / 10:
        assert theirs.convert(theirs.ask(float(scale))) == pytest.approx(scale, rel=1e-15)
