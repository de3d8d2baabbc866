"""Grids: cells equal the images of their parameters, axes are checked, distances mean something."""

import json
import threading

import numpy as np
import pytest
from PIL import Image

import ldmref
from ldmref import modes
from ldmref.errors import Cancelled, UsageError
from ldmref.explore import make_grid, plan_grid
from ldmref.explore.grid import GridCell, measure_distance

SAMPLERS = ("sampler", ["euler", "dpmpp_2m"])
STEPS = ("steps", [2, 4])


@pytest.fixture(scope="module")
def tiny():
    return ldmref.random_model("tiny")


def test_each_cell_is_the_image_of_its_parameters(tiny):
    grid = make_grid(tiny, SAMPLERS, STEPS, prompt="a cat", seed=3, distance=False)
    for i, steps in enumerate(STEPS[1]):
        for j, sampler in enumerate(SAMPLERS[1]):
            cell = grid.cells[i][j]
            again = modes.txt2img(tiny, "a cat", seed=3, sampler=sampler, steps=steps)
            assert cell.image.tobytes() == again[0].tobytes()
            assert (cell.params["sampler"], cell.params["steps"]) == (sampler, steps)
            assert cell.distance is None


def test_a_third_axis_makes_sheets_of_two(tiny):
    seeds = ("seed", [3, 5, 8])
    grid = make_grid(tiny, SAMPLERS, STEPS, z=seeds, prompt="a cat", distance=False)
    assert len(grid.sheets) == 3 and len(grid.cells) == 6
    for seed, sheet in zip(seeds[1], grid.sheets, strict=True):
        alone = make_grid(tiny, SAMPLERS, STEPS, prompt="a cat", seed=seed, distance=False)
        assert sheet.to_json() == alone.to_json()
        assert sheet.sheet().tobytes() == alone.sheet().tobytes()
        places = [[(cell.sheet, cell.row, cell.column) for cell in row] for row in sheet.cells]
        k = seeds[1].index(seed)
        assert places == [[(k, 0, 0), (k, 0, 1)], [(k, 1, 0), (k, 1, 1)]]
    whole = grid.sheet()
    assert (whole.width, whole.height) > grid.sheets[0].sheet().size
    parts = np.asarray(whole).reshape(3, -1, whole.width, 3)
    for part, sheet in zip(parts, grid.sheets, strict=True):
        assert (part[-sheet.sheet().height :] == np.asarray(sheet.sheet())).all()
    data = json.loads(json.dumps(grid.to_json()))
    assert data["z"] == {"name": "seed", "values": [3, 5, 8]}
    assert [row[0]["params"]["seed"] for row in data["cells"]] == [3, 3, 5, 5, 8, 8]
    assert repr(grid) == "<Grid of txt2img: sampler and steps and seed, 2 x 2 x 3 images>"


def test_a_third_axis_without_rows(tiny):
    grid = make_grid(tiny, STEPS, z=("seed", [3, 5]), prompt="a cat", distance=False)
    seeds = [[cell.params["seed"] for cell in sheet.cells[0]] for sheet in grid.sheets]
    assert seeds == [[3, 3], [5, 5]] and grid.y is None


@pytest.mark.parametrize(
    ("z", "words"),
    [
        (SAMPLERS, "two axes are sampler"),
        (("seed", range(101)), "a grid may have 400 cells, not 404"),
        ("seed", "must be a name and its values"),
    ],
)
def test_a_wrong_third_axis_is_refused(tiny, z, words):
    with pytest.raises(UsageError, match=words):
        plan_grid(tiny, SAMPLERS, STEPS, z=z, prompt="a")


def test_all_cells_share_a_random_seed(tiny):
    grid = make_grid(tiny, STEPS, prompt="a cat", distance=False)
    assert len({cell.params["seed"] for cell in grid.cells[0]}) == 1


@pytest.mark.slow
def test_more_steps_are_closer_to_the_converged_image():
    model = ldmref.load()
    grid = make_grid(model, ("steps", [3, 12]), prompt="red heart", seed=1, sampler="euler")
    few, many = (cell.distance for cell in grid.cells[0])
    assert 0 < many < few / 2


def test_distance_is_a_root_mean_square():
    black = Image.new("RGB", (2, 2))
    one = Image.fromarray(np.array([[[10, 0, 0], [0] * 3], [[0] * 3, [0] * 3]], np.uint8))
    assert measure_distance(black, one) == pytest.approx(10 / np.sqrt(12))
    assert measure_distance(one, one) == 0.0


def test_cells_with_the_same_trajectory_share_a_converged_image(tiny):
    cache = {}
    planned = plan_grid(tiny, SAMPLERS, ("seed", [1, 2]), prompt="a cat", steps=2)
    assert sum(isinstance(event, GridCell) for event in planned.generate(tiny, cache=cache)) == 4
    assert len(cache) == 2


def test_the_sheet_holds_every_image_and_json_every_parameter(tiny):
    grid = make_grid(tiny, SAMPLERS, STEPS, prompt="a cat", seed=3, distance=False)
    sheet = np.asarray(grid.sheet())
    for row in grid.cells:
        for cell in row:
            small = np.asarray(cell.image)
            windows = np.lib.stride_tricks.sliding_window_view(sheet, small.shape)
            assert (windows == small).all((-3, -2, -1)).any()
    data = json.loads(json.dumps(grid.to_json()))
    assert data["x"] == {"name": "sampler", "values": ["euler", "dpmpp_2m"]}
    assert data["cells"][1][0]["params"]["steps"] == 4
    assert "2 x 2" in repr(grid)


@pytest.mark.parametrize(
    ("x", "y", "more", "words"),
    [
        (("stepps", [1]), None, {}, "did you mean 'steps'"),
        (("steps", []), None, {}, "needs a list"),
        (("prompt", "cat"), None, {}, "needs a list"),
        (("count", [1, 2]), None, {}, "cannot be the axis"),
        (STEPS, STEPS, {}, "two axes are steps"),
        (STEPS, None, {"steps": 3}, "is an axis and has a value"),
        (("seed", range(21)), ("steps", range(1, 21)), {}, "400 cells"),
        (("steps", [0]), None, {}, "steps must"),
        (STEPS, None, {"count": 2}, "one image"),
        (STEPS, None, {"prompt": ["a", "b"]}, "one image"),
    ],
)
def test_wrong_axes_are_refused_before_anything_is_computed(tiny, x, y, more, words):
    with pytest.raises(UsageError) as error:
        plan_grid(tiny.config, x, y, **{"prompt": "a", "distance": False} | more)
    assert words in f"{error.value} {error.value.hint}"


def test_a_mode_without_an_image_cannot_be_a_grid(tiny):
    image = Image.new("RGB", (16, 16))
    with pytest.raises(UsageError, match="generates no image"):
        plan_grid(tiny, STEPS, mode="invert", prompt="a", image=image)


def test_cells_arrive_one_by_one_and_a_grid_can_be_cancelled(tiny):
    planned = plan_grid(tiny, SAMPLERS, STEPS, prompt="a", seed=1, distance=False)
    cancel = threading.Event()
    seen = []
    with pytest.raises(Cancelled):
        for event in planned.generate(tiny, cancel):
            if isinstance(event, GridCell):
                seen.append((event.row, event.column))
                cancel.set()
    assert seen == [(0, 0)]
