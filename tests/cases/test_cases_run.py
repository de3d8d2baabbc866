"""Cases in runtimes, in other programs, and as files of results."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ldmref.cases import run_cases
from ldmref.cases.files import SuiteReader
from ldmref.cases.runtimes import RUNTIMES
from ldmref.cases.suite_run import judge_command, judge_values, open_runtime
from ldmref.errors import BackendUnavailable, InputError, UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"
# A program of 15 lines, without a library: Python's own JSON only.
PROGRAM = """
import json, sys
from pathlib import Path
folder, output, names = map(Path, sys.argv[1:])
wanted = names.read_text().split()
cases = json.loads((folder / "values/guidance.json").read_text())["cases"]
results = {}
for name in wanted:
    case = cases[name]
    if case["kind"] == "cfg":
        scale = case["attributes"]["cfg_scale"]
        c = case["inputs"]["cond.0"]
        u = case["inputs"].get("uncond.0", c)
        data = [a + scale * (b - a) for a, b in zip(u["data"], c["data"])]
        results[name] = {"guided.0": {"dtype": "float64", "shape": c["shape"], "data": data}}
(output / "results.json").write_text(json.dumps(results))
"""


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "onnx-reference", "ldmref"])
def test_runtimes_pass(small, name):
    if name != "ldmref":
        pytest.importorskip(RUNTIMES[name]._module)
    runtime = open_runtime(name, "numpy" if name == "ldmref" else None)
    cases = small.select()
    if name == "openvino":  # it compiles each graph for 50 ms
        cases = cases[::4]
    results = list(run_cases(small, runtime, cases))
    assert {result.case for result in results} == {case.name for case in cases}
    failed = [str(result) for result in results if not result.passed]
    assert not failed, "\n".join(failed)
    assert name.partition("-")[0] in runtime.describe()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "onnx-reference", "ldmref", "torch"])
def test_runtimes_pass_the_whole_suite(tmp_path, name):
    from ldmref.cases import make_suite

    suite = make_suite(tmp_path / "all")
    known = name in RUNTIMES
    if known or name == "torch":
        pytest.importorskip(RUNTIMES[name]._module if known else name)
    backend = {"ldmref": "numpy", "torch": "torch"}.get(name)
    runtime = open_runtime("ldmref" if backend else name, backend)
    results = list(run_cases(suite, runtime, suite.select()))
    assert len(results) == len(suite.select((), runtime.parts))
    assert not [str(result) for result in results if not result.passed]


def test_values_of_this_machine_pass(values):
    results = list(run_cases(values, open_runtime("ldmref", "numpy"), values.select()))
    assert len(results) == len(values.cases)
    assert not [str(result) for result in results if not result.passed]


def test_a_wrong_epsilon_and_a_missing_bias_fail(small):
    """The backend's group norm adds 1e-4 to the variance; its linear layers forget the bias."""
    from ldmref.backends.numpy import NumpyBackend
    from ldmref.cases.runtimes import LdmrefRuntime

    class Wrong(NumpyBackend):
        name = "wrong"

        def group_norm(self, x, weight, bias, groups, eps):
            return super().group_norm(x, weight, bias, groups, 1e-4)

        def linear(self, x, weight, bias=None):
            return super().linear(x, weight)

    results = list(run_cases(small, LdmrefRuntime(Wrong()), small.select()))
    verdicts = {kind: set() for kind in {result.kind for result in results}}
    for result in results:
        verdicts[result.kind].add(result.passed)
    assert verdicts["group_norm"] == {False} and False in verdicts["linear"]
    assert verdicts["conv2d"] == verdicts["layer_norm"] == verdicts["silu"] == {True}
    failed = next(result for result in results if result.kind == "group_norm")
    assert failed.ratio > 10 and "got " in failed.detail and "expected " in failed.detail


def test_a_runtime_that_raises_fails_the_case_and_goes_on(small, monkeypatch):
    pytest.importorskip("onnx")

    def load(module, path):
        if "conv_in" in path:
            raise RuntimeError("no such operator\nsecond line")
        return RUNTIMES["onnx-reference"]._load(module, path)

    from ldmref.cases.runtimes import OnnxRuntime

    runtime = OnnxRuntime("mine", "onnx.reference", "onnx", load)
    cases = small.select(["taesd*", "*unet.conv_in"])
    results = list(run_cases(small, runtime, cases))
    failed = [result for result in results if not result.passed]
    assert failed and all("conv_in" in result.case for result in failed)
    assert failed[0].detail == "RuntimeError: no such operator"


def test_a_missing_runtime_is_one_line():
    from ldmref.cases.runtimes import OnnxRuntime

    runtime = OnnxRuntime("tract", "tract_is_not_here", "tract", lambda module, path: None)
    with pytest.raises(BackendUnavailable, match="needs tract_is_not_here") as caught:
        runtime.open()
    assert caught.value.hint == "pip install tract"
    with pytest.raises(UsageError, match="unknown runtime") as caught:
        open_runtime("onnxruntim")
    assert "onnxruntime" in caught.value.hint


# -- other programs ----------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_a_program_in_c_runs_layers(small, tmp_path):
    program = tmp_path / "run_case"
    build = ["cc", "-O2", "-Wall", "-Werror", "-o", program, EXAMPLES / "run_case.c", "-lm"]
    subprocess.run(build, check=True, capture_output=True)
    command = f"{program} {{kind}} {{case}} {{output}}"
    cases = small.select(kinds=("linear", "silu"))
    results = list(judge_command(small, command, cases))
    assert len(results) > 10 and all(result.passed for result in results)
    (result,) = judge_command(small, command, small.select(kinds=("mlp",))[:1])
    assert "ended with code 1: no layer of kind mlp here" in result.detail


def test_a_program_that_runs_the_whole_suite(values, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = f"{sys.executable} {program} {{folder}} {{output}} {{list}}"
    cases = values.select(["guidance.*"])
    results = {r.case: r for r in judge_command(values, command, cases, output=tmp_path / "out")}
    assert results["guidance.cfg.1"].passed and results["guidance.cfg.7.5"].passed
    assert results["guidance.apg.7.5"].detail == "no result"
    assert json.loads((tmp_path / "out/results.json").read_text()).keys() < results.keys()


@pytest.mark.parametrize("suffix", ["pb", "npy"])
def test_outputs_may_lie_in_the_folder_of_the_suite(small, tmp_path, suffix):
    """The folder of expected outputs is itself a folder of results."""
    reader = SuiteReader(small)
    cases = small.select(["taesd.*"])
    for case in cases:
        folder = tmp_path / case.path
        folder.mkdir(parents=True)
        for i, (name, y) in enumerate(reader.outputs(case).items()):
            if suffix == "npy":
                np.save(folder / f"output_{i}.npy", y)
            else:
                shutil.copy(small.folder / case.path / f"test_data_set_0/output_{i}.pb", folder)
            assert name
    nothing = f"{sys.executable} -c pass {{folder}}"
    results = list(judge_command(small, nothing, cases, output=tmp_path))
    assert len(results) == len(cases) and all(result.passed for result in results)


@pytest.mark.parametrize(
    ("command", "error", "message"),
    [
        ("./runner", UsageError, "names neither"),
        ("'./runner {folder}", UsageError, "No closing quotation"),
        ("/nowhere/runner {folder}", InputError, "cannot run '/nowhere/runner'"),
        (f"{sys.executable} -c 1/0 {{folder}}", InputError, "ended with code 1.*ZeroDivision"),
    ],
)
def test_commands_that_cannot_run(values, command, error, message):
    with pytest.raises(error, match=message):
        list(judge_command(values, command, values.select(["guidance.cfg.1"])))


def test_a_command_that_hangs_is_stopped(values):
    command = f"{sys.executable} -c 'import time; time.sleep(60)' {{folder}}"
    with pytest.raises(InputError, match=r"took longer than 0\.5 s"):
        list(judge_command(values, command, values.select(["guidance.cfg.1"]), timeout=0.5))


# -- files of results --------------------------------------------------------------------------


def results_of(suite, names):
    reader = SuiteReader(suite)
    return {name: reader.outputs(suite.cases[name]) for name in names}


NAMES = ("schedules.sigmas.linear", "guidance.apg.7.5", "tokenizers.clip.3", "samplers.euler")


def test_results_in_json_and_safetensors(values, tmp_path):
    found = results_of(values, NAMES)
    rows = {name: {k: y.tolist() for k, y in outputs.items()} for name, outputs in found.items()}
    rows["tokenizers.clip.3"] = rows["tokenizers.clip.3"]["ids"]  # the only output of the case
    (tmp_path / "a.json").write_text(json.dumps(rows))
    arrays = {f"{name}/{k}": y for name, outputs in found.items() for k, y in outputs.items()}
    save_file(arrays, tmp_path / "a.safetensors")
    for file in ("a.json", "a.safetensors"):
        results = list(judge_values(values, tmp_path / file, values.select()))
        assert [r.case for r in results] == [n for n in values.cases if n in NAMES]
        assert all(result.passed and result.error == 0.0 for result in results)


@pytest.mark.parametrize(
    ("name", "change", "part_of_detail"),
    [
        ("tokenizers.clip.3", lambda y: {"ids": y["ids"] + (y["ids"] == 528)}, "got 529"),
        ("schedules.sigmas.linear", lambda y: {"sigmas": y["sigmas"][:-1]}, "shape [999]"),
        ("schedules.sigmas.linear", lambda y: {"sigmas": y["sigmas"] * (1 + 1e-9)}, "expected"),
        ("samplers.euler", lambda y: {"states": y["states"] * np.nan}, "no output"),
        ("samplers.euler", lambda y: y | {"states": y["states"] * np.nan}, "states: got nan"),
    ],
)
def test_wrong_results_fail(values, tmp_path, name, change, part_of_detail):
    outputs = change(results_of(values, [name])[name])
    rows = {name: {key: np.asarray(y) for key, y in outputs.items()}}
    save_file({f"{name}/{k}": y for k, y in rows[name].items()}, tmp_path / "a.safetensors")
    (result,) = judge_values(values, tmp_path / "a.safetensors", values.select())
    assert not result.passed and part_of_detail in result.detail


def test_float32_results_pass_in_float32_only(values, tmp_path):
    name = "schedules.alphas_cumprod.scaled_linear"
    betas = SuiteReader(values).inputs(values.cases[name])["betas"].astype(np.float32)
    row = {name: {"alphas_cumprod": np.cumprod(1 - betas, dtype=np.float32).tolist()}}
    (tmp_path / "a.json").write_text(json.dumps(row))
    (wide,) = judge_values(values, tmp_path / "a.json", values.select())
    (narrow,) = judge_values(values, tmp_path / "a.json", values.select(), "float32")
    assert not wide.passed and narrow.passed


def test_files_of_results_that_are_wrong(values, tmp_path):
    (tmp_path / "a.json").write_text('{"sampler.euler": [1, 2]}')
    with pytest.raises(UsageError, match=r"no case of the suite is called 'sampler\.euler'"):
        list(judge_values(values, tmp_path / "a.json", values.select()))
    (tmp_path / "b.txt").write_text("{}")
    with pytest.raises(UsageError, match=r"ends in \.json or \.safetensors"):
        list(judge_values(values, tmp_path / "b.txt", values.select()))
    (tmp_path / "c.json").write_text('{"samplers.euler": {"states": "text"}}')
    with pytest.raises(InputError, match=r"samplers\.euler: ValueError"):
        list(judge_values(values, tmp_path / "c.json", values.select()))


def test_the_values_agree_with_diffusers(values, tmp_path):
    """Schedules and runs of diffusers' own schedulers, for the same predictions."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    reader = SuiteReader(values)
    sd = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    sd |= {"steps_offset": 1}
    ddim = diffusers.DDIMScheduler(**sd, set_alpha_to_one=False, clip_sample=False)
    rows = {
        "schedules.betas.scaled_linear": {"betas": ddim.betas.numpy()},
        "schedules.alphas_cumprod.scaled_linear": {"alphas_cumprod": ddim.alphas_cumprod.numpy()},
    }
    ddim.set_timesteps(7)
    sigmas = reader.outputs(values.cases["schedules.diffusers.ddim"])["timesteps"]
    assert np.array_equal(ddim.timesteps.numpy(), sigmas)
    euler = diffusers.EulerDiscreteScheduler(**sd, timestep_spacing="leading")
    euler.set_timesteps(7)
    rows["schedules.diffusers.euler.leading"] = {
        "sigmas": euler.sigmas.numpy(),
        "timesteps": euler.timesteps.numpy(),
        "init_noise_sigma": np.asarray(euler.init_noise_sigma),
    }
    for label, kind in {
        "euler": diffusers.EulerDiscreteScheduler,
        "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
        "heun": diffusers.HeunDiscreteScheduler,
    }.items():
        name = f"samplers.diffusers.{label}"
        inputs = reader.inputs(values.cases[name])
        options = {"final_sigmas_type": "zero"} if label == "dpmpp_2m" else {}
        spaced = {"timestep_spacing": "leading", "prediction_type": "sample"}
        scheduler = kind(**sd, **spaced, **options)
        scheduler.set_timesteps(6)
        rows[name] = run_scheduler(torch, scheduler, label, inputs)
    flat = {f"{name}/{k}": np.array(y) for name, row in rows.items() for k, y in row.items()}
    save_file(flat, tmp_path / "diffusers.safetensors")
    path = tmp_path / "diffusers.safetensors"
    for result in judge_values(values, path, values.select(), "float32"):
        assert result.passed or result.detail == "no output 'evaluated_sigmas'", str(result)
    for name, row in rows.items():
        expected = reader.outputs(values.cases[name])
        for key, y in row.items():
            error = np.abs(np.asarray(y, float) - expected[key]).max()
            assert error <= 2e-5 * np.abs(expected[key]).max(), f"{name}, {key}"


def run_scheduler(torch, scheduler, label, inputs):
    """Return the states of a run in coordinates x0 + sigma eps, for given predictions of x0."""
    sigmas = inputs["sigmas"]
    preserving = label == "dpmpp_2m"  # its states are scaled by sqrt(alpha-bar)
    scale = 1.0 / np.sqrt(1.0 + sigmas**2) if preserving else np.ones_like(sigmas)
    x = torch.from_numpy(inputs["x"] * scale[0])
    states = []
    for t, x0 in zip(scheduler.timesteps, inputs["predictions"], strict=True):
        x = scheduler.step(torch.from_numpy(x0), t, x).prev_sample
        states.append(x.numpy().copy())
    if label == "heun":
        states = [*states[1::2], states[-1]]
    return {"states": np.stack([y / s for y, s in zip(states, scale[1:], strict=True)])}
