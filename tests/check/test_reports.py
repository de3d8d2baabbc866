"""Reports: the inputs of steps and fields that a function returns, and plain words."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from wrapped import module_of, wrapped_function

import ldmref.math
from ldmref.apps.cli.main import main
from ldmref.backends import get_backend
from ldmref.check import identities, run
from ldmref.check.identity import Functions, public
from ldmref.check.made_calls import MadeCall
from ldmref.check.runner import repeat_case

NUMPY = get_backend("numpy", dtype="float64")
CHAPTER_0 = Path(__file__).parents[2] / "docs/course/00-before-you-start.md"
FIELDS = ("probability_flow", "reverse_sde", "sde_score", "sigma_flow")
STEPS = sorted(
    {i.function for i in identities() if getattr(ldmref.math, i.function, None) is None}
    - {"invert", "flow_edit"}  # return states, no step
    - {"autoguidance", "toward_data", "toward_noise"}  # return denoisers
)


def failing(name):
    """Return a module in which the function's results are wrong."""
    return module_of({name: wrapped_function(public(name), spoilt)})


def spoilt(value):
    return value * 1.01 + 0.01 if "float" in str(getattr(value, "dtype", "")) else value


@pytest.mark.parametrize("name", STEPS)
def test_a_step_shows_its_state_its_levels_and_what_the_denoiser_gave(name):
    results = [*run(NUMPY, against=failing(name), cases=2, only=f"{name}: ")]
    (first, *_) = next(r for r in results if not r.holds).calls
    assert re.search(r"\)\(x=\[[^]]*\] \(3, 2, 1, 2\), sigma=\d\S*, sigma_next=\d", first)
    if not name.endswith("cfgpp"):  # its denoiser is no plain function
        assert re.search(r"denoise\(\w+=\[[^]]*\] \(3, 2, 1, 2\), sigma=\S+\) returned \[", first)


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_shows_its_state_its_time_and_the_score(name):
    results = [*run(NUMPY, against=failing(name), cases=2, only=f"{name}: ")]
    first = next(r for r in results if not r.holds).calls[0]
    assert re.search(r"\)\(x=\[[^]]*\] \(\d, \d\), t=", first)
    assert re.search(r"(score|denoise)\(x=\[.*\) returned \[", first)


def test_a_step_is_saved_with_all_that_decides_its_result(tmp_path, monkeypatch, capsys):
    """The step can be repeated from the file alone."""
    (tmp_path / "answers.py").write_text(
        "import ldmref.samplers\n\n\ndef heun():\n    right = ldmref.samplers.heun()\n\n"
        "    def step(denoise, x, interval, history, noise):\n"
        "        x_next, x0, history = right(denoise, x, interval, history, noise)\n"
        "        return 1.5 * x_next, x0, history\n\n    return step\n"
    )
    monkeypatch.chdir(tmp_path)
    only = "heun in terms"
    command = ["check", "--against", "answers.py", "--only", only, "--case", "3"]
    assert main([*command, "--save", "c.npz"]) == 4
    capsys.readouterr()
    with np.load(tmp_path / "c.npz") as file:
        case = {name.removeprefix("1.heun."): file[name] for name in file.files}
    x, sigma, sigma_next = case["x"], float(case["sigma"]), float(case["sigma_next"])
    slopes = [(case[f"denoise.{i}.x"] - case[f"denoise.{i}.returned"]) for i in (1, 2)]
    slope = (slopes[0] / sigma + slopes[1] / sigma_next) / 2
    np.testing.assert_allclose(x + (sigma_next - sigma) * slope, case["expected"], rtol=1e-12)
    np.testing.assert_allclose(case["returned.x_next"], 1.5 * case["expected"], rtol=1e-12)
    assert not case["history"].size and case["denoise.2.sigma"] == sigma_next


def test_the_settings_of_the_factory_are_shown_and_saved():
    identity = next(i for i in identities() if i.function == "dpmpp_2m")
    calls, _ = repeat_case(identity, module_functions("dpmpp_2m"), NUMPY, 0, 0)
    assert all(isinstance(call, MadeCall) for call in calls)
    assert re.match(r"dpmpp_2m\(eta=\S+, solver='\w+'\)\(x=", str(calls[0]))
    assert "history=()" in str(calls[0]) and "history=of the step before" in str(calls[1])
    assert {"eta", "solver", "x", "sigma", "sigma_next"} <= {*calls[0].inputs()}


def module_functions(name):
    return Functions(module_of({name: public(name)}))


def test_one_pair_of_numbers_where_the_result_itself_is_compared():
    wrong = module_of({"squared_error": lambda x, y: ((x - y) ** 2).mean(axis=(1, 2))})
    result = next(r for r in run(NUMPY, against=wrong, only="law of cosines"))
    assert "the oracle has" in result.detail and not result.notes


def test_a_part_is_still_named_where_the_comparison_is_derived():
    def q_posterior(*arguments):
        mean, variance = ldmref.math.q_posterior(*arguments)
        return mean, np.sqrt(variance)

    wrong = module_of({"q_posterior": q_posterior})
    result = next(r for r in run(NUMPY, against=wrong, only="bayes rule in"))
    assert result.notes[0].startswith("variance of q_posterior: got")


def test_a_function_of_a_batch_alone_is_no_proof():
    """`--only` also runs the laws of other functions if its own compare it with itself."""
    for identity in identities():
        own = [i for i in identities() if i.function == identity.function]
        assert not all(i.by_itself or i.gradients for i in own), identity.function


def test_the_report_speaks_of_one_identity(capsys, tmp_path, monkeypatch):
    assert main(["check", "--only", "squared_error: law of cosines", "--cases", "2"]) == 0
    out = capsys.readouterr().out
    assert "the identity holds on <numpy backend, cpu, float64>, 2 cases\n" in out
    monkeypatch.chdir(tmp_path)
    (tmp_path / "answers.py").write_text("def squared_error(x, y):\n    return 0 * x[:, 0, 0]\n")
    command = ["check", "--against", "answers.py", "--only", "squared_error: law"]
    assert main(command) == 4
    assert "the identity fails: squared_error: law of cosines" in capsys.readouterr().err


def test_the_header_names_the_function_that_was_asked_for(capsys):
    for name in ("x0_from_v", "eps_from_v", "eps_from_x0", "hinge_generator_loss"):
        assert main(["check", "--only", f"{name}: ", "--cases", "1"]) == 0
        headers = re.findall(r"^(\w+)  \[", capsys.readouterr().out, re.MULTILINE)
        assert headers == [name]


@pytest.mark.parametrize("word", ["identity", "oracle", "worst", "ratio", "derived", "probable"])
def test_chapter_0_explains_the_words_of_the_report(word):
    section = CHAPTER_0.read_text("utf-8").split("## How the exercises are marked")[1]
    assert f"*{word}*" in section.split("\n## ")[0]
