"""`ldmref grid`: the notation of axes, the files, and its refusals."""

import json

import pytest
from PIL import Image

from ldmref.apps.cli.grid import read_axis_flag
from ldmref.apps.foreign import ForeignValue
from ldmref.errors import UsageError


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("sampler=euler,heun", "sampler", ["euler", "heun"]),
        ("steps=5:20:5", "steps", [5, 10, 15, 20]),
        ("steps=3:5", "steps", [3, 4, 5]),
        ("steps=8,16", "steps", [8, 16]),
        ("cfg=1:2:0.25", "cfg_scale", [1.0, 1.25, 1.5, 1.75, 2.0]),
        ("guidance_scale=3", "cfg_scale", [ForeignValue("guidance_scale", 3.0)]),
        ("seed=1,2", "seed", [1, 2]),
        ("prompt=a cat|a dog, asleep", "prompt", ["a cat", "a dog, asleep"]),
        ("rng=philox,torch", "rng", ["philox", "torch"]),
        ("strict_prompt=true,false", "strict_prompt", [True, False]),
    ],
)
def test_notation(text, name, values):
    assert read_axis_flag("txt2img", text, "x") == (name, values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps", "NAME=VALUES"),
        ("steps=", "NAME=VALUES"),
        ("stpes=1", "did you mean 'steps'"),
        ("steps=a", "must be a number"),
        ("steps=1:2:0", "no values"),
        ("steps=9:1", "no values"),
        ("steps=1:500", "more than 100"),
        ("strict_prompt=yes", "true or false"),
    ],
)
def test_wrong_notation(text, words):
    with pytest.raises(UsageError) as error:
        read_axis_flag("txt2img", text, "x")
    assert words in f"{error.value} {error.value.hint}"


def test_a_sheet_and_its_numbers_are_written(draw, ldm, work):
    axes = ("-x", "sampler=euler,heun", "-y", "steps=2,3")
    ran = draw("grid", "a cat", *axes, "--seed", "5", "--no-distance", "--json")
    [sheet] = work.glob("*.png")
    [numbers] = work.glob("*.json")
    assert (sheet.stem, numbers.stem) == ("a-cat-grid-5",) * 2
    assert Image.open(sheet).width > 2 * 16
    written = json.loads(numbers.read_text())
    printed = json.loads(ran.out)
    assert printed.pop("path") == sheet.name and printed == written
    assert [cell["params"]["steps"] for [cell, _] in written["cells"]] == [2, 3]
    described = ldm("info", sheet)
    assert described.code == 0 and "grid of 4 images" in described.out


def test_a_third_axis_is_below_the_first_sheet(draw, work):
    axes = ("-x", "sampler=euler,heun", "-y", "steps=2,3", "-z", "seed=5,6")
    draw("grid", "a cat", *axes, "--no-distance", "-o", "g.png")
    draw("grid", "a cat", *axes[:4], "--seed", "6", "--no-distance", "-o", "h.png")
    both, second = (Image.open(work / name) for name in ("g.png", "h.png"))
    assert both.size == (second.width, both.height)
    bottom = both.crop((0, both.height - second.height, *both.size))
    assert bottom.tobytes() == second.tobytes()
    cells = json.loads((work / "g.json").read_text())["cells"]
    assert [row[0]["params"]["seed"] for row in cells] == [5, 5, 6, 6]


def test_with_an_image_the_grid_is_img2img(draw, work):
    Image.new("RGB", (16, 16), "red").save("red.png")
    draw("grid", "a cat", "-i", "red.png", "-x", "strength=0.3,0.6", "-o", "g.png", "--no-distance")
    cells = json.loads((work / "g.json").read_text())["cells"]
    assert [cell["params"]["strength"] for cell in cells[0]] == [0.3, 0.6]


def test_distances_are_in_the_file(draw, work):
    draw("grid", "a cat", "-x", "steps=2,4", "--seed", "1", "-o", "g.png")
    [row] = json.loads((work / "g.json").read_text())["cells"]
    assert all(cell["distance"] >= 0 for cell in row)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a",), "Missing option"),
        (("a", "-x", "steps=1", "-y", "steps=2"), "two axes are steps"),
        (("a", "-x", "steps=1", "--steps", "2"), "is an axis and has a value"),
        (("-x", "steps=1"), "no prompt"),
        (("a", "-x", "prompt=b|c"), "prompt is an axis"),
        (("-p", "a", "-p", "b", "-x", "steps=1"), "one prompt"),
        (("a", "-x", "steps=1", "--strength", "0.5"), "no effect"),
        (("a", "-x", "steps=0,1"), "steps must"),
        (("a", "-x", "steps=1", "-o", "-", "--json"), "both want standard output"),
    ],
)
def test_refusals_come_before_the_weights(ldm, model_folder, work, arguments, words):
    ran = ldm("grid", "-m", model_folder, *arguments)
    assert ran.code == 2 and words.lower() in ran.err.lower(), ran.err
    assert not list(work.iterdir())


def test_existing_files_are_kept(ldm, model_folder, work):
    (work / "g.json").write_text("mine")
    arguments = ("a", "-x", "steps=1", "-o", "g.png", "--no-distance")
    ran = ldm("grid", "-m", model_folder, *arguments)
    assert ran.code == 8 and (work / "g.json").read_text() == "mine"
    assert not (work / "g.png").exists()
    assert ldm("grid", "-m", model_folder, *arguments, "--overwrite").code == 0


def test_a_setting_gives_way_to_an_axis(draw, work):
    (work / "ldmref.toml").write_text("[defaults]\nsteps = 7\n")
    draw("grid", "a", "-x", "steps=1,2", "-o", "g.png", "--no-distance")
    [row] = json.loads((work / "g.json").read_text())["cells"]
    assert [cell["params"]["steps"] for cell in row] == [1, 2]
