"""Golden traces of SD3 and Flux.1: right and wrong programs, and diffusers."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from safetensors.numpy import save_file
from test_trace_cases import record, swap_halves, with_config

from ldmref.cases import golden_model, make_suite, run_cases
from ldmref.cases.files import SuiteReader
from ldmref.cases.golden_models import network_names
from ldmref.cases.suite_run import judge_values, open_runtime
from ldmref.cases.trace_cases import networks_of_traces
from ldmref.locate import diff_traces
from ldmref.models.params import flatten
from ldmref.trace import load_trace

FAMILIES = ("sd3-medium", "flux-dev")


@pytest.fixture(scope="module")
def traces(tmp_path_factory):
    """Return the runs of two families: 4 traces, and the networks that they call."""
    return make_suite(tmp_path_factory.mktemp("cases") / "flows", ("traces",), FAMILIES)


def test_a_suite_has_the_runs_and_their_networks(traces):
    runs = {case.name for case in traces.select(parts=["traces"])}
    assert runs == {f"{name}.{mode}.euler" for name in FAMILIES for mode in ("txt2img", "img2img")}
    networks = {c.name for c in traces.cases.values() if c.part == "networks"}
    assert networks == networks_of_traces(FAMILIES)
    assert {"sd3-medium.transformer", "flux-dev.text_encoder_2", "flux-dev.vae.encode"} <= networks


def test_a_case_describes_its_run(traces):
    case = traces.cases["sd3-medium.txt2img.euler"]
    names = [x.name for x in case.outputs]
    assert names[:2] == ["text_encoder//input.input_ids", "text_encoder//output"]
    once = [name for name in names if name.endswith(("hidden_states", "pooled_projections"))]
    assert len(once) == 2 and names.count("transformer.002//input.timestep") == 1
    assert case.attributes["networks"]["transformer"] == "sd3-medium.transformer"
    kinds = [path.rpartition("/")[2] for path in case.attributes["vocabularies"]]
    assert kinds == ["clip", "clip", "t5"] and case.attributes["pad"] == [39, 0, 0]
    trace = load_trace(traces.folder / case.path)
    ids = trace.tensors["text_encoder_3//input.input_ids"]
    assert ids[0].tolist() == [3, 4, 5, 1, 0, 0, 0]  # a, red, heart, </s> and padding
    assert trace.tensors["transformer.000//input.encoder_hidden_states"].shape == (2, 14, 40)
    guided = traces.cases["flux-dev.txt2img.euler"]
    assert "transformer.000//input.guidance" in [x.name for x in guided.outputs]


def test_networks_that_families_share_are_written_once():
    assert network_names("flux-schnell")["vae"] == "flux-dev.vae"
    assert network_names("sd35-medium")["transformer"] == "sd35-medium.transformer"


def test_tolerances_are_small(traces):
    """A wrong constant cannot hide in them. Flux.1's cosines of 5000 have larger roundings."""
    reader = SuiteReader(traces)
    for case in traces.select(parts=["traces"]):
        most = 2e-3 if case.name.startswith("flux-dev") else 1e-3
        for tensor, array in zip(case.outputs, reader.outputs(case).values(), strict=True):
            atol, rtol = tensor.tolerance.get("float32", (0.0, 0.0))
            assert rtol == 0.0 and atol <= most * np.abs(array).max(), (case.name, tensor.name)


@pytest.mark.parametrize("name", ["onnxruntime", "numpy"])
def test_runtimes_pass(traces, name):
    if name == "onnxruntime":
        pytest.importorskip(name)
    runtime = open_runtime(name) if name == "onnxruntime" else open_runtime("ldmref", name)
    cases = traces.select(parts=["traces"])
    results = list(run_cases(traces, runtime, cases))
    assert len(results) == 4 and not [str(result) for result in results if not result.passed]


def levels_without_shift(trajectory):
    """The levels of shift 1, by a program that ignores the setting."""
    s = trajectory.schedule.sigmas
    sigmas = s / (3.0 - 2.0 * s)
    schedule = trajectory.schedule._replace(sigmas=sigmas, timesteps=1000.0 * sigmas[:-1])
    return replace(trajectory, schedule=schedule)


WRONG = [  # the wrong step, the run, a wrong model, a wrong sampling
    ("guidance.000//output", "sd3-medium.txt2img.euler", None, swap_halves),
    ("sampler.000//output", "sd3-medium.txt2img.euler", None, levels_without_shift),
    (
        "vae.decode//input.latents",
        "sd3-medium.txt2img.euler",
        lambda: with_config("sd3-medium", vae={"shift_factor": 0.0}),
        None,
    ),
    (
        "vae.decode//input.latents",
        "flux-dev.txt2img.euler",
        lambda: with_config("flux-dev", vae={"scaling_factor": 0.3612}),
        None,
    ),
    (
        "sampler.000//output",
        "flux-dev.txt2img.euler",
        lambda: with_config("flux-dev", scheduler={"max_shift": 1.16}),
        None,
    ),
    (
        "transformer.000//input.sample",
        "sd3-medium.img2img.euler",
        lambda: with_config("sd3-medium", vae={"shift_factor": 0.0}),
        None,
    ),
]


@pytest.mark.parametrize(("step", "name", "make", "change"), WRONG)
def test_a_wrong_program_fails_at_the_wrong_step(traces, tmp_path, step, name, make, change):
    model = make() if make is not None else None
    tensors = record(name, model, *([change] if change else []))
    save_file({f"{name}/{k}": x for k, x in tensors.items()}, tmp_path / "a.safetensors")
    (result,) = judge_values(traces, tmp_path / "a.safetensors", traces.select())
    assert not result.passed and result.detail.startswith(f"{step}: got "), result.detail


@pytest.mark.parametrize("name", ["sd3-medium.txt2img.euler", "flux-dev.img2img.euler"])
def test_diff_finds_no_fault_in_a_golden_trace(traces, name):
    trace = load_trace(traces.folder / "traces" / name)
    report = diff_traces(trace, golden_model(name.partition(".")[0]), trace)
    assert not report.faults and not report.gaps, (report.faults, report.gaps)
    # an image of the request is not in the trace, so that what is made of it has no verdict
    assert report.verdict == ("incomplete" if "img2img" in name else "equal")


# -- diffusers -------------------------------------------------------------------------------------


def make_pipeline(model, monkeypatch):
    """Return diffusers' pipeline of a golden model in float64, without text encoders."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    from flux_networks import in_float64 as flux_in_float64
    from sd3_networks import in_float64 as sd3_in_float64

    from benchmarks.peers import peer_network

    config = vars(model.config.denoiser)
    flux = model.config.denoiser.family == "flux"
    kind = diffusers.FluxTransformer2DModel if flux else diffusers.SD3Transformer2DModel
    names = kind.__init__.__wrapped__.__code__.co_varnames
    own = {key: value for key, value in config.items() if key in names and value != ""}
    own |= {"in_channels": 16, "out_channels": 16} if flux else {"caption_projection_dim": 16}
    network = kind(**own)
    weights = flatten(model.params["transformer"])
    network.load_state_dict({key: torch.from_numpy(np.array(x)) for key, x in weights.items()})
    network = network.eval().requires_grad_(False)
    network = flux_in_float64(network, monkeypatch) if flux else sd3_in_float64(network)
    made = diffusers.FluxPipeline if flux else diffusers.StableDiffusion3Pipeline
    encoders = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    encoders += () if flux else ("text_encoder_3", "tokenizer_3")
    return made(
        transformer=network,
        vae=peer_network("vae", model).double(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=flux),
        **dict.fromkeys(encoders),
    )


def watch(pipe):
    """Record inputs and outputs of the networks of a pipeline under the names of a trace."""
    found = {}
    forward, decode, calls = pipe.transformer.forward, pipe.vae.decode, count()
    flux = type(pipe).__name__ == "FluxPipeline"

    def latents(x):
        return pipe._unpack_latents(x, 16, 16, 2) if flux else x

    def transformer(**options):
        name = f"transformer.{next(calls):03}"
        output = forward(**options)
        times = options["timestep"].double() * (1000 if flux else 1)
        found[f"{name}//input.sample"] = latents(options["hidden_states"])
        found[f"{name}//input.timestep"] = times
        found[f"{name}//output"] = latents(output[0])
        return output

    def vae(z, **options):
        output = decode(z, **options)
        found["vae.decode//input.latents"], found["vae.decode//output"] = z, output[0]
        return output

    pipe.transformer.forward, pipe.vae.decode = transformer, vae
    return found


@pytest.mark.parametrize("name", ["sd3-medium.txt2img.euler", "flux-dev.txt2img.euler"])
def test_a_golden_trace_equals_what_diffusers_computes(traces, name, monkeypatch):
    torch = pytest.importorskip("torch")
    case = traces.cases[name]
    pipe = make_pipeline(golden_model(name.partition(".")[0]), monkeypatch)
    found = watch(pipe)
    tensors = load_trace(traces.folder / case.path).tensors
    given = {k: torch.from_numpy(np.array(x, np.float64)) for k, x in tensors.items()}
    text = given["transformer.000//input.encoder_hidden_states"]
    pooled = given["transformer.000//input.pooled_projections"]
    noise = given["noise"]
    options = {"prompt_embeds": text[-1:], "pooled_prompt_embeds": pooled[-1:]}
    if name.startswith("flux"):
        noise = pipe._pack_latents(noise, 1, 4, 8, 8)
    else:
        options |= {"negative_prompt_embeds": text[:1], "negative_pooled_prompt_embeds": pooled[:1]}
    pipe.set_progress_bar_config(disable=True)
    with torch.inference_mode():
        pipe(
            latents=noise,
            num_inference_steps=case.attributes["steps"],
            guidance_scale=case.attributes["cfg_scale"],
            height=16,
            width=16,
            output_type="np",
            **options,
        )
    want = SuiteReader(traces).outputs(case)
    checked = [x for x in case.outputs if x.name in found]
    assert len(checked) == 11
    for tensor in checked:
        error = np.abs(found[tensor.name].double().numpy() - want[tensor.name]).max()
        assert error <= tensor.tolerance["float32"][0], (tensor.name, error)
