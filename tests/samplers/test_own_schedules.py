"""Schedules of one's own: as an object, as a function, and by name from a package."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

import ldmref
from ldmref import modes
from ldmref.apps.cli.main import main
from ldmref.errors import UsageError
from ldmref.models.presets import preset
from ldmref.samplers import SAMPLERS, SPACINGS, SchedulerConfig, Spacing, get_spacing, make_schedule
from ldmref.samplers.schedule import sampling_sigmas
from ldmref.samplers.spacings import BETWEEN_ENDS, FLOW_SPACINGS, FLOW_SUMMARIES, SUMMARIES

MODULE = "theirs_of_test_own_schedules"
TABLE = sampling_sigmas(SchedulerConfig())


def straight(table, steps):
    return np.linspace(table[-1], 0.0, steps + 1)


def karras(table, steps):
    return [*BETWEEN_ENDS["karras"](steps, table[0], table[-1]), 0.0]


@pytest.fixture(scope="module")
def tiny():
    return ldmref.random_model("tiny", seed=3)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with two schedules."""
    folder = tmp_path / "site"
    info = folder / "their_package-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / f"{MODULE}.py").write_text(
        "import numpy as np\nfrom ldmref.samplers import Spacing\n"
        "def straight(table, steps):\n    return np.linspace(table[-1], 0.0, steps + 1)\n"
        "mine = Spacing(straight, 'nobody 2026')\n"
    )
    info.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\nName: their-package\nVersion: 1.2\n"
    )
    points = f"Straight = {MODULE}:mine\nplain = {MODULE}:straight\nkarras = {MODULE}:mine\n"
    info.joinpath("entry_points.txt").write_text(f"[ldmref.schedules]\n{points}")
    monkeypatch.syspath_prepend(str(folder))
    yield
    sys.modules.pop(MODULE, None)


def test_a_spacing_of_ones_own_equals_the_built_in_one_with_its_formula(tiny):
    """Karras' spacing as a function gives the image of `schedule="karras"`, bit for bit."""
    images = [
        modes.txt2img(tiny, "a", steps=4, seed=1, schedule=schedule).latents
        for schedule in ("karras", karras, Spacing(karras, "eq. 5", "theirs"))
    ]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[0], images[2])


def test_its_sigmas_and_timesteps_are_those_of_the_run(tiny):
    seen = []
    modes.txt2img(
        tiny, "a", steps=3, seed=1, schedule=straight, callback=lambda p: seen.append(p.sigma)
    )
    top = sampling_sigmas(tiny.config.scheduler)[-1]
    np.testing.assert_allclose(seen, [top * 2 / 3, top / 3, 0.0], rtol=1e-12)
    schedule = make_schedule(SchedulerConfig(), SAMPLERS["euler"], Spacing(straight), 3)
    want = make_schedule(SchedulerConfig(), SAMPLERS["euler"], None, 3, straight(TABLE, 3))
    np.testing.assert_array_equal(schedule.sigmas, want.sigmas)
    np.testing.assert_array_equal(schedule.timesteps, want.timesteps)


def test_its_name_is_recorded(tiny):
    made = modes.txt2img(tiny, "a", steps=2, seed=1, schedule=straight)
    assert made.params["schedule"] == "custom"
    made = modes.txt2img(tiny, "a", steps=2, seed=1, schedule=Spacing(straight, name="even"))
    assert made.params["schedule"] == "even" and json.dumps(made.params)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda table, steps: [3.0, 0.0], "it returned 2 sigmas, not 4"),
        (lambda table, steps: [3.0, 1.0, 1.0, 0.0], "do not decrease"),
        (lambda table, steps: [3.0, 2.0, 1.0, -1.0], "at least 0"),
        (lambda table, steps: [3.0, np.nan, 1.0, 0.0], "finite"),
        (lambda table, steps: [999.0, 666.0, 333.0, 0.0], "knows noise up to"),
        (lambda table, steps: "3210", "a list of numbers"),
        (lambda table, steps: 1 / 0, "ZeroDivisionError"),
        (lambda: None, "TypeError"),
    ],
)
def test_a_wrong_function_gives_one_clear_line_before_anything_is_loaded(function, words):
    with pytest.raises(UsageError, match=words) as caught:
        modes.plan("txt2img", preset("tiny"), prompt="a", steps=3, schedule=function)
    assert caught.value.code == "E-SCHEDULE" and "steps + 1" in caught.value.hint
    assert "\n" not in str(caught.value) and "'custom' of 3 steps" in str(caught.value)


@pytest.mark.parametrize("value", [3, 2.5, b"karras", ["karras"], Spacing])
def test_another_kind_of_value_is_refused(value):
    with pytest.raises(UsageError, match="must be a name, a Spacing or a function") as caught:
        modes.plan("txt2img", preset("tiny"), prompt="a", schedule=value)
    assert caught.value.code == "E-SCHEDULE"


def test_the_function_cannot_change_the_table():
    before = TABLE.copy()

    def careless(table, steps):
        table *= 0.5
        return straight(table, steps)

    make_schedule(SchedulerConfig(), SAMPLERS["euler"], Spacing(careless), 3)
    np.testing.assert_array_equal(sampling_sigmas(SchedulerConfig()), before)


def test_a_package_adds_schedules_by_name(package, tiny):
    assert MODULE not in sys.modules  # imported when it is asked for
    mine = get_spacing("STRAIGHT")
    assert isinstance(mine, Spacing) and mine.name == "Straight" and mine.source == "nobody 2026"
    plain = get_spacing("plain")
    assert isinstance(plain, Spacing) and plain.name == "plain"
    assert get_spacing("karras") == "karras"  # a built-in name cannot be taken
    first = modes.txt2img(tiny, "a", steps=3, seed=1, schedule="straight")
    assert first.params["schedule"] == "Straight"
    again = modes.txt2img(tiny, "a", steps=3, seed=1, schedule=first.params["schedule"])
    by_hand = modes.txt2img(tiny, "a", steps=3, seed=1, schedule=straight)
    np.testing.assert_array_equal(first.latents, again.latents)
    np.testing.assert_array_equal(first.latents, by_hand.latents)
    with pytest.raises(UsageError, match="unknown schedule 'strait'") as caught:
        get_spacing("strait")
    assert caught.value.code == "E-SCHEDULE" and "Straight" in caught.value.hint


def test_the_command_line_lists_and_takes_them(package, capsys):
    assert main(["samplers", "--schedules", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    built_in = [*SPACINGS, *FLOW_SPACINGS]
    assert [row["name"] for row in rows] == [*built_in, "Straight", "karras", "plain"]
    assert rows[3]["summary"] == SUMMARIES["karras"] and MODULE not in sys.modules
    assert rows[-2]["reason"] and not rows[-1]["reason"]  # a built-in's name
    assert main(["samplers", "--schedules"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(built_in) + 3 and "plug-in of their-package 1.2" in lines[-1]
    assert main(["txt2img", "cat", "--schedule", "strait", "-m", "no-such-model"]) != 0


@pytest.mark.parametrize("name", SPACINGS)
def test_a_flow_has_schedules_of_its_own(name):
    config = SchedulerConfig(prediction_type="flow")
    said = f"schedule '{name}' is for models of diffusion, and this one is of flow matching"
    with pytest.raises(UsageError, match=said) as caught:
        make_schedule(config, SAMPLERS["euler"], name, 4)
    assert caught.value.hint == "leave it out, or take flow or flow_table"


def test_every_spacing_has_a_line():
    assert tuple(FLOW_SUMMARIES) == FLOW_SPACINGS and all(FLOW_SUMMARIES.values())
    assert tuple(SUMMARIES) == SPACINGS and all(SUMMARIES.values())


def test_it_is_plotted_beside_built_in_ones():
    from ldmref.plots.schedule import label_of, make

    even = Spacing(straight, name="even")
    schedule = make(even, SchedulerConfig(), 3)
    assert label_of(even) == "even"
    np.testing.assert_array_equal(schedule.sigmas, straight(TABLE, 3))
