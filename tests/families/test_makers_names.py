"""`transformer_files`: makers' names as data, and files that are recognised by their shapes."""

from __future__ import annotations

import pytest

from ldmref.families.transformer_files import (
    PREFIX,
    MakersLayer,
    MissingTensor,
    find_entry,
    find_model,
    list_entries,
    reads_sizes,
    stack_layers,
)
from ldmref.io.key_table import KeyEntry
from ldmref.models import preset

ENDS = {"proj_out": MakersLayer("last.linear", form="swapped"), "embedders": "emb"}
BLOCK = {
    **stack_layers("attn.qkv", ("attn.to_q", "attn.to_k", "attn.to_v")),
    "attn.norm_q.weight": "attn.query_norm.scale",
    "ff": "mlp",
    "ff.down": "out",
}
BLOCKS = {"blocks": ("layers", BLOCK), "refiner.blocks": ("refiner", BLOCK)}
SHAPE = (8, 4)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("proj_out.weight", KeyEntry("last.linear.weight", SHAPE, form="swapped")),
        ("proj_out_2.weight", KeyEntry("proj_out_2.weight", SHAPE)),  # a whole part of the path
        ("embedders.text.weight", KeyEntry("emb.text.weight", SHAPE)),
        ("blocks.12.attn.to_k.bias", KeyEntry("layers.12.attn.qkv.bias", SHAPE, 1)),
        ("blocks.0.attn.norm_q.weight", KeyEntry("layers.0.attn.query_norm.scale", SHAPE)),
        ("blocks.0.ff.up.weight", KeyEntry("layers.0.mlp.up.weight", SHAPE)),
        ("blocks.0.ff.down.weight", KeyEntry("layers.0.out.weight", SHAPE)),  # the longest path
        ("refiner.blocks.1.norm.weight", KeyEntry("refiner.1.norm.weight", SHAPE)),
        ("refiner.norm.weight", KeyEntry("refiner.norm.weight", SHAPE)),
    ],
)
def test_a_parameter_has_its_makers_name(name, entry):
    assert find_entry(name, SHAPE, ENDS, BLOCKS) == entry


def test_a_prefix_precedes_every_name():
    found = list_entries({"embedders": {"weight": SHAPE}}, ENDS, BLOCKS, PREFIX)
    assert found == {"embedders.weight": KeyEntry(f"{PREFIX}emb.weight", SHAPE)}


@reads_sizes
def recognise(own, named="found"):
    """Return a model of the width of the first tensor."""
    d, head = own["first.weight"]
    return named if d // head == 2 else None


def test_other_files_are_none():
    assert recognise({"first.weight": (8, 4)}) == "found"
    assert recognise({f"{PREFIX}first.weight": (8, 4)}, PREFIX, named="other") == "other"
    assert recognise({f"{PREFIX}first.weight": (8, 4)}) is None  # the tensor is missing
    assert recognise({"first.weight": (8,)}) is None
    assert recognise({"first.weight": (8, 0)}) is None


def test_other_missing_keys_are_raised():
    """As of a preset that does not exist, which is no sign of another file."""

    @reads_sizes
    def recognise_by_preset(own):
        return {"preset": own["first.weight"]}["another preset"]

    with pytest.raises(KeyError, match="another preset") as caught:
        recognise_by_preset({"first.weight": (8, 4)})
    assert not isinstance(caught.value, MissingTensor)
    assert recognise_by_preset({"other.weight": (8, 4)}) is None


def test_a_transformer_of_other_sizes_is_the_nearest_model_if_its_axes_fit():
    tiny, other = preset("flux2-tiny"), preset("flux2-klein-4b")
    models = {"tiny": tiny, "other": other}
    assert find_model(models, other.denoiser, 128, tiny) is other
    unknown = preset("flux3-tiny")
    head = sum(unknown.denoiser.axes_dims_rope)
    assert find_model(models, unknown.denoiser, head, tiny).denoiser == unknown.denoiser
    assert find_model(models, unknown.denoiser, head, tiny).name == tiny.name
    assert find_model(models, unknown.denoiser, head + 2, tiny) is None
    assert find_model(models, unknown.denoiser, head, None) is None
