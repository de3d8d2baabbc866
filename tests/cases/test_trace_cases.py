"""Golden traces: whole runs, right and wrong programs, and `ldmref diff` with a golden trace."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldmref.apps.cli.main import main
from ldmref.backends.numpy import NumpyBackend
from ldmref.cases import golden_model, make_suite, run_cases, temporary_suite
from ldmref.cases.families import networks
from ldmref.cases.files import SuiteReader
from ldmref.cases.golden_models import golden_presets, network_names
from ldmref.cases.network_cases import LENGTH
from ldmref.cases.runtimes import RUNTIMES, find_trace
from ldmref.cases.suite_run import judge_command, judge_values, open_runtime
from ldmref.cases.trace_cases import networks_of_traces
from ldmref.cases.trace_runs import golden_traces, record_run
from ldmref.errors import UsageError
from ldmref.models.params import flatten
from ldmref.models.presets import PRESETS
from ldmref.prompts.tokenizer import PromptTokenizer
from ldmref.trace import load_trace


@pytest.fixture(scope="session")
def traces(tmp_path_factory):
    """Return the runs of two families: 6 traces, and the 6 networks that they call."""
    folder = tmp_path_factory.mktemp("cases") / "traces"
    return make_suite(folder, ("traces",), ("sd15", "sdxl"))


@pytest.fixture
def ldm(capfd):
    """Run a command line."""

    def run(*argv):
        capfd.readouterr()
        code = main([str(word) for word in argv])
        out, err = capfd.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


# -- the files -----------------------------------------------------------------------------------


def test_a_trace_is_made_twice_with_equal_bytes(tmp_path):
    first = make_suite(tmp_path / "a", ("traces",), ("sd2-v",))
    second = make_suite(tmp_path / "b", ("traces",), ("sd2-v",))
    assert first.digest == second.digest and len(first.select(parts=["traces"])) == 2


def test_every_family_with_a_text_encoder_has_runs():
    with_text = {
        name
        for name, config in PRESETS.items()
        if name != "tiny"
        and not config.image_channels
        and any(encoder.model_type != "class" for encoder in config.text_encoders)
    }
    others = {"sd3-medium", "sd35-medium", "flux-dev", "flux-schnell", "z-image", "z-image-turbo"}
    others |= {"flux2-klein-4b", "flux2-klein-base-4b", "flux3-klein", "flux3-klein-base"}
    others |= {"qwen-image-2.1", "qwen-image-2.1-turbo", "krea-2", "krea-2-turbo"}
    assert with_text | others == {*golden_presets()} == {run.family for run in golden_traces()}
    modes = {trace.mode for trace in golden_traces() if trace.family == "sd15"}
    assert modes == {"txt2img", "img2img", "inpaint"}
    assert sum(trace.noisy for trace in golden_traces()) == 5


def test_models_have_the_parameters_of_the_suites_networks():
    called = networks_of_traces()
    found = {net.name: flatten(net.params) for net in networks() if net.name in called}
    assert found.keys() == called
    for family in golden_presets():
        params = golden_model(family).params
        for network, name in network_names(family).items():
            names = name, f"{name}.decode", f"{name}.encode"
            cases = [found[case] for case in names if case in found]
            own = flatten(params[network])
            assert all(other.keys() == own.keys() for other in cases) and cases
            for other in cases:
                for key, x in own.items():  # the text has fewer positions than its encoder
                    assert np.array_equal(other[key][: len(x)], x), (family, key)


def test_a_suite_of_a_family_has_the_networks_that_its_traces_call(traces):
    for case in traces.select(parts=["traces"]):
        assert all(name in traces.cases for name in case.attributes["networks"].values())
    assert {c.name for c in traces.cases.values() if c.part == "networks"} == networks_of_traces(
        ("sd15", "sdxl")
    )


def test_a_case_describes_its_trace(traces):
    case = traces.cases["sdxl.txt2img.euler_a"]
    trace = load_trace(traces.folder / case.path)
    assert trace.manifest["model"]["name"] == "ldmref-cases/sdxl"
    assert trace.manifest["params"]["sampler"] == "euler_a" and trace.manifest["complete"]
    for tensor in (*case.inputs, *case.outputs):
        array = trace.tensors[tensor.name]
        assert array.shape == tensor.shape and str(array.dtype) == tensor.dtype, tensor.name
    assert [x.name for x in case.inputs] == [
        "sampler.000//input.noise",
        "sampler.001//input.noise",
        "noise",
    ]
    names = [x.name for x in case.outputs]
    assert names[:2] == ["text_encoder//input.input_ids", "text_encoder//output"]
    assert names.count("unet.000//input.time_ids") == 1 and names[-1] == "vae.decode//output"
    assert not any(name.startswith("unet.001//input.time_ids") for name in names)
    exact = {x.name for x in case.outputs if not x.tolerance}
    assert exact == {name for name in names if name.endswith("input_ids")}
    ids = trace.tensors["text_encoder_2//input.input_ids"]
    assert ids.shape == (1, LENGTH) and ids[0, -1] == case.attributes["pad"][1] == 0
    assert case.attributes["scaling_factor"] == 0.13025


def test_equal_tensors_are_stored_once(traces):
    case = traces.cases["sd15.txt2img.ddim"]
    data = (traces.folder / case.path / "trace.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    shared = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["shared"])
    assert shared["sampler.001//input.x"] == "sampler.000//output"
    assert len(data) < 70_000


def test_tolerances_are_small(traces):
    """A wrong constant cannot hide in them."""
    reader = SuiteReader(traces)
    for case in traces.select(parts=["traces"]):
        for tensor, array in zip(case.outputs, reader.outputs(case).values(), strict=True):
            atol, rtol = tensor.tolerance.get("float32", (0.0, 0.0))
            assert rtol == 0.0 and atol <= 5e-4 * np.abs(array).max(), (case.name, tensor.name)


# -- right programs ------------------------------------------------------------------------------


SLOW = pytest.mark.slow
RUN_BY = [
    "onnxruntime",
    *(pytest.param(x, marks=SLOW) for x in ("openvino", "onnx-reference", "numpy", "torch")),
]


@pytest.mark.parametrize("name", RUN_BY)
def test_runtimes_pass_the_traces(traces, name):
    pytest.importorskip(RUNTIMES[name]._module if name in RUNTIMES else name)
    runtime = open_runtime(name) if name in RUNTIMES else open_runtime("ldmref", name)
    cases = traces.select(parts=["traces"])
    if name == "openvino":  # it compiles each graph for 50 ms
        cases = cases[::3]
    results = list(run_cases(traces, runtime, cases))
    assert [result.case for result in results] == [case.name for case in cases]
    assert not [str(result) for result in results if not result.passed]


@pytest.mark.slow
def test_all_families_pass(tmp_path):
    with temporary_suite(["traces"]) as suite:
        assert {case.part for case in suite.cases.values()} == {"traces"}
        results = list(run_cases(suite, open_runtime("ldmref", "torch"), suite.select()))
    assert len(results) == 32
    assert not [str(result) for result in results if not result.passed]


def test_a_runtime_without_the_networks_says_so(traces):
    pytest.importorskip("onnxruntime")
    alone = replace(traces, cases={c.name: c for c in traces.select(parts=["traces"])})
    (result,) = run_cases(alone, open_runtime("onnxruntime"), alone.select(["sd15.*.euler_a"]))
    assert not result.passed and "does not have the network 'sd15.unet'" in result.detail


def record(name, model=None, change=lambda trajectory: trajectory):
    """Run a golden trace in float32; return its tensors."""
    trace = find_trace(name)
    return record_run(trace, model or golden_model(trace.family), trace.inputs(), change).tensors


@pytest.mark.parametrize("file", ["one", "calls", "results"])
def test_a_program_writes_a_trace(traces, tmp_path, file):
    """As one file, as a file per call, or in results.safetensors."""
    name = "sd15.img2img.ddim"
    tensors = record(name)
    folder = tmp_path / "traces" / name
    if file == "results":
        save_file({f"{name}/{k}": x for k, x in tensors.items()}, tmp_path / "results.safetensors")
    elif file == "one":
        folder.mkdir(parents=True)
        save_file(tensors, folder / "port.safetensors")
    else:
        folder.mkdir(parents=True)
        for call in {key.partition("/")[0] for key in tensors}:
            own = {k: x for k, x in tensors.items() if k.startswith(f"{call}/")}
            save_file(own, folder / f"{call}.safetensors")
    nothing = f"{sys.executable} -c pass {{folder}}"
    (result,) = judge_command(traces, nothing, traces.select([name]), output=tmp_path)
    assert result.passed and 0.0 < result.ratio < 0.5
    if file == "results":
        (same,) = judge_values(traces, tmp_path / "results.safetensors", traces.select())
        assert same == result


def test_a_program_is_started_for_each_trace(traces, tmp_path):
    script = "import sys; from pathlib import Path; Path(sys.argv[2], 'x').touch(); sys.exit(3)"
    command = f'{sys.executable} -c "{script}" {{case}} {{output}}'
    case = traces.cases["sd15.txt2img.ddim"]
    (result,) = judge_command(traces, command, [case], output=tmp_path)
    assert "ended with code 3" in result.detail
    assert (tmp_path / case.path / "x").exists()


# -- wrong programs ------------------------------------------------------------------------------


def with_config(family, **changes):
    """Return a golden model with another setting."""
    model = golden_model(family)
    for part, values in changes.items():
        old = getattr(model.config, part)
        changed = replace(old, **values) if isinstance(values, dict) else values
        model.config = replace(model.config, **{part: changed})
    return model


def padded_with_end(family):
    model = golden_model(family)
    first = model.tokenizer
    model.tokenizer_2 = PromptTokenizer(first.tokenizer, LENGTH, first.special_tokens)
    return model


class SwappedGuidance:
    """Guidance of the wrong half of the batch."""

    def __init__(self, inner):
        self.inner = inner
        self.combines = inner.combines
        self.remembers = inner.remembers
        self.needs = inner.needs

    def __call__(self, predictions, sigma, scale, memory):
        swapped = {"uncond": predictions["cond"], "cond": predictions["uncond"]}
        return self.inner(swapped, sigma, scale, memory)


def swap_halves(trajectory):
    return replace(trajectory, guidance=SwappedGuidance(trajectory.guidance))


def late_sigma(trajectory):
    """From the second step on, the noise level of one step later."""
    sigmas = [*trajectory.schedule.sigmas[1:], 0.0]

    def step(denoise, x, interval, history, noise):
        if interval.i:
            interval = interval._replace(sigma_next=float(sigmas[interval.i_next]))
        return trajectory.step(denoise, x, interval, history, noise)

    return replace(trajectory, step=step)


def noise_in_another_order(trajectory):
    noises = []

    def draw():
        if not noises:
            noises.extend([trajectory.noise(), trajectory.noise()])
        return noises.pop()

    return replace(trajectory, noise=draw)


def less_initial_noise(trajectory):
    return replace(trajectory, x=0.99 * trajectory.x)


WRONG = [  # the wrong step, the run, a wrong model, a wrong sampling
    ("guidance.000//output", "sd15.txt2img.ddim", None, swap_halves),
    ("sampler.001//output", "sd15.txt2img.ddim", None, late_sigma),
    ("sampler.000//output", "sdxl.txt2img.euler_a", None, noise_in_another_order),
    ("unet.000//input.sample", "sdxl.txt2img.euler", None, less_initial_noise),
    ("unet.000//input.sample", "sd15.img2img.ddim", None, less_initial_noise),
    (
        "vae.decode//input.latents",
        "sd15.txt2img.ddim",
        lambda: with_config("sd15", vae={"scaling_factor": 0.13025}),
        None,
    ),
    (
        "unet.000//input.timestep",
        "sd15.txt2img.ddim",
        lambda: with_config("sd15", scheduler={"steps_offset": 0}),
        None,
    ),
    (
        "sampler.000//output",
        "sd15.txt2img.ddim",
        lambda: with_config("sd15", scheduler={"prediction_type": "v"}),
        None,
    ),
    (
        "sampler.000//output",
        "sd15.txt2img.ddim",
        lambda: with_config("sd15", scheduler={"beta_schedule": "linear"}),
        None,
    ),
    (
        "unet.000//input.encoder_hidden_states",
        "sdxl.txt2img.euler",
        lambda: with_config("sdxl", zero_empty_negative=False),
        None,
    ),
    (
        "text_encoder_2//input.input_ids",
        "sdxl.txt2img.euler",
        lambda: padded_with_end("sdxl"),
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


def test_known_values_that_are_put_back_wrongly_fail(traces, tmp_path):
    name = "sd15.inpaint.ddim"
    tensors = record(name)
    key = "sampler.001/constrain/output"
    tensors[key] = tensors["sampler.001//output"]  # nothing is put back
    save_file({f"{name}/{k}": x for k, x in tensors.items()}, tmp_path / "a.safetensors")
    (result,) = judge_values(traces, tmp_path / "a.safetensors", traces.select())
    assert not result.passed and result.detail.startswith(f"{key}: got ")


# -- ldmref diff -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sdxl.txt2img.euler_a", "sd15.inpaint.ddim"])
def test_diff_takes_a_golden_trace_as_the_reference(traces, tmp_path, ldm, name):
    """The port has no manifest: model and request are those of the golden trace.

    No golden trace holds the image of its request, so what is made of it has no verdict.
    """
    right = 10 if "inpaint" in name else 0
    golden = traces.folder / "traces" / name
    port = tmp_path / "port"
    port.mkdir()
    save_file(record(name), port / "port.safetensors")
    ran = ldm("diff", golden, port, "-q")
    shown = ran.out + ran.err
    assert ran.code == right and "agree within the rounding of float32" in shown, shown
    assert ldm("diff", golden, "-q").code == right  # a golden trace has no fault itself
    other = {"sd15": 0.13025, "sdxl": 0.18215}[name.partition(".")[0]]
    wrong = with_config(name.partition(".")[0], vae={"scaling_factor": other})
    save_file(record(name, wrong), port / "port.safetensors")
    ran = ldm("diff", golden, port, "-q")
    assert ran.code == 4 and f"scaling factor {other} instead of" in ran.out


def test_a_port_alone_names_its_golden_model(traces, tmp_path, ldm):
    golden = traces.folder / "traces/sd15.txt2img.ddim"
    ran = ldm("diff", golden / "trace.safetensors", "-m", "ldmref-cases/sd15", "-q")
    assert ran.code == 10 and "agree within the rounding" in ran.err, ran.out + ran.err
    ran = ldm("diff", golden / "trace.safetensors", "-m", "ldmref-cases/sd51", "-q")
    assert ran.code == 2 and "did you mean" in ran.err
    with pytest.raises(UsageError, match="no golden traces of 'taesd'"):
        golden_model("taesd")


def test_a_golden_model_runs_on_the_backend_it_is_given():
    ops = NumpyBackend(dtype="float64")
    model = golden_model("emoji", ops)
    assert model.backend is ops and model.encode_text(["a red heart"]).shape == (1, LENGTH, 16)
