"""Several prompts, negative prompts and input images; options that are typed twice."""

from __future__ import annotations

import io

import click
import numpy as np
import pytest
from PIL import Image

from ldmref.apps.cli.main import cli
from ldmref.io.images.metadata import read_parameters


def feed(monkeypatch, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def recorded(path):
    return read_parameters(path)["ldmref"]


def pixels(path):
    return np.asarray(Image.open(path))


# -- options that are typed twice -----------------------------------------------------------------


def commands(group, path=()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


OPTIONS = [
    (path, option)
    for path, command in (((), cli), *commands(cli))
    for option in command.params
    if isinstance(option, click.Option) and not option.multiple
    if option.secondary_opts or not option.is_flag  # of others only one value can be typed
]


def values_of(option):
    """Return two values that differ, as they are typed."""
    if option.secondary_opts:
        return [option.opts[0]], [option.secondary_opts[0]]
    if isinstance(option.type, click.Choice):
        return [[option.opts[0], choice] for choice in list(option.type.choices)[:2]]
    return [option.opts[0], "11"], [option.opts[-1], "12"]


COMMANDS = sorted({path for path, _ in OPTIONS})


@pytest.mark.parametrize("command", COMMANDS, ids=[" ".join(path) or "ldmref" for path in COMMANDS])
def test_no_option_takes_the_last_of_two_values_without_a_word(command, ldm, work):
    """Every option of every command that is not declared as repeatable refuses a second value."""
    wrong = []
    for path, option in OPTIONS:
        if path == command:
            first, second = values_of(option)
            ran = ldm(*path, *first, *second)
            line = (ran.err.splitlines() or [""])[0]
            refused = ran.code == 2 and line.startswith("ldmref: error[E-USAGE]: ")
            if not (refused and ("given twice" in line or "exclude" in line)):
                wrong.append(f"{option.name}: exit {ran.code}, {ran.err}")
            wrong += [f"{option.name} wrote {found.name}" for found in work.iterdir()]
    assert not wrong, "\n".join(wrong)


def test_the_list_of_options_is_complete():
    names = {" ".join(path) for path, _ in OPTIONS}
    assert {"txt2img", "run", "train", "config show", "words"} <= names and len(OPTIONS) > 250


def test_the_same_value_twice_is_one(draw, work):
    draw("txt2img", "cat", "--seed", 1, "--seed", 1, "-q", "-q", "--steps=2", "--steps", 2)
    assert [p.name for p in work.iterdir()] == ["cat-1.png"]


# -- prompts --------------------------------------------------------------------------------------


def test_every_prompt_becomes_an_image(draw, work, monkeypatch):
    (work / "list.txt").write_text("one bird\n\r\n  \ntwo birds\n", newline="")
    feed(monkeypatch, b"a fish\nan owl\n")
    draw(
        "txt2img", "red heart", "-", "-p", "dog", "-p", "cat", "--prompts", "list.txt", "--seed", 5
    )
    prompts = ["red heart", "a fish", "an owl", "dog", "cat", "one bird", "two birds"]
    for i, prompt in enumerate(prompts):
        found = recorded(f"{prompt.replace(' ', '-')}-{5 + i}.png")
        assert (found["prompt"], found["seed"], found["count"]) == (prompt, 5 + i, 1)
    assert len(list(work.glob("*.png"))) == len(prompts)


def test_each_is_what_it_is_alone_and_is_replayed(draw, work):
    draw("txt2img", "-p", "dog", "-p", "cat", "--seed", 5, "-n", "blue", "-n", "red", "-o", "a.png")
    draw("txt2img", "cat", "--seed", 6, "-n", "red", "-o", "b.png")
    assert (pixels("a-1.png") == pixels("b.png")).all()
    assert recorded("a-0.png")["negative_prompt"] == "blue"
    draw("run", "--from", "a-1.png", "-o", "c.png")
    assert (pixels("a-1.png") == pixels("c.png")).all()


def test_bare_prompts_in_quotes_and_emoji(draw, ldm, work):
    draw("txt2img", "red heart", "cat", "--seed", 1)
    draw("txt2img", "🐶", "🐱", "--seed", 1)
    names = {"red-heart-1.png", "cat-2.png", "dog-face-1.png", "cat-face-2.png"}
    assert {p.name for p in work.iterdir()} == names
    ran = ldm("txt2img", "red", "heart")
    assert ran.code == 2 and 'txt2img "red heart"' in ran.err and "-p red -p heart" in ran.err


@pytest.mark.parametrize(
    ("seeds", "count", "want"),
    [
        ("7", None, [7, 8]),
        ("7,7", None, [7, 7]),
        ("1,2,3,4", None, [1, 2, 3, 4]),
        ("7", 2, [7, 8, 9, 10]),
        ("1,2,3", None, None),
        ("1,2", 2, None),
    ],
)
def test_seeds_of_several_prompts(seeds, count, want, ldm, model_folder, work):
    flags = [] if count is None else ["-c", count]
    ran = ldm("-p", "dog", "-p", "cat", "-m", model_folder, "--seed", seeds, *flags, "-o", "a.png")
    if want is None:
        assert ran.code == 2 and "error[E-SEED]" in ran.err
        return
    assert ran.code == 0, ran.err
    assert [recorded(p)["seed"] for p in sorted(work.iterdir())] == want


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--prompts", "gone.txt"], "E-FILE"),
        (["--prompts", "."], "E-FILE"),
        (["--prompts", "empty.txt"], "E-PROMPT"),
        (["--prompts", "latin.txt"], "E-PROMPT"),
        (["-p", "-", "--prompts", "-"], "E-STDIN"),
        (["-p", "a", "-n", "b", "-n", "c"], "E-PROMPT"),
    ],
)
def test_prompts_refused(argv, code, ldm, work, monkeypatch, model_folder):
    feed(monkeypatch, b"a\nb\n")
    (work / "empty.txt").write_text("\n\n")
    (work / "latin.txt").write_bytes("café".encode("latin-1"))
    ran = ldm("txt2img", "-m", model_folder, *argv)
    assert f"error[{code}]" in ran.err and ran.err.count("\n") <= 2 and "INTERNAL" not in ran.err
    assert not list(work.glob("*.png"))


@pytest.mark.parametrize(
    ("mode", "flags", "hint"),
    [("interpolate", [], "--to"), ("invert", ["-i", "a.png"], "--edit")],
)
def test_modes_of_one_prompt(mode, flags, hint, ldm, material, model_folder):
    ran = ldm(mode, "-p", "dog", "-p", "cat", *flags, "-m", model_folder)
    assert ran.code == 2 and f"{mode} takes one prompt, not 2" in ran.err and hint in ran.err


# -- input images ---------------------------------------------------------------------------------


def test_every_input_image_is_edited(draw, material):
    Image.fromarray(255 - pixels("a.png")).save("b.png")
    draw("img2img", "cat", "-i", "a.png", "-i", "b.png", "--seed", 3, "-c", 2)
    for name, seed in (("a-cat-3", 3), ("a-cat-4", 4), ("b-cat-5", 5), ("b-cat-6", 6)):
        draw(
            "img2img",
            "cat",
            "-i",
            f"{name[0]}.png",
            "--seed",
            seed,
            "-o",
            "alone.png",
            "--overwrite",
        )
        assert (pixels(f"{name}.png") == pixels("alone.png")).all()
        assert recorded(f"{name}.png")["seed"] == seed
    draw("run", "--from", "b-cat-6.png", "-i", "b.png", "-o", "again.png")
    assert (pixels("again.png") == pixels("b-cat-6.png")).all()


def test_a_mask_for_all_or_for_each(draw, ldm, material, model_folder):
    Image.fromarray(255 - pixels("a.png")).save("b.png")
    Image.fromarray(255 - pixels("mask.png")).save("other.png")
    images = ["-i", "a.png", "-i", "b.png"]
    draw("inpaint", "cat", *images, "--mask", "mask.png", "--seed", "1,1", "-o", "x.png")
    draw(
        "inpaint",
        "cat",
        *images,
        "--mask",
        "mask.png",
        "--mask",
        "other.png",
        "--seed",
        1,
        "-o",
        "y.png",
    )
    kept = pixels("mask.png") == 0
    for i, source in enumerate(("a.png", "b.png")):
        assert (pixels(f"x-{i}.png")[kept] == pixels(source)[kept]).all()
        mine = kept if i == 0 else ~kept
        assert (pixels(f"y-{i}.png")[mine] == pixels(source)[mine]).all()
    masks = ["--mask", "mask.png"]
    for argv in ([*images, "-i", "a.png", *masks * 2], [*images[:2], *masks * 2]):
        ran = ldm("inpaint", "cat", *argv, "-m", model_folder)
        assert ran.code == 2 and "error[E-USAGE]" in ran.err and "mask" in ran.err


def test_what_belongs_to_one_image(ldm, material, model_folder):
    two = ["-i", "a.png", "-i", "wide.png", "-m", model_folder]
    for argv in (
        ["invert", "cat", "--noise", "n.npy"],
        ["img2img", "cat", "--latents", "noise.npy"],
    ):
        ran = ldm(*argv, *two)
        assert ran.code == 2 and "needs one input image" in ran.err
    ran = ldm("img2img", "cat", *two, "--seed", "1,2,3")
    assert ran.code == 2 and "error[E-SEED]" in ran.err


def test_other_modes_of_several_images(ldm, material, enlarger, painter, draw):
    for mode, model, name in (("superres", enlarger, "a.png"), ("seg2img", painter, "map.png")):
        ran = ldm(mode, "-m", model, "-i", name, "-i", name, "--seed", 1)
        assert ran.code == 0, ran.err
        stem = f"{name[:-4]}-{mode}"
        assert recorded(f"{stem}-2.png")["seed"] == 2 and recorded(f"{stem}-1.png")["seed"] == 1
    draw("invert", "cat", "-i", "a.png", "-i", "wide.png", "--edit", "dog", "--edit", "bird")
    assert {p.name for p in material.glob("*-dog.png")} == {"a-dog.png", "wide-dog.png"}
