"""The original's single files of Flux.1, against diffusers' conversion."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import KeyMismatchError
from ldmref.families.flux.files import original_table, recognise
from ldmref.families.transformer_files import PREFIX
from ldmref.io.compvis.keys import autoencoder_table
from ldmref.io.key_table import list_stored_shapes, to_compvis, to_native
from ldmref.models import ModelConfig, preset
from ldmref.models.params import flatten

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
from diffusers.loaders.single_file_utils import (  # noqa: E402
    convert_flux_transformer_checkpoint_to_diffusers,
)
from flux_networks import config_of, make_pipeline, make_transformer  # noqa: E402
from safetensors.numpy import save_file  # noqa: E402

SIZE = {"width": 24, "height": 16}
WIDTH = 24  # of the transformer of the tests; diffusers' conversion has the published one built in


def in_both(guidance):
    """(the table, diffusers' tensors, the same under the original's names)."""
    table = original_table(ModelConfig(denoiser=config_of(guidance)))
    theirs = {name: x.numpy() for name, x in make_transformer(guidance).state_dict().items()}
    return table, theirs, to_compvis(theirs, table)


class Narrow(dict):
    """A checkpoint whose stacks are split as if the width were not 3072."""

    def pop(self, name):
        x = super().pop(name)
        return Stack(x) if ".linear1." in name else x


class Stack:
    def __init__(self, x):
        self.x = x


def split(stack, sizes, dim):
    assert sizes == (3072, 3072, 3072, 4 * 3072) and dim == 0
    return torch.split(stack.x, [WIDTH, WIDTH, WIDTH, 4 * WIDTH], dim=dim)


@pytest.mark.parametrize("guidance", [True, False])
def test_the_table_is_that_of_diffusers_in_both_directions(guidance, monkeypatch):
    from diffusers.loaders import single_file_utils

    table, theirs, stored = in_both(guidance)
    patched = type(
        "torch", (), {"split": staticmethod(split), "chunk": torch.chunk, "cat": torch.cat}
    )
    monkeypatch.setattr(single_file_utils, "torch", patched)
    tensors = Narrow({name: torch.tensor(x) for name, x in stored.items()})
    converted = convert_flux_transformer_checkpoint_to_diffusers(tensors)
    assert converted.keys() == theirs.keys() and not tensors
    assert all(np.array_equal(converted[name].numpy(), x) for name, x in theirs.items())
    back = to_native(stored, table)
    assert all(np.array_equal(back[name], x) for name, x in theirs.items())


@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize("name", ["flux-dev", "flux-schnell", "flux-tiny"])
def test_files_are_recognised_by_their_shapes(name, prefix):
    config = preset(name)
    shapes = list_stored_shapes(original_table(config, prefix))
    assert recognise(shapes, prefix) == config
    assert recognise(shapes, "another.") is None
    assert recognise(shapes | {f"{prefix}img_in.weight": (1,)}, prefix) is None


def test_files_of_other_sizes():
    dev = preset("flux-dev")
    other = replace(dev, denoiser=replace(dev.denoiser, num_layers=8))
    found = recognise(list_stored_shapes(original_table(other)))
    assert found == replace(other, name="flux")
    narrow = replace(dev.denoiser, attention_head_dim=64, axes_dims_rope=(8, 28, 28))
    assert recognise(list_stored_shapes(original_table(replace(dev, denoiser=narrow)))) is None


@pytest.mark.parametrize("guidance", [True, False])
def test_a_file_with_the_other_networks_of_a_folder(guidance, tmp_path):
    """And with the autoencoder as a file of its own."""
    pipe = make_pipeline(guidance)
    pipe.save_pretrained(tmp_path / "model")
    want = ldmref.load(tmp_path / "model")
    _, _, stored = in_both(guidance)
    save_file(stored, str(tmp_path / "flux1.safetensors"))
    table = autoencoder_table(want.config.vae)
    flat = {name: np.asarray(x) for name, x in flatten(want.params["vae"]).items()}
    save_file(to_compvis(flat, table), str(tmp_path / "ae.safetensors"))
    options = {"seed": 1, "steps": 1, **SIZE}
    image = modes.txt2img(want, "a cat", **options).images[0]
    for vae in (None, tmp_path / "ae.safetensors"):
        model = ldmref.load(tmp_path / "flux1.safetensors", config=tmp_path / "model", vae=vae)
        assert modes.txt2img(model, "a cat", **options).images[0] == image
        assert model.config.vae == want.config.vae
    stored.pop("single_blocks.0.linear1.bias")
    save_file(stored, str(tmp_path / "short.safetensors"))
    with pytest.raises(KeyMismatchError, match=r"1 missing \(single_blocks.0.linear1.bias"):
        ldmref.load(tmp_path / "short.safetensors", config=tmp_path / "model")
