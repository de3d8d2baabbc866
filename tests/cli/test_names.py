"""Names of files: fields in braces, numbers that sort, what is refused."""

from __future__ import annotations

import pytest
from PIL import Image

from ldmref.apps.cli.file_names import expand_name, number_stems
from ldmref.apps.cli.output import Output
from ldmref.errors import UsageError


def names(to, label="cat", seeds=(3, 4), images=2):
    return [str(path) for path in expand_name(to, [label] * images, seeds)]


def test_fields():
    assert names("{seed}.png") == ["3.png", "4.png"]
    assert names("{prompt}-{index}.png") == ["cat-0.png", "cat-1.png"]
    assert names("{prompt}.png") == ["cat-0.png", "cat-1.png"]
    assert names("a.png", seeds=[1] * 101, images=101)[7] == "a-007.png"
    assert names("{index}.png", seeds=[1] * 11, images=11)[7] == "07.png"
    assert names("a.png", seeds=[1], images=1) == ["a.png"]


@pytest.mark.parametrize("to", ["a%d.png", "a%03d.png", "{sed}.png", "{}.png", "{seed:03}.png"])
def test_unknown_fields(to):
    with pytest.raises(UsageError) as caught:
        names(to)
    assert caught.value.code == "E-OUTPUT" and "{index}" in caught.value.hint


def test_no_seed_where_none_is_used():
    with pytest.raises(UsageError):
        names("{seed}.png", seeds=None)


def test_stems():
    assert number_stems(["cat"] * 2, [7, 8]) == [("cat-7", ""), ("cat-8", "")]
    assert [number for _, number in number_stems(["cat"] * 3, [7] * 3)] == ["-01", "-02", "-03"]
    assert number_stems(["cat"] * 120, [7] * 120)[4] == ("cat-7", "-005")
    assert number_stems(["cat"], None) == [("cat", "")]
    assert number_stems(["cat", "dog"], [7, 7]) == [("cat-7", ""), ("dog-7", "")]


def test_names_sort_as_they_were_drawn(draw, work):
    flags = ["--to", "a dog", "--seed", 3, "--steps", 1, "--frames", 11]
    for run in ("", "-2"):
        ran = draw("interpolate", "a cat", *flags)
        said = [line.split()[0] for line in ran.err.splitlines() if line.startswith("a-cat")]
        assert said == [f"a-cat-to-a-dog-3{run}-{i:02}.png" for i in range(1, 12)]
    draw("interpolate", "a cat", *flags, "-o", "f.png")
    assert sorted(p.name for p in work.glob("f*")) == [f"f-{i:02}.png" for i in range(11)]


def test_fields_on_the_command_line(draw, ldm, work, model_folder):
    draw("txt2img", "A cat", "--seed", "3,9", "-o", "{prompt}_{seed}.png")
    assert {p.name for p in work.iterdir()} == {"a-cat_3.png", "a-cat_9.png"}
    ran = ldm("txt2img", "cat", "-m", model_folder, "-o", "a%d.png", "-c", 2)
    assert ran.code == 2 and "use a{index}.png" in ran.err


def test_a_name_taken_while_it_is_checked(work, monkeypatch):
    output = Output(".", ["cat"], [1], None, False, False)
    found = output._next_free

    def found_and_taken(start):
        found(start)
        (work / "cat-1.png").touch()

    monkeypatch.setattr(output, "_next_free", found_and_taken)
    output.check()
    assert output.write(Image.new("RGB", (8, 8)), 0, {}) == "cat-1-2.png"


def test_two_processes_share_a_folder(work, model_folder):
    from processes import start

    flags = ["--seed", "1", "--steps", "1", "-c", "1"]
    processes = [start("txt2img", "cat", "-m", model_folder, *flags) for _ in range(4)]
    assert [p.wait(120) for p in processes] == [0] * 4
    for process in processes:
        process.communicate()
    assert {p.name for p in work.iterdir()} == {f"cat-1{n}.png" for n in ("", "-2", "-3", "-4")}
