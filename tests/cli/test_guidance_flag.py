"""`--guidance`, `ldmref guidance`, and a guidance of another package, installed as it is."""

from __future__ import annotations

import json
import sys

import pytest

from ldmref import modes
from ldmref.apps.cli.guidance import guidance_row, in_words
from ldmref.apps.cli.main import main
from ldmref.errors import UsageError
from ldmref.io.images.metadata import read_parameters
from ldmref.models.presets import preset
from ldmref.modes.guidance_parameter import parse_guidance
from ldmref.samplers import GUIDANCES, get_guidance

MODULE = "theirs_of_test_guidance"
THEIRS = '''
from dataclasses import dataclass
from typing import Annotated
from ldmref.declare import Doc, Range
from ldmref.samplers import Guidance

@dataclass(frozen=True)
class Halved(Guidance):
    """Guidance with a share of the scale."""
    name = "halved"
    share: Annotated[float, Range(0.0, 1.0), Doc("Share of the scale.")] = 0.5

    def __call__(self, predictions, sigma, cfg_scale, memory):
        uncond, cond = predictions["uncond"], predictions["cond"]
        return uncond + self.share * cfg_scale * (cond - uncond), ()

number = 3
class Other(Halved):
    name = "another_name"
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a package that offers guidances: `install(halved="module:Class")`."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    (folder / f"{MODULE}.py").write_text(THEIRS)

    def write(**points):
        info = folder / "their_package-1.2.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(
            "Metadata-Version: 2.1\nName: their-package\nVersion: 1.2\n"
        )
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        info.joinpath("entry_points.txt").write_text(f"[ldmref.guidance]\n{lines}\n")

    yield write
    sys.modules.pop(MODULE, None)


def recorded(path):
    return read_parameters(path)["ldmref"]


def test_the_flag_is_recorded_replayed_and_replaced(draw, work):
    draw(
        "txt2img", "red", "--seed", 1, "--steps", 2, "--guidance", "rescale:phi=0.5", "-o", "a.png"
    )
    assert recorded("a.png")["guidance"] == {"name": "rescale", "phi": 0.5}
    draw("run", "--from", "a.png", "-o", "b.png")
    assert (work / "a.png").read_bytes() == (work / "b.png").read_bytes()
    draw("run", "--from", "a.png", "--guidance", "apg:radius=0,eta=0.5", "-o", "c.png")
    want = {"name": "apg", "eta": 0.5, "radius": 0.0, "momentum": -0.5}
    assert recorded("c.png")["guidance"] == want
    draw("run", "--from", "c.png", "--guidance", "cfg", "-o", "d.png")
    assert "guidance" not in recorded("d.png")


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("rescal", "did you mean 'rescale'"),
        ("rescale:ph=1", "did you mean 'phi'"),
        ("rescale:phi=2", "from 0 to 1"),
        ("rescale:phi", "rescale:phi=0.7"),
    ],
)
def test_refused_in_one_line(ldm, work, flag, words):
    ran = ldm("txt2img", "red", "--guidance", flag)
    assert ran.code == 2 and "E-GUIDANCE" in ran.err and words in ran.err
    assert len(ran.err.strip().splitlines()) <= 2


@pytest.mark.parametrize("name", GUIDANCES)
def test_printed_defaults_are_read_back(name):
    defaults = guidance_row(GUIDANCES[name])["defaults"]
    text = ",".join(f"{key}={in_words(value)}" for key, value in defaults.items())
    assert get_guidance(parse_guidance(f"{name}:{text}" if text else name)) == GUIDANCES[name]()


def test_the_listing(capfd, install):
    install(halved=f"{MODULE}:Halved", cfg=f"{MODULE}:Halved")
    assert main(["guidance", "--json"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == [*GUIDANCES, "cfg", "halved"]
    assert rows[1]["defaults"] == {"phi": 0.7} and rows[1]["parameters"]["phi"]["maximum"] == 1
    assert "built-in" in rows[-2]["reason"] and rows[-1]["package"] == "their-package 1.2"
    assert main(["guidance"]) == 0
    out = capfd.readouterr().out
    assert "phi=0.7" in out and "plug-in of their-package 1.2" in out
    assert MODULE not in sys.modules


def test_a_plug_in_works_by_name_and_records_its_parameters(draw, work, install):
    install(halved=f"{MODULE}:Halved")
    draw("txt2img", "red", "--seed", 1, "--steps", 2, "--cfg", 3, "--guidance", "halved:share=1",
         "-o", "a.png")  # fmt: skip
    assert recorded("a.png")["guidance"] == {"name": "halved", "share": 1.0}
    draw("txt2img", "red", "--seed", 1, "--steps", 2, "--cfg", 3, "-o", "b.png")
    plain = recorded("b.png")
    assert recorded("a.png") == plain | {"guidance": {"name": "halved", "share": 1.0}}
    draw("run", "--from", "a.png", "-o", "c.png")
    assert (work / "a.png").read_bytes() == (work / "c.png").read_bytes()
    plan = modes.plan("txt2img", preset("tiny"), prompt="a", guidance={"name": "HALVED"})
    assert plan.params["guidance"] == {"name": "halved", "share": 0.5}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (f"{MODULE}:number", "not a subclass"),
        (f"{MODULE}:Other", "has the name 'another_name'"),
        ("no_such_module:x", "cannot be imported"),
    ],
)
def test_a_plug_in_that_is_not_a_guidance_is_named(install, value, words):
    install(mine=value)
    with pytest.raises(UsageError) as caught:
        get_guidance("mine")
    assert caught.value.code == "E-PLUGIN" and words in str(caught.value)
    assert "their-package 1.2" in str(caught.value) and caught.value.hint


def test_a_name_that_is_not_there_suggests_a_plug_in(install):
    install(halved=f"{MODULE}:Halved")
    with pytest.raises(UsageError) as caught:
        get_guidance("halve")
    assert caught.value.code == "E-GUIDANCE" and "'halved'" in caught.value.hint
