"""`ldmref diff` ends with 0 for right, completely recorded runs, and never for wrong ones.

Layers of which nothing is read are named in a note, and are no reason for exit code 10.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
import torch
from complete_runs import RUNS
from flux_networks import make_pipeline
from host_runs import PHOTO

import ldmref
from ldmref.apps.cli.main import main
from ldmref.locate import diff_traces
from ldmref.models.family import list_families
from ldmref.trace import read_trace

CHANGED = 3  # layers of each network
NOT_RECORDED = {  # pipelines that are in no run here, and why
    "LDMPipeline": "its networks have other names than a recording looks for",
    "LDMSuperResolutionPipeline": "its networks have other names than a recording looks for",
    "LDMTextToImagePipeline": "its networks have other names than a recording looks for",
    "FluxControlInpaintPipeline": "its mask and masked image are not compared, and have rows",
    "StableDiffusion3InpaintPipeline": "it decodes without the shift, which is found",
    "StableDiffusion3ControlNetPipeline": "its ControlNets are judged in tests/families",
    "FluxControlNetPipeline": "its ControlNets are judged in tests/families",
    "FluxControlNetImg2ImgPipeline": "its ControlNets are judged in tests/families",
    "FluxControlNetInpaintPipeline": "its ControlNets are judged in tests/families",
}


@pytest.fixture(scope="module", params=RUNS)
def recorded(request, tmp_path_factory):
    """Return a run, its trace, and the folder of its model."""
    run = RUNS[request.param]
    folder = tmp_path_factory.mktemp("run")
    pipe = run.make(folder)
    run.save(pipe, folder / "model")
    with ldmref.recording(pipe, folder / "trace"):
        run.call(pipe)
    return run, folder / "trace", folder / "model"


def test_a_right_run_ends_with_0_and_a_wrong_one_does_not(recorded, capsys):
    """By the command, and with one array of some layers that are read changed, each alone."""
    run, folder, saved = recorded
    code = main(["diff", str(folder), "--model", str(saved), "-q"])
    shown = capsys.readouterr()
    assert code == 0, shown.out + shown.err
    for part in run.unread:
        assert part in shown.err.partition("nothing reads ")[2]
    trace, model = read_trace(folder), ldmref.load(saved, dtype="float32", backend="numpy")
    seen = set()
    for call in trace.calls:
        if call.kind in seen or not call.network:
            continue
        seen.add(call.kind)
        alone = replace(trace, entries=tuple(trace.of_call(call)))
        assert not noticed(alone, model), call
        for entry in layers_to_change(alone, run.unread):
            assert noticed(change(alone, entry), model), entry.name


def noticed(trace, model):
    """Return what differs in a call alone, or was not compared of it.

    What led to it is not there, and has rows "not judged".
    """
    report = diff_traces(trace, model)
    return [*report.faults, *report.gaps]


def layers_to_change(trace, unread):
    """Return layers of a call from the first to the last, without those that nothing reads."""
    inside = tuple(f"{part}." for part in unread)
    named = [e for e in trace.entries if e.layer and e.outputs]
    named = [e for e in named if e.layer not in unread and not e.layer.startswith(inside)]
    return [named[i] for i in np.linspace(0, len(named) - 1, CHANGED).astype(int)]


def change(trace, entry):
    """Return a trace in which the output of a layer is another one."""
    name = next(iter(entry.outputs.values()))
    x = np.asarray(trace.tensors[name])
    return replace(trace, tensors={**trace.tensors, name: 1.01 * x + 0.01})


def test_every_table_of_positions_of_a_denoiser_is_judged(recorded):
    """Of a denoiser: cosines and sines, which the definition computes where they are used."""
    _, folder, saved = recorded
    trace, model = read_trace(folder), ldmref.load(saved, dtype="float32", backend="numpy")
    named = [e for e in trace.entries if e.layer in ("rotary_emb", "pos_embed")]
    tables = [e for e in named if e.call.network == "transformer"]
    for entry in {e.call.kind: e for e in tables}.values():
        alone = replace(trace, entries=tuple(trace.of_call(entry.call)))
        assert not noticed(alone, model)
        assert noticed(change(alone, entry), model), entry.name


def test_every_pipeline_of_every_family_has_a_run(tmp_path):
    kinds = {kind for family in list_families() for kind in family.folders}
    made = set()
    for i, run in enumerate(RUNS.values()):
        (tmp_path / str(i)).mkdir()
        made.add(type(run.make(tmp_path / str(i))).__name__)
    assert made | {*NOT_RECORDED} == kinds and not made & {*NOT_RECORDED}


def test_a_pipeline_that_is_not_read_is_not_judged(tmp_path):
    """Flux.1 Kontext joins the tokens of its reference to those of the image."""
    base = make_pipeline(True)
    base.save_pretrained(tmp_path / "model")
    parts = {name: part for name, part in base.components.items() if part is not None}
    pipe = diffusers.FluxKontextPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    with ldmref.recording(pipe) as run:
        pipe(
            image=PHOTO, prompt="a red cat", num_inference_steps=1, width=16, height=16,
            max_area=256, _auto_resize=False, generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
    report = diff_traces(run.trace, ldmref.load(tmp_path / "model", dtype="float32"))
    assert not report.faults and report.verdict == "incomplete"
    [row] = [row for row in report.rows if row.call == "transformer.000" and not row.layer]
    assert row.verdict == "not judged" and "FluxKontextPipeline is no pipeline" in row.note
