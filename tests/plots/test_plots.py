"""Plots show the numbers of schedules and runs, with labelled axes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.errors import UsageError
from ldmref.explore import record_run
from ldmref.explore.truth import Truth
from ldmref.models.presets import preset
from ldmref.plots import measure_trajectory, plot_schedule, plot_trajectory
from ldmref.samplers import SAMPLERS, SchedulerConfig, make_schedule

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def close():
    """Figures of other tests in this process do not count."""
    pyplot.close("all")
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def record(tiny):
    return record_run(tiny, prompt="red cat", seed=1, steps=4)


def lines(axes):
    """Return the lines of axes by label: x and y."""
    return {line.get_label(): np.asarray(line.get_data(), np.float64) for line in axes.lines}


# -- schedules -------------------------------------------------------------------------------------


def test_the_lines_are_the_schedules():
    config = preset("sd15")
    axes = plot_schedule(["karras", "euler", "DPM++ 2M Karras"], model=config, steps=7)
    assert len(axes) == 3
    samplers = {
        "karras": (config.scheduler.sampler, "karras"),
        "euler": ("euler", None),
        "DPM++ 2M Karras": ("dpmpp_2m", "karras"),
    }
    for label, (sampler, spacing) in samplers.items():
        sigmas = make_schedule(config.scheduler, SAMPLERS[sampler], spacing, 7).sigmas
        (i, sigma), (_, alpha_bar), (_, snr) = (lines(one)[label] for one in axes)
        assert i.tolist() == list(range(8)) and sigma.tolist() == sigmas.tolist()
        np.testing.assert_allclose(alpha_bar, 1 / (1 + sigmas**2))
        finite = sigmas > 0
        np.testing.assert_allclose(snr[finite], 1 / sigmas[finite] ** 2)
        assert np.isinf(snr[~finite]).all()
    assert [one.get_yscale() for one in axes] == ["log", "linear", "log"]
    names = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert names == list(samplers)


def test_every_axis_says_what_it_shows(record):
    for axes in (*plot_schedule("karras"), *plot_trajectory(record)):
        assert axes.get_xlabel()
        assert axes.get_ylabel() or axes.get_title(loc="left").startswith("predicted")
    for one in ("sigma", "alpha_bar", "snr", "timestep"):
        assert plot_schedule("karras", quantity=one).get_ylabel()


def test_a_model_is_plotted_with_its_own_schedule(tiny):
    config = tiny.config
    axes = plot_schedule(tiny, quantity="sigma")
    [(label, (_, sigma))] = lines(axes).items()
    sampler = SAMPLERS[config.scheduler.sampler]
    want = make_schedule(config.scheduler, sampler, None, config.defaults.steps)
    assert sigma.tolist() == want.sigmas.tolist()
    assert label == axes.get_title(loc="left") == "tiny: ddim, leading"
    for same in (config, config.scheduler):
        line = lines(plot_schedule(same, steps=5, quantity="timestep")).popitem()[1][1]
        assert line.tolist() == make_schedule(config.scheduler, sampler, None, 5).timesteps.tolist()


def test_schedules_have_labels_and_may_be_prepared(tiny):
    made = make_schedule(SchedulerConfig(), SAMPLERS["euler"], "karras", 4)
    axes = plot_schedule({"mine": made, "theirs": "ays", "s": SAMPLERS["heun"]}, quantity="sigma")
    assert list(lines(axes)) == ["mine", "theirs", "s"]
    assert lines(axes)["mine"][1].tolist() == made.sigmas.tolist()
    twice = lines(plot_schedule([made, made], quantity="sigma"))
    assert list(twice) == ["4 steps", "4 steps'"]
    # a model among them gives its forward process to the names
    both = lines(plot_schedule([tiny, "karras"], steps=4, quantity="sigma"))
    karras = make_schedule(tiny.config.scheduler, SAMPLERS["ddim"], "karras", 4)
    assert both["karras"][1].tolist() == karras.sigmas.tolist()


def test_axes_of_the_caller_are_used(record):
    figure, (left, right) = pyplot.subplots(1, 2)
    assert plot_schedule("karras", quantity="snr", ax=left) is left
    assert plot_trajectory(record, parts="distances", ax=[right]) is right
    plot_schedule("exponential", quantity="snr", ax=left)
    assert list(lines(left)) == ["karras", "exponential"] and len(figure.axes) == 2
    assert len(pyplot.get_fignums()) == 1
    with pytest.raises(UsageError, match="ax must hold 3 axes"):
        plot_schedule("karras", ax=left)
    with pytest.raises(UsageError, match="ax must hold 1 axes"):
        plot_schedule("karras", quantity="snr", ax="left")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedules": 3}, "plot_schedule takes models, schedules and names, not 3"),
        ({"schedules": []}, "plot_schedule needs at least one"),
        ({"schedules": "kerras"}, "unknown"),
        ({"schedules": "karras", "quantity": "snrs"}, "unknown quantity 'snrs'"),
        ({"schedules": "karras", "quantity": []}, "at least one quantity"),
        ({"schedules": "karras", "steps": -2}, "steps must be"),
    ],
)
def test_mistakes_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        plot_schedule(**arguments)
    assert not pyplot.get_fignums()


# -- runs ------------------------------------------------------------------------------------------


def rms(x):
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))


def test_the_numbers_of_a_run(record):
    numbers = measure_trajectory(record)
    last = record.x0[-1]
    for i in range(4):
        sigma = record.sigmas[i + 1]
        assert numbers.sigmas[i] == sigma
        assert numbers.x[i] == pytest.approx(rms(record.x[i + 1]) / np.hypot(1, sigma))
        assert numbers.x0[i] == pytest.approx(rms(record.x0[i]))
        assert numbers.to_last[i] == pytest.approx(rms(record.x0[i] - last))
    assert np.isnan(numbers.change[0]) and numbers.truth is None
    assert numbers.change[2] == pytest.approx(rms(record.x0[2] - record.x0[1]))


def test_the_lines_are_the_numbers(record):
    numbers = measure_trajectory(record)
    images, norms, distances = plot_trajectory(record)
    steps = [1, 2, 3, 4]
    want = {"predicted $x_0$": numbers.x0, "state $x / \\sqrt{1 + \\sigma^2}$": numbers.x}
    shown = {"to the last prediction": numbers.to_last, "to the prediction before": numbers.change}
    for axes, values in ((norms, want), (distances, shown)):
        assert list(lines(axes)) == list(values)
        for label, line in lines(axes).items():
            assert line[0].tolist() == steps
            np.testing.assert_array_equal(line[1], values[label])
    assert len(images.get_xticks()) == 4


def test_states_of_a_callback_give_the_same_plot(tiny, record):
    states = []
    modes.txt2img(tiny, "red cat", seed=1, count=2, batch_size=2, steps=4, callback=states.append)
    for field, got in measure_trajectory(states)._asdict().items():
        want = getattr(measure_trajectory(record), field)
        if want is not None:
            np.testing.assert_allclose(got, want, rtol=1e-4)
    other = measure_trajectory(states, image=1)
    assert not np.allclose(other.x0, measure_trajectory(states).x0)
    alone = []
    modes.txt2img(tiny, "red cat", seed=1, count=2, steps=4, callback=alone.append)
    assert len(alone) == 8
    np.testing.assert_allclose(measure_trajectory(alone, 1).x0, other.x0, rtol=1e-4)
    with pytest.raises(UsageError, match="hold no image 2"):
        plot_trajectory(states, image=2)


def test_previews_are_those_of_the_predictions():
    model = ldmref.load(backend="numpy")
    made = record_run(model, prompt="red heart", seed=1, steps=3, attention=False)
    axes = plot_trajectory(made, parts="images", images=2)
    strip = np.asarray(axes.get_images()[0].get_array())
    assert strip.shape == (16, 33, 3) and len(axes.get_xticks()) == 2
    assert [text.get_text().partition("\n")[0] for text in axes.get_xticklabels()] == ["1", "3"]
    z = made.x0[-1].reshape(16, -1)
    rgb = np.clip(made.preview.matrix @ z + made.preview.bias[:, None], 0, 1)
    np.testing.assert_allclose(strip[:, 17:], rgb.T.reshape(16, 16, 3), atol=1e-6)
    assert (strip[:, 16] == 1).all()
    middle = strip[4:12, 21:29].mean(axis=(0, 1))
    assert middle[0] > 0.7 > 0.5 > middle[1]  # a red heart


def test_the_truth_of_a_record_is_a_line(record):
    import dataclasses

    distance = np.linspace(0.0, 0.2, 5)
    truth = Truth(record.x, distance, distance[1:], 0.0)
    axes = plot_trajectory(dataclasses.replace(record, truth=truth), parts="distances")
    steps, values = lines(axes)["of the state from the converged one"]
    assert steps.tolist() == [0, 1, 2, 3, 4] and values.tolist() == distance.tolist()


@pytest.mark.parametrize("run", [[], None, "record.safetensors", [1, 2]])
def test_other_things_have_no_trajectory(run):
    with pytest.raises(UsageError, match="a record or a list of Progress") as refusal:
        plot_trajectory(run)
    assert "record_run" in refusal.value.hint


def test_parts_and_images_are_checked(record):
    with pytest.raises(UsageError, match="unknown part 'image'"):
        plot_trajectory(record, parts=["image"])
    with pytest.raises(UsageError, match="images must be"):
        plot_trajectory(record, images=0)


def test_without_matplotlib_the_error_says_what_to_install():
    code = """
import sys
sys.modules["matplotlib"] = None
import ldmref.plots
try:
    ldmref.plots.plot_schedule("karras")
except ImportError as error:
    assert "matplotlib" in str(error) and "ldmref[plot]" in error.hint, error
else:
    raise AssertionError
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_importing_the_package_does_not_import_matplotlib():
    code = "import sys, ldmref.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
