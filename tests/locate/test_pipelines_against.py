"""Whole pipelines of SD3 and Flux.1 as the original of a port: `ldmref diff --against`."""

from dataclasses import replace

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import torch
from flux_networks import make_pipeline as make_flux
from sd3_networks import make_pipeline as make_sd3

from ldmref.apps.cli.main import main
from ldmref.locate import diff_modules
from ldmref.trace import read_trace
from ldmref.trace.torch_pipeline import record_pipeline

NORM = "transformer_blocks.0.norm1.norm"
LAST = "decoder.conv_norm_out"


def make(family):
    torch.manual_seed(0)
    return make_sd3("3 medium", with_t5=False) if family == "sd3" else make_flux(True)


def make_original():
    return make("sd3")


def record(pipe, folder):
    generator = torch.Generator().manual_seed(1)
    with record_pipeline(pipe, folder):
        pipe("a cat", num_inference_steps=1, generator=generator, height=16, width=16)
    return read_trace(folder)


@pytest.fixture(params=["sd3", "flux"])
def family(request):
    return request.param


SUM = "decoder.mid_block.resnets.0.add"


def test_a_right_pipeline_is_judged_layer_by_layer(family, tmp_path):
    report = diff_modules(record(make(family), tmp_path / "run"), make(family))
    assert not report.faults and not report.gaps
    judged = {row.name for row in report.rows if row.verdict == "equal"}
    assert {f"transformer.000/{NORM}", f"vae.decode/{LAST}", f"vae.decode/{SUM}"} < judged
    assert {"transformer.000", "vae.decode", "vae.decode/silu"} < judged
    left = {row.call.partition("~")[0] for row in report.rows if row.verdict == "not judged"}
    host = {"tokens", "tokens_2", "initial", "schedule", "guidance.000", "sampler.000"}
    assert left <= {*host, "text_encoder", "text_encoder_2"}  # their states are no module's result
    assert len(judged) > 200


@pytest.mark.parametrize("name", [f"vae.decode/{SUM}/output", "transformer.000//output"])
def test_a_wrong_sum_and_a_wrong_result_are_named(family, name, tmp_path):
    run = record(make(family), tmp_path / "run")
    entry = run.find(*name.split("/")[:2])
    stored = entry.outputs["output"]
    wrong = replace(run, tensors={**run.tensors, stored: 1.01 * run.tensors[stored]})
    report = diff_modules(wrong, make(family))
    assert entry.name.rstrip("/") in {row.name for row in report.faults}


def test_faults_of_two_networks_are_named(family, tmp_path):
    pipe = make(family)
    pipe.transformer.get_submodule(NORM).eps = 1e-2
    pipe.vae.get_submodule(LAST).eps = 1e-2
    report = diff_modules(record(pipe, tmp_path / "run"), make(family))
    causes = {row.name: row.cause for row in report.faults}
    cause = "eps 0.01 instead of 1e-06"
    assert causes == {f"transformer.000/{NORM}": cause, f"vae.decode/{LAST}": cause}


def test_the_command_plots_what_it_compares(tmp_path, capsys):
    pipe = make_original()
    pipe.transformer.get_submodule(NORM).eps = 1e-2
    record(pipe, tmp_path / "run")
    name = f"{__name__}:make_original"
    plot = tmp_path / "errors.png"
    assert main(["diff", str(tmp_path / "run"), "--against", name, "--plot", str(plot)]) == 4
    assert plot.stat().st_size > 1000
    assert "eps 0.01 instead of 1e-06" in capsys.readouterr().out
