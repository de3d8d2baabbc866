"""Names in single files of transformers, other networks in them, and reference images."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ldmref.backends import get_backend
from ldmref.families import auxiliary, combined_files, lookup, reference_images, transformer_files
from ldmref.families.transformer_files import PREFIX, MakersLayer
from ldmref.io.key_table import KeyEntry
from ldmref.models import preset
from ldmref.models.classifier import ClassifierConfig
from ldmref.models.declared import BATCH, CallSize
from ldmref.models.params import flatten
from ldmref.models.taesd import TinyConfig

# -- names ----------------------------------------------------------------------------------------


ENDS = {
    "norm": "last",
    "blocks.1.up": "special",
    "proj.weight": MakersLayer("flat", form="flat"),
    "stack": MakersLayer("both", rows=(4, 12)),
}
BLOCKS = {"blocks": ("layers", {"up": "mlp.0", "to_k": MakersLayer("qkv", 1, "swapped")})}


@pytest.mark.parametrize(
    ("name", "stored", "layout"),
    [
        ("norm.weight", "last.weight", {}),
        ("norm.inner.bias", "last.inner.bias", {}),
        ("other.weight", "other.weight", {}),
        ("proj.weight", "flat", {"form": "flat"}),
        ("proj.bias", "proj.bias", {}),
        ("stack.weight", "both.weight", {"rows": (4, 12)}),
        ("blocks.0.up.weight", "layers.0.mlp.0.weight", {}),
        ("blocks.12.down.weight", "layers.12.down.weight", {}),
        ("blocks.1.up.weight", "special.weight", {}),
        ("blocks.3.to_k.weight", "layers.3.qkv.weight", {"third": 1, "form": "swapped"}),
        ("more.blocks.3.up.weight", "more.blocks.3.up.weight", {}),
    ],
)
def test_the_tensor_of_a_parameter(name, stored, layout):
    found = transformer_files.find_entry(name, (4, 3), ENDS, BLOCKS)
    assert found == KeyEntry(stored, (4, 3), **layout)


def test_a_prefix_precedes_all_names():
    spec = {"norm": {"weight": (4,)}, "blocks": {"0": {"up": {"weight": (4, 3)}}}}
    found = transformer_files.list_entries(spec, ENDS, BLOCKS, "model.")
    assert {name: (x.name, x.shape) for name, x in found.items()} == {
        "norm.weight": ("model.last.weight", (4,)),
        "blocks.0.up.weight": ("model.layers.0.mlp.0.weight", (4, 3)),
    }
    assert transformer_files.list_entries(spec, ENDS, BLOCKS)["norm.weight"].name == "last.weight"


def test_stacks_have_thirds():
    found = transformer_files.stack_layers("qkv", ("q", "k", "v"))
    assert found == {name: MakersLayer("qkv", i) for i, name in enumerate("qkv")}
    assert MakersLayer("x") == ("x", None, "", None)


def test_blocks_are_counted_by_their_numbers():
    names = ["a.0.x", "a.0.y", "a.10.x", "ab.3.x", "b.a.5.x", "a"]
    found = [transformer_files.count_blocks(names, kind) for kind in ("a", "ab", "c")]
    assert found == [2, 1, 0]


def test_a_prefix_is_removed_where_it_is():
    shapes = {"p.a": (1,), "b": (2,), "p.p.c": (3,)}
    assert transformer_files.remove_prefix(shapes, "p.") == {"a": (1,), "p.c": (3,)}
    assert transformer_files.remove_prefix(shapes, "") == shapes


# -- recognition ----------------------------------------------------------------------------------


@pytest.mark.parametrize("problem", [ValueError, IndexError, ZeroDivisionError])
def test_another_file_is_none(problem):
    config = preset("z-image-tiny")

    @transformer_files.reads_sizes
    def recognise(own, wrong=False, *, error=None):
        if error:
            raise error
        return config if own["a"] == (1,) and not wrong else None

    assert recognise.__name__ == "recognise"
    assert recognise({"a": (1,)}) is config and recognise({"p.a": (1,)}, "p.") is config
    assert recognise({"p.a": (1,)}, prefix="p.", wrong=True) is None
    assert recognise({"a": (1,)}, "", True) is None
    assert recognise({"p.a": (1,)}) is None
    assert recognise({"a": (1,)}, error=problem) is None
    with pytest.raises(TypeError):
        recognise({"a": (1,)}, error=TypeError)
    with pytest.raises(KeyError):
        recognise({"a": (1,)}, error=KeyError("not of a tensor"))


def test_files_are_with_the_prefix_and_without():
    def recognise(shapes, prefix=""):
        return prefix, shapes

    def table(config, prefix=""):
        return {prefix: config}

    made = transformer_files.list_files("a file", recognise, table, "x.*", whole=True)
    assert PREFIX == "model.diffusion_model." and len(made) == 2
    for layout, prefix in zip(made, ("", PREFIX), strict=True):
        assert layout.recognise("s") == (prefix, "s") and layout.table("c") == {prefix: "c"}
        assert (layout.description, layout.ignored, layout.whole) == ("a file", "x.*", True)
    assert transformer_files.list_files("a file", recognise, table)[0].ignored == ""


def test_a_transformer_is_a_known_one_or_like_the_nearest():
    base = preset("z-image")
    network = base.denoiser
    models = {"base": base, "turbo": preset("z-image-turbo")}

    def find(network, head=128, nearest=base):
        return transformer_files.find_model(models, network, head, nearest, "axes_dims")

    assert find(network) is base
    assert find(replace(network, sample_size=7, axes_dims=(2, 2, 2))) is base
    other = replace(network, n_layers=3)
    assert find(other) == replace(base, denoiser=other)
    assert find(other, nearest=None) is None and find(network, nearest=None) is base
    assert find(other, head=64) is None and find(network, head=64) is base
    with pytest.raises(AttributeError):
        transformer_files.find_model(models, network, 128, base)


# -- other networks in a file ---------------------------------------------------------------------


UNUSED = (
    "text_encoders.clip_l.logit_scale",
    "text_encoders.t5xxl.logit_scale",
    "text_encoders.clip_g.transformer.text_model.embeddings.position_ids",
    "text_encoders.clip_l.text_projection",
    "text_encoders.clip_l.transformer.text_projection.weight",
    "text_encoders.t5xxl.transformer.encoder.embed_tokens.weight",
)


def test_tensors_that_nobody_reads():
    for name in UNUSED:
        assert re.fullmatch(combined_files.UNUSED, name), name
    for name in (
        "text_encoders.clip_g.transformer.text_projection.weight",
        "text_encoders.clip_l.transformer.text_model.final_layer_norm.weight",
        "clip_l.logit_scale",
    ):
        assert re.fullmatch(combined_files.UNUSED, name) is None, name


def test_names_of_text_encoders_and_autoencoder():
    config = preset("sd3-tiny")
    tables = combined_files.list_other_networks(config, ("clip_l", "clip_g", "t5xxl"), "first.")
    name = "text_model.final_layer_norm.weight"
    for network, stored in (("text_encoder", "clip_l"), ("text_encoder_2", "clip_g")):
        assert tables[network][name].name == f"text_encoders.{stored}.transformer.{name}"
    t5 = tables["text_encoder_3"]["shared.weight"]
    assert t5.name == "text_encoders.t5xxl.transformer.shared.weight"
    assert tables["vae"]["decoder.conv_in.weight"].name == "first.decoder.conv_in.weight"
    width = config.text_encoder.projection_dim
    identity = tables["text_encoder"]["text_projection.weight"]
    assert identity.dtype == np.float32 and np.array_equal(identity, np.eye(width))
    bare = replace(config, text_encoder=replace(config.text_encoder, projection_dim=0))
    tables = combined_files.list_other_networks(bare, ("clip_l",), "first.")
    assert [*tables] == ["vae", "text_encoder"]
    assert "text_projection.weight" not in tables["text_encoder"]


def test_the_constants_of_such_files():
    found = combined_files.TEXTS, combined_files.CLIP_L, combined_files.CLIP_G, combined_files.T5
    assert found == ("text_encoders.", "clip_l", "clip_g", "t5xxl")
    assert combined_files.PROJECTION == "text_projection.weight"


# -- reference images -----------------------------------------------------------------------------


class Sized:
    """An image without pixels, which says how it was scaled and cropped."""

    def __init__(self, *size, scaled=()):
        self.size = size
        self.scaled = scaled

    def resize(self, size, resample):
        return Sized(*size, scaled=(size, resample))

    def crop(self, box):
        left, top, right, bottom = box
        assert 0 <= left <= right <= self.size[0] and 0 <= top <= bottom <= self.size[1]
        return Sized(right - left, bottom - top, scaled=self.scaled)


@pytest.mark.parametrize(
    ("size", "want"),
    [
        ((16, 16), (16, 16)),
        ((17, 47), (16, 32)),
        ((48, 31), (48, 16)),
        ((1024, 1024), (1024, 1024)),
        ((1024, 1025), (1008, 1024)),
        ((2048, 512), (2048, 512)),
        ((4096, 1024), (2048, 512)),
        ((200_000, 6), (186_944, 16)),
    ],
)
def test_references_are_cropped_to_whole_tokens(size, want):
    """After they were scaled to 1024^2 pixels, of which no side is less than a token's."""
    for count in (1, 3):
        found = reference_images.crop_to_tokens(Sized(*size), count)
        assert found.size == want and all(isinstance(side, int) for side in found.size)
        assert bool(found.scaled) == (size[0] * size[1] > 1024**2)
        assert not found.scaled or found.scaled[1] == Image.Resampling.LANCZOS


def test_the_middle_of_a_reference_is_kept():
    rows, columns = np.mgrid[0:41, 0:23]
    pixels = np.stack([rows, columns, 0 * rows], axis=-1).astype(np.uint8)
    found = np.asarray(reference_images.crop_to_tokens(Image.fromarray(pixels)))
    assert found.shape == (32, 16, 3)
    assert found[0, 0].tolist() == [4, 3, 0] and found[-1, -1].tolist() == [35, 18, 0]


def test_a_small_reference_is_filled_up_to_a_token():
    found = np.asarray(reference_images.crop_to_tokens(Image.new("RGB", (6, 40), "white")))
    assert found.shape == (32, 16, 3)
    assert found[:, 5:11].min() == 255 and found[:, :5].max() == 0 == found[:, 11:].max()


def test_cells_of_references_follow_each_other():
    ops = get_backend("numpy", dtype="float64")
    model = SimpleNamespace(backend=ops, encode_image=lambda image: image[:, :2])
    images = [np.arange(36.0).reshape(1, 3, 3, 4), np.arange(12.0).reshape(1, 3, 2, 2) + 100]
    cells, latents = reference_images.encode_cells(model, images)
    assert cells.shape == (1, 16, 2) and [x.shape for x in latents] == [(1, 2, 3, 4), (1, 2, 2, 2)]
    assert cells[0, :, 0].tolist() == [*range(12), 100, 101, 102, 103]
    assert cells[0, 12:, 1].tolist() == [104, 105, 106, 107]


# -- auxiliary networks ---------------------------------------------------------------------------


def test_taesd_is_a_pair_of_networks():
    config = TinyConfig(in_channels=5, latent_channels=6, num_encoder_blocks=(1, 1))
    decoder, encoder = auxiliary.describe_tiny(config)
    assert (decoder.name, encoder.name) == ("taesd.decode", "taesd.encode")
    assert decoder.params == encoder.params == "tiny" and decoder.settings == {}
    assert (decoder.exported, encoder.exported) == ("vae_decoder", "vae_encoder")
    (z,), (image,) = decoder.inputs, encoder.inputs
    assert z.argument == "latents" and z.shape[:2] == (BATCH, 6)
    assert z.shape[2:] == (CallSize("height"), CallSize("width"))
    assert image.shape == (BATCH, 5, CallSize("height", 2), CallSize("width", 2))
    assert [tuple(x) for x in encoder.outputs] == [("", "latent_sample")]
    assert flatten(decoder.spec()) == flatten(auxiliary.tiny_spec(config))


def test_a_classifier_reads_noisy_latents():
    config = ClassifierConfig(in_channels=6, class_names=("a", "b"))
    made = auxiliary.describe_classifier(config)
    assert (made.name, made.params, made.settings) == (
        "classifier",
        "classifier",
        {"config": config},
    )
    assert [x.argument for x in made.inputs] == ["x", "t"] and made.inputs[0].shape[1] == 6
    assert [tuple(x) for x in made.outputs] == [("", "logits")]
    assert flatten(made.spec()) == flatten(auxiliary.classifier_spec(config))


def test_auxiliary_networks_fit_the_model_or_are_given():
    config = preset("tiny")
    usual = auxiliary.auxiliary_networks(config)
    assert [x.name for x in usual] == [
        "taesd.decode",
        "taesd.encode",
        "controlnet.hint",
        "controlnet",
    ]
    assert usual[1].inputs[0].shape[1] == 3
    net = usual[3].settings["config"]
    assert net.unet == config.unet
    own = replace(net, conditioning_channels=7)
    tiny = TinyConfig(in_channels=5)
    given = auxiliary.auxiliary_networks(config, tiny, own)
    assert given[1].inputs[0].shape[1] == 5 and given[3].settings["config"] is own
    other = auxiliary.auxiliary_networks(preset("z-image-tiny"))
    assert [x.name for x in other] == ["taesd.decode", "taesd.encode"]


def test_networks_are_found_by_what_is_nearest():
    def named(name, function, config=None):
        function = SimpleNamespace(__name__=function)
        return SimpleNamespace(name=name, function=function, settings={"config": config})

    one, two = [1, 2], [1, 2]
    networks = [
        named("a", "f", [3]),
        named("b", "f", one),
        named("c", "f", two),
        named("d", "g", two),
    ]

    def find(function, **arguments):
        found = lookup.find_network(networks, function, arguments)
        return found and found.name

    assert find("f", config=two) == "c" and find("f", config=one) == "b"
    assert find("f", config=[1, 2]) == "b" and find("f", config=[9]) == "a"
    assert find("f") == "a" and find("g", config=one) == "d" and find("h", config=one) is None
