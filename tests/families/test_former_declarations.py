"""A package of version 0.1 declares with its family what the wings now find themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

import ldmref.families
from ldmref.cases.golden_families import GoldenModels, golden_models_of
from ldmref.families.sd3 import SD3
from ldmref.models import preset
from ldmref.models.autoencoder_kind import find_autoencoder
from ldmref.models.text_kind import find_text_encoder
from ldmref.ports import network_port
from ldmref.ports.port import port_of
from ldmref.training.family_rules import TrainingRules, training_rules_of


def read_folder(folder, index):
    """Stand for the reader of a folder."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_former_calls_are_read_as_folders_scale_and_port():
    calls = ldmref.families.PipelineCalls(
        {"TheirPipeline": read_folder},
        ("TheirTransformer",),
        ("cond", "uncond"),
        scale=lambda scale: scale + 1.0,
        reads_scale=lambda config: False,
        draws_images=False,
    )
    family = replace(SD3, folders={}, diffusers=calls)
    assert family.folders == {"TheirPipeline": read_folder} and not family.draws_images
    assert family.guidance_scale.convert(2.0) == 3.0
    assert family.guidance_scale.read(preset("sd3-medium"), -1.0) == 1.0
    port = port_of(replace(family, description="another"))
    assert (port.name, port.modules) == ("sd3", ("TheirTransformer",))
    assert port.halves == ("cond", "uncond") and port.layer is None
    assert port.prediction("array") == "array" and port.inputs({}) == {}


def test_former_runs_and_rules_are_found_with_a_warning():
    with pytest.warns(DeprecationWarning, match=r"Family\(golden=\) is declared by ldmref.cases"):
        family = replace(SD3, golden=GoldenModels())
    with pytest.warns(DeprecationWarning, match="ldmref.training since ldmref 0.2.0"):
        family = replace(family, training=TrainingRules(ends=("mine",)))
    assert golden_models_of(family).runs == () and golden_models_of(SD3).runs
    assert training_rules_of(family).ends == ("mine",) != training_rules_of(SD3).ends


@pytest.mark.parametrize(
    "name",
    [
        "PipelineCalls",
        "PipelineParts",
        "LibraryObject",
        "GoldenModels",
        "GoldenRun",
        "TrainingRules",
    ],
)
def test_names_that_moved_are_found_where_they_were(name):
    with pytest.warns(DeprecationWarning, match=rf"ldmref.families.{name} is ldmref\."):
        assert getattr(ldmref.families, name).__name__ == name
    assert name not in dir(ldmref.families)


def test_former_networks_of_kinds_are_found(monkeypatch):
    with pytest.warns(DeprecationWarning, match=r"TextEncoder\(module=\)"):
        mine = replace(find_text_encoder("class"), name="mine", module=str, classes=("Mine",))
    monkeypatch.setattr(network_port, "find_text_encoder", {"mine": mine}.get)
    found = network_port.find_text_encoder_port("mine")
    assert (found.module, found.classes) == (str, ("Mine",))
    network_port.find_text_encoder_port.cache_clear()
    with pytest.warns(DeprecationWarning, match=r"Autoencoder\(module=\)"):
        mine = replace(find_autoencoder("kl"), name="mine", module=str)
    monkeypatch.setattr(network_port, "find_autoencoder", {"mine": mine}.get)
    assert network_port.find_autoencoder_port("mine").module is str
    network_port.find_autoencoder_port.cache_clear()


def test_the_former_name_of_the_makers_table_is_taken():
    def table(config):
        return {}

    kind = find_autoencoder("kl")
    with pytest.warns(
        DeprecationWarning, match=r"Autoencoder\(original=\) is Autoencoder\(makers=\)"
    ):
        mine = replace(kind, original=table)
    assert mine.makers is table and kind.makers is None
    assert replace(mine, name="another").makers is table  # without a warning
