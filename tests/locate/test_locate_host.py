"""Computations of the host are recomputed from their recorded state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unfollowed import of_another_program

import ldmref
from ldmref import modes
from ldmref.locate import DiffReport, diff_traces
from ldmref.locate.pipeline import judge_host
from ldmref.locate.pipeline.tokens import explain
from ldmref.math.guidance import rescale_guidance
from ldmref.samplers import SAMPLERS
from ldmref.trace import build_trace, read_trace, record_trace

PROMPT = "a red cat"
MANY = [
    "ddim", "euler", "heun", "dpmpp_2m", "dpmpp_2s_a", "euler_a", "dpmpp_2m_sde", "unipc", "lms",
    "dpm_solver_2", "deis", "pndm",
]  # fmt: skip


@pytest.fixture(scope="module")
def model():
    made = ldmref.random_model("tiny", seed=1)
    vae = replace(made.config.vae, scaling_factor=0.18215)
    made.config = replace(made.config, vae=vae)
    return made


def traced(model, folder, **request):
    values = {"prompt": PROMPT, "seed": 1, "steps": 4, "cfg_scale": 4.0} | request
    exact = model.with_backend(model.backend)
    record_trace(modes.plan("txt2img", model, **values), exact, folder)
    return read_trace(folder)


@pytest.fixture(scope="module")
def recorded(model, tmp_path_factory):
    """Return the tensors, kinds and manifest of a right run, to be changed."""
    trace = traced(model, tmp_path_factory.mktemp("host") / "trace", sampler="dpmpp_2m")
    entries = [
        {"call": e.call, "layer": e.layer, "kind": e.kind, "attributes": dict(e.attributes)}
        for e in trace.entries
        if not e.layer
    ]
    manifest = dict(trace.manifest) | {"entries": entries}
    tensors = {n: np.array(x) for n, x in trace.tensors.items() if "//" in n}
    return tensors, manifest


def faults(model, recorded, **changed):
    """Return the faults of the host; the networks, which take longer, have tests of their own."""
    tensors, manifest = recorded
    port = build_trace(tensors | changed, manifest)
    rows = judge_host(port, model, "float32", [])
    return {(row.call, row.kind): row for row in rows if row.verdict == "differs"}


@pytest.mark.parametrize("sampler", [name for name in MANY if name in SAMPLERS])
def test_the_steps_of_every_sampler_are_recomputed(model, sampler, tmp_path):
    trace = traced(model, tmp_path / "t", sampler=sampler)
    report = DiffReport(tuple(judge_host(trace, model, "float32", [])))
    assert report.equal, [(row.name, row.kind, row.error, row.cause) for row in report.faults]
    judged = [row for row in report.rows if row.kind == "step" and row.verdict == "equal"]
    assert len(judged) == 4


def test_a_right_run_is_equal(model, recorded):
    tensors, manifest = recorded
    assert diff_traces(build_trace(tensors, manifest), model).equal


def test_a_wrong_step_is_named_alone(model, recorded):
    name = "sampler.002//output"
    found = faults(model, recorded, **{name: 1.01 * recorded[0][name]})
    assert found.pop(("sampler.003", "state"))  # what the next step was given is the right one
    assert set(found) == {("sampler.002", "step")}
    assert found["sampler.002", "step"].cause == "scaled by 1.01"


def test_lost_history_is_named(model, recorded):
    """dpmpp_2m without its history is a step of order 1."""
    tensors, _ = recorded
    x, x0 = (tensors[f"sampler.001//input.{name}"] for name in ("x", "x0"))
    ratio = tensors["sampler.001//input.sigma_next"] / tensors["sampler.001//input.sigma"]
    found = faults(model, recorded, **{"sampler.001//output": x0 + ratio * (x - x0)})
    assert found.pop(("sampler.002", "state"))
    assert set(found) == {("sampler.001", "step")}
    assert "history" in found["sampler.001", "step"].cause


@pytest.mark.parametrize(("asked", "taken"), [(0.5, 1.0), (1.0, 0.5), (1.0, 0.0)])
def test_another_eta_is_named(model, tmp_path, asked, taken):
    """The request says one eta, and the steps were taken with another one."""
    trace = traced(model, tmp_path / "t", sampler="ddim", eta=taken)
    for entry in trace.entries:
        dict.pop(entry.attributes, "eta", None)  # of ldmref's own steps; ports do not record it
    params = trace.manifest["params"] | {"eta": asked}
    trace = replace(trace, manifest=trace.manifest | {"params": params})
    rows = [row for row in judge_host(trace, model, "float32", []) if row.kind == "step"]
    assert [row.cause for row in rows] == [f"eta {taken:g} instead of {asked:g}"] * 4, rows


def test_lost_noise_is_no_fault(model, tmp_path):
    """ldmref draws the noise again; another program's is read from the states after it."""
    trace = traced(model, tmp_path / "t", sampler="ddim", eta=1.0)
    tensors = {name: x for name, x in trace.tensors.items() if ".noise" not in name}
    assert len(tensors) < len(trace.tensors)
    lost = build_trace(tensors, trace.manifest)
    rows = judge_host(lost, model, "float32", [])
    assert {row.verdict for row in rows} == {"equal"}
    rows = judge_host(of_another_program(lost), model, "float32", [])
    assert {row.verdict for row in rows if row.kind == "step"} == {"equal"}


@pytest.mark.parametrize(
    ("combine", "words"),
    [
        (lambda u, c, s: c, "guidance is dropped"),
        (lambda u, c, s: c + s * (u - c), "cond and uncond are swapped"),
        (lambda u, c, s: u + 1000 * s * (c - u), "times 1000"),
        (lambda u, c, s: u + 3.5 * (c - u), "guidance scale 3.5 instead of 4"),
        (lambda u, c, s: rescale_guidance(u + s * (c - u), c, 0.7), "rescale 0.7 instead of 0"),
    ],
)
def test_faults_of_guidance_are_named(model, recorded, combine, words):
    tensors, _ = recorded
    u, c = (tensors[f"guidance.001//input.{name}"] for name in ("uncond", "cond"))
    found = faults(model, recorded, **{"guidance.001//output": combine(u, c, 4.0)})
    assert words in found["guidance.001", "guidance"].cause


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda z, f: z * f, "scaling factor is missing"),
        (lambda z, f: z * f * f, "multiplied by the scaling factor"),
        (lambda z, f: z + 0.25, "shift factor 0.25 instead of 0"),
        (lambda z, f: z * f / 0.13025, "scaling factor 0.13025 instead of"),
    ],
)
def test_faults_of_the_latents_are_named(model, recorded, change, words):
    name = "vae.decode//input.latents"
    changed = change(recorded[0][name], model.config.vae.scaling_factor)
    found = faults(model, recorded, **{name: changed})
    assert words in found["vae.decode", "latents"].cause


@pytest.mark.parametrize(
    ("role", "change", "words"),
    [
        ("alphas_cumprod", lambda x: x.astype(np.float16), "alphas_cumprod in float16"),
        ("alphas_cumprod", lambda x: np.append(x[1:], x[-1]), "that of the next timestep"),
        ("sigmas", lambda x: x[:-1], "the last sigma is missing"),
        ("sigmas", lambda x: 3 * x / (1 + 2 * x), "sigma shift 3"),
        ("timesteps", lambda x: x[::-1], "increasing order"),
    ],
)
def test_faults_of_the_schedule_are_named(model, recorded, role, change, words):
    name = f"schedule//output.{role}"
    found = faults(model, recorded, **{name: change(recorded[0][name])})
    assert words in found["schedule", role].cause


def test_a_timestep_times_1000_is_named(model, recorded):
    name = "unet.001//input.timestep"
    found = faults(model, recorded, **{name: 1000 * recorded[0][name]})
    assert found["unet.001", "timestep"].cause == "the timestep is scaled by 1000"


def test_an_unscaled_input_is_named(model, recorded):
    tensors, _ = recorded
    x = tensors["sampler.001//input.x"]
    found = faults(model, recorded, **{"unet.001//input.sample": np.concatenate([x, x])})
    assert "scaling of the input is missing" in found["unet.001", "latents"].cause


def test_wrong_text_is_named(model, recorded):
    name = "unet.001//input.encoder_hidden_states"
    found = faults(model, recorded, **{name: 0 * recorded[0][name]})
    assert found["unet.001", "text"].cause == "the text is zero"


def test_initial_noise_without_its_scale_is_named(model, recorded):
    tensors, _ = recorded
    name = "sampler.000//input.x"
    sigma = float(np.ravel(tensors["sampler.000//input.sigma"])[0])
    found = faults(model, recorded, **{name: tensors[name] / sigma})
    assert "scale of the initial noise is missing" in found["sampler.000", "state"].cause


@pytest.mark.parametrize(
    ("got", "cause"),
    [
        ([1, 5, 6, 2, 2, 2], "padded with id 2 instead of 0"),
        ([5, 6, 2, 0, 0, 9], "the first token is missing"),
        ([2, 6, 7, 3, 1, 1], "all ids differ by 1"),
        ([1, 5, 9, 2, 0, 0], "a single token: id 9 instead of 6"),
    ],
)
def test_causes_of_wrong_tokens(got, cause):
    assert explain(np.array(got), np.array([1, 5, 6, 2, 0, 0]), PROMPT)[0] == cause


def test_wrong_tokens_are_named(model, recorded):
    tensors, _ = recorded
    calls = [n for n in tensors if n.startswith("text_encoder") and "input_ids" in n]
    wrong = tensors[calls[0]].copy()
    wrong[0, 1] += 1
    found = faults(model, recorded, **{calls[0]: wrong})
    assert any(kind == "tokens" for _, kind in found)
