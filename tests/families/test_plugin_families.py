"""A family of another package is found by its entry point, and every tool reads it."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.apps.server.native import describe_model
from ldmref.cases import golden_model, make_suite, open_runtime, run_cases
from ldmref.cases.families import networks
from ldmref.cases.golden_models import golden_runs
from ldmref.cases.shrink import shrink
from ldmref.errors import CorruptModelError, KeyMismatchError, UsageError
from ldmref.families.lookup import known_networks, networks_of_run
from ldmref.locate import diff_traces
from ldmref.models import PRESETS, Params, config_from_dict, preset
from ldmref.models.conditioning import Conditioning
from ldmref.models.denoiser_config import UNetConfig
from ldmref.models.family import BUILT_IN, find_family, list_families
from ldmref.models.presets import list_presets
from ldmref.models.steering import Steerable
from ldmref.modes.checks import can_generate
from ldmref.ports.network_port import find_autoencoder_port
from ldmref.ports.port import FamilyPort, family_of_classes, find_port, list_ports, port_of
from ldmref.trace import load_trace, read_trace, record_trace
from ldmref.trace.readers.runtimes import list_graph_networks, name_tensors

SOURCE = Path(ldmref.__file__).parents[1] / "examples" / "plugins" / "ldmref-dit" / "src"
CACHES = (find_family, find_port, find_autoencoder_port, known_networks, list_graph_networks)
PORTS = """
from ldmref.ports import FamilyPort, LibraryObject, NetworkPort

FAMILY = FamilyPort("dit", ("TheirTransformer",), halves=("cond", "uncond"))
VAE = NetworkPort("centred", lambda config: LibraryObject("theirs:Autoencoder"))
"""


def clear():
    for cache in CACHES:
        cache.cache_clear()


def install(folder, points, **groups):
    """Write what pip writes for a package with these families, and other groups of points."""
    metadata = folder / "theirs-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.2\n")
    lines = []
    for group, named in ({"families": points} | groups).items():
        lines += [f"[ldmref.{group}]", *(f"{name} = {value}" for name, value in named.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder in which packages are installed; afterwards nothing of them is left."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.syspath_prepend(str(SOURCE))
    clear()
    yield folder
    clear()
    for name in [n for n in sys.modules if n.split(".")[0] in ("ldmref_dit", "theirs")]:
        del sys.modules[name]


@pytest.fixture
def dit(site):
    wings = {"ports": "port:PORT", "cases": "golden:MODELS", "training": "training:RULES"}
    points = {group: {"dit": f"ldmref_dit.{place}"} for group, place in wings.items()}
    install(site, {"dit": "ldmref_dit:DIT"}, **points)
    return ldmref.random_model("dit-tiny")


def test_everything_that_a_family_needs_is_in_one_place():
    text = "\n".join(path.read_text("utf-8") for path in SOURCE.rglob("*.py"))
    imported = {*re.findall(r"^from (ldmref[\w.]*) import", text, re.MULTILINE)}
    theirs = {name for name in imported if not name.startswith("ldmref_dit")}
    assert theirs == {"ldmref.families", "ldmref.ports", "ldmref.cases", "ldmref.training"}
    assert not re.search(r"^import ldmref", text, re.MULTILINE)


def test_images_traces_and_differences(dit, tmp_path):
    plan = modes.plan("txt2img", dit, prompt="3", seed=1, steps=2)
    record_trace(plan, dit, tmp_path / "t")
    trace = read_trace(tmp_path / "t")
    assert {"transformer.000", "transformer.001"} <= set(trace.calls)
    assert trace.tensors["transformer.000//input.class_labels"].tolist() == [5, 3]
    report = diff_traces(trace, dit)
    assert report.equal and report.counts()["equal"] > 50
    tensors = {name: np.asarray(trace.tensors[name]) for name in trace.tensors}
    tensors["transformer.000//input.class_labels"] = np.array([5, 4])
    wrong = diff_traces(replace(trace, tensors=tensors), dit).rows
    assert ("transformer.000", "classes") in {
        (row.call, row.kind) for row in wrong if row.verdict == "differs"
    }
    names = name_tensors(["transformer_blocks.0.attn1/output", "class_labels", "out_sample"], 2)
    assert names is not None and names["out_sample"] == "transformer.002//output"


def test_without_the_package_its_folder_is_refused(site, tmp_path):
    data = preset("tiny").to_dict() | {"family": "dit"}
    with pytest.raises(CorruptModelError, match="no family 'dit'") as caught:
        config_from_dict(data)
    assert "latent-diffusion" in caught.value.hint


def test_how_other_programs_write_it_is_found_in_its_package(site):
    """A family without a port has the defaults; a port needs no change of ldmref."""
    (site / "theirs.py").write_text(PORTS)
    points = {"ports": {"dit": "theirs:FAMILY"}, "ports.autoencoders": {"centred": "theirs:VAE"}}
    install(site, {"dit": "ldmref_dit:DIT"}, **points)
    port = port_of(find_family("dit"))
    assert port.halves == ("cond", "uncond") and port in [*list_ports()]
    assert family_of_classes(["TheirPipeline"], ["TheirTransformer"]) is find_family("dit")
    assert find_autoencoder_port("centred").module(None).library == "theirs"
    assert find_port("their other family") == FamilyPort("their other family")


def test_a_port_of_another_name_is_refused(site):
    (site / "theirs.py").write_text(PORTS)
    install(site, {"dit": "ldmref_dit:DIT"}, ports={"tid": "theirs:FAMILY"})
    with pytest.raises(UsageError, match="is not a FamilyPort of that name"):
        find_port("tid")


def test_golden_cases_of_its_presets(dit):
    first = next(networks(["dit-tiny"]))
    assert first.name == "dit-tiny.transformer" and first.inputs["labels"].max() <= 5
    assert shrink(preset("dit-xl-2-256")).denoiser.width == 16


def test_golden_runs_that_it_declares(dit, tmp_path):
    """They belong to a suite of this family, and not to that of ldmref."""
    assert not any(run.preset.startswith("dit") for run in golden_runs())
    suite = make_suite(tmp_path / "cases", ("traces",), ("dit-s-2-256",))
    (case,) = suite.select(parts=["traces"])
    assert case.name == "dit-s-2-256.txt2img.ddim" and "vocabulary" not in case.attributes
    assert case.attributes["networks"]["transformer"] in suite.cases
    names = [x.name for x in case.outputs]
    assert names.count("transformer.000//input.class_labels") == 1
    assert "transformer.001//input.class_labels" not in names
    (result,) = run_cases(suite, open_runtime("ldmref", "numpy"), [case])
    assert result.passed, result
    name = f"traces/{case.name}"
    trace = load_trace(suite.folder / name)
    assert diff_traces(trace, golden_model("dit-s-2-256"), trace).equal


def test_what_a_u_net_alone_has_is_refused(dit):
    with pytest.raises(UsageError, match="has no U-Net"):
        _ = dit.config.unet
    with pytest.raises(UsageError, match="takes no identity_attention"):
        dit.predict(np.zeros((1, 4, 8, 8)), np.array([1]), identity_attention=("mid",))
    with pytest.raises(UsageError, match="takes no prompt"):
        modes.txt2img(dit, None, prompt_embeds=np.zeros((1, 1, 8), np.float32))
    assert not can_generate(dit.config, "interpolate") and can_generate(dit.config, "inpaint")
    assert "interpolate" not in describe_model("dit", dit)["modes"]
    assert {x.name for x in networks_of_run(dit.config)} >= {"taesd.decode", "transformer"}
    assert not any(x.name.startswith("controlnet") for x in networks_of_run(dit.config))


def test_presets_and_networks_are_listed_with_those_of_ldmref(dit):
    assert [*list_presets()][: len(PRESETS)] == [*PRESETS]
    assert "dit-xl-2-256" in list_presets() and "transformer" in known_networks()
    assert [family.name for family in list_families()] == [*BUILT_IN, "dit"]
    with pytest.raises(UsageError) as caught:
        preset("dit-xl-2-265")
    assert "dit-xl-2-256" in caught.value.hint


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("theirs:number", "is not a Family of that name"),
        ("theirs:DIT", "is not a Family of that name"),
        ("theirs:missing", "cannot be imported"),
        ("theirs_broken:X", "the library is too old"),
    ],
)
def test_families_that_cannot_be_used(site, value, problem):
    (site / "theirs.py").write_text("from ldmref_dit import DIT\nnumber = 3\n")
    (site / "theirs_broken.py").write_text("raise RuntimeError('the library is too old')\n")
    install(site, {"mine": value})
    with pytest.raises(UsageError, match=problem) as caught:
        find_family("mine")
    assert "theirs 1.2" in str(caught.value) and caught.value.code == "E-PLUGIN"
    assert ldmref.random_model("tiny").config.name == "tiny"


def test_the_built_in_family_holds_all_presets():
    family = find_family("latent-diffusion")
    assert family.denoiser is UNetConfig and family.presets is PRESETS
    assert "StableDiffusionXLPipeline" in family.folders


def test_a_file_that_only_resembles_the_original_is_reported(dit, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    shapes = {
        "x_embedder.proj.weight": (128, 4, 2, 2),
        "y_embedder.embedding_table.weight": (11, 128),
        "pos_embed": (1, 16, 128),
        "final_layer.linear.weight": (32, 128),
        "blocks.0.attn.qkv.weight": (384, 128),
    }
    tensors = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    safetensors.save_file(tensors, tmp_path / "dit.safetensors")
    with pytest.raises(KeyMismatchError, match="looks like DiT's transformer, and differs"):
        ldmref.load(tmp_path / "dit.safetensors")


def test_the_denoiser_of_a_family_without_presets_is_a_network(dit, site, monkeypatch):
    from ldmref.trace.calls import TraceCall

    family = replace(find_family("dit"), presets={})
    config = type("OtherConfig", (family.denoiser,), {"network": "theirs"})
    other = replace(family, name="other", denoiser=config)
    monkeypatch.setattr("ldmref.families.lookup.list_families", lambda: iter([other]))
    known_networks.cache_clear()
    assert TraceCall("theirs.000").network == "theirs" and not TraceCall("unet.000").network
    known_networks.cache_clear()


def test_blocks_are_left_out_by_their_declared_names(dit):
    """A block that is left out is one that the transformer does not have."""
    x, t = np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32), np.array([500.0])
    labels = Conditioning(None, more={"labels": np.array([3])})
    got = dit.predict(x, t, labels, skip_layers=(1,))
    blocks = dit.params.transformer.transformer_blocks
    kept = {name: block for name, block in blocks.items() if name != "1"}
    shorter = Params({**dit.params.transformer, "transformer_blocks": Params(kept)})
    want = dit.denoiser.function(
        dit.backend, shorter, dit.config.denoiser, dit.backend.asarray(x), t, np.array([3])
    )
    np.testing.assert_array_equal(got, want[:, : got.shape[1]])
    assert (got != dit.predict(x, t, labels)).any()
    guidance = {"name": "slg", "layers": [1], "high": 1e4, "low": 0.0}
    images = [
        modes.txt2img(dit, "3", seed=1, steps=2, guidance=g).latents for g in (guidance, None)
    ]
    assert (images[0] != images[1]).any()


def test_attention_is_replaced_by_its_declared_names(dit):
    """The identity as map makes queries and keys do nothing."""
    x, t = np.random.default_rng(0).standard_normal((1, 4, 8, 8), np.float32), np.array([500.0])
    labels = Conditioning(None, more={"labels": np.array([3])})
    declared = Steerable("transformer_blocks", parts={"mid": "transformer_blocks.1."})
    dit.denoiser = replace(dit.denoiser, steerable=declared)
    plain = dit.predict(x, t, labels)
    got = dit.predict(x, t, labels, identity_attention=("mid",))
    assert (got != plain).any()
    for name in ("to_q", "to_k"):
        weight = dit.params.transformer.transformer_blocks["1"].attn1[name].weight
        weight[...] = 0.5 - weight
    assert np.array_equal(dit.predict(x, t, labels, identity_attention=("mid",)), got)
    assert (dit.predict(x, t, labels) != plain).any()
