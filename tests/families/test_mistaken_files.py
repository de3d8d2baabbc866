"""Single files beside a configuration of another model: one line says which model they are."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldmref.errors import KeyMismatchError
from ldmref.families.flux.files import original_table as flux_table
from ldmref.families.sd3.files import original_table as sd3_table
from ldmref.io import read_model_config
from ldmref.io.key_table import list_stored_shapes
from ldmref.models import preset
from ldmref.models.networks import model_spec
from ldmref.models.params import flatten

TABLES = {"sd3-tiny": sd3_table, "flux-tiny": flux_table}


def write(path, shapes):
    save_file({name: np.zeros(shape, np.float32) for name, shape in shapes.items()}, str(path))
    return path


def write_original(path, name):
    return write(path, list_stored_shapes(TABLES[name](preset(name))))


@pytest.mark.parametrize("config", ["sd15", "sd3-tiny"])
def test_a_configuration_of_another_family(config, tmp_path):
    file = write_original(tmp_path / "flux.safetensors", "flux-tiny")
    said = f"^flux.safetensors is the transformer of Flux.1, and '{config}' is of another kind"
    with pytest.raises(KeyMismatchError, match=said) as caught:
        read_model_config(file, config)
    assert "--model-config" in caught.value.hint


def test_a_configuration_of_another_size(tmp_path):
    """The folder of the text encoders is of another model of the family, such as schnell's."""
    file = write_original(tmp_path / "tiny.safetensors", "flux-tiny")
    with pytest.raises(KeyMismatchError, match="is not a 'flux-schnell' model: ") as caught:
        read_model_config(file, "flux-schnell")
    assert "it is a 'flux-tiny' model: give the folder of one" in caught.value.hint


@pytest.mark.parametrize("name", TABLES)
def test_a_transformer_of_diffusers_alone(name, tmp_path):
    """Published beside their folders, for example by those who fine-tune them."""
    shapes = flatten(model_spec(preset(name))["transformer"])
    file = write(tmp_path / "diffusion_pytorch_model.safetensors", shapes)
    for config in (None, name):
        said = "is a transformer of diffusers, without the other networks"
        with pytest.raises(KeyMismatchError, match=said) as caught:
            read_model_config(file, config)
        assert "model_index.json" in caught.value.hint


def test_a_lora_with_a_configuration(tmp_path):
    shapes = {"transformer.transformer_blocks.0.attn.to_q.lora_A.weight": (4, 16)}
    file = write(tmp_path / "style.safetensors", shapes)
    with pytest.raises(KeyMismatchError, match=r"style\.safetensors is a LoRA, not a model"):
        read_model_config(file, "flux-tiny")
